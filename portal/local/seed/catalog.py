"""What is deployed and where to: everything that must be there before a rollout can be."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db.backends.utils import CursorWrapper

from deployments import access
from deployments.domain import canonical
from deployments.models import Agent, Environment, Membership, Region, Service, Team
from portal.accounts.models import User
from portal.local.seed.ids import Kind, make
from portal.local.seed.size import PLACES, SHOWCASE, Size

NOUNS = ("orders", "billing", "search", "catalog", "mail", "login", "basket", "stock", "prices", "reviews")
ROLES = ("api", "worker", "web", "sync", "export", "index", "cache", "proxy")
MEMBER = "seeded-member"
"""Deployer in the first team, which has the most services, and in no other."""
CONFIGS_FROM_RELEASES = 5
"""Releases that share a configuration."""

# The numbers of all rows that follow hang on these two.
NUMBERED = """
CREATE TEMPORARY TABLE seed_service ON COMMIT DROP AS
SELECT row_number() OVER (ORDER BY id)::int AS number, id, name FROM deployments_service;
ALTER TABLE seed_service ADD PRIMARY KEY (number);

CREATE TEMPORARY TABLE seed_place ON COMMIT DROP AS
SELECT place.number::int - 1 AS place, environment.name AS environment, environment.id AS environment_id,
       region.position, region.id AS region_id, region.name AS region
FROM unnest(%(places)s::text[]) WITH ORDINALITY AS place(name, number)
JOIN deployments_environment environment ON environment.name = place.name
JOIN deployments_region region ON region.environment_id = environment.id;

CREATE TEMPORARY TABLE seed_target ON COMMIT DROP AS
SELECT service.number AS service, place.place, place.region_id, copy.number AS copy,
       row_number() OVER (ORDER BY service.number, place.place, copy.number, place.position) AS number
FROM seed_service service CROSS JOIN seed_place place CROSS JOIN LATERAL (
    SELECT generate_series(0, CASE WHEN service.number = %(showcase)s AND place.environment = 'prod'
                                   THEN (%(targets)s::int - 1 - place.position) / %(regions)s ELSE 0 END)
) AS copy(number)
WHERE service.number <> %(showcase)s OR place.environment <> 'prod' OR place.position < %(targets)s;
CREATE INDEX ON seed_target (service, place, number);
ANALYZE seed_service, seed_place, seed_target
"""

RELEASES = """
INSERT INTO deployments_configsnapshot (id, created_at, service_id, number, base, overlays, digest,
    created_by)
SELECT pg_temp.seed_id(made.ms, %(config)s, pg_temp.release_number(service.number, made.k)),
       pg_temp.at(made.ms), service.id, made.number, (made.body::jsonb) -> 'base', '{}',
       pg_temp.digest(made.body), 'ci'
FROM seed_service service CROSS JOIN generate_series(1, %(releases)s, %(shared)s) AS k CROSS JOIN LATERAL (
    SELECT k, (k - 1) / %(shared)s + 1 AS number, pg_temp.release_ms(service.number, k) AS ms,
           replace(%(body)s, '@number', ((k - 1) / %(shared)s + 1)::text) AS body
) AS made ORDER BY 1;

INSERT INTO deployments_artifact (id, created_at, digest, size_bytes, media_type, filename)
SELECT pg_temp.seed_id(pg_temp.release_ms(service.number, k), %(artifact)s,
                       pg_temp.release_number(service.number, k)),
       pg_temp.at(pg_temp.release_ms(service.number, k)),
       pg_temp.digest('artifact ' || %(seed)s || ' ' || service.name || ' ' || k),
       1000000 + floor(pg_temp.dice(pg_temp.release_number(service.number, k), 20) * 90000000)::bigint,
       'application/gzip', service.name || '-1.' || k || '.tar.gz'
FROM seed_service service CROSS JOIN generate_series(1, %(releases)s) AS k ORDER BY 1;

INSERT INTO deployments_release (id, created_at, service_id, version, artifact_id, config_id, created_by,
    commit_sha, commit_message, branch, author, committed_at, repository_url, pull_request_url, build_url)
SELECT pg_temp.release_id(service.number, k), pg_temp.at(made.ms), service.id, '1.' || k,
       pg_temp.seed_id(made.ms, %(artifact)s, made.number),
       pg_temp.seed_id(pg_temp.release_ms(service.number, made.first), %(config)s,
                       pg_temp.release_number(service.number, made.first)),
       'ci', substr(pg_temp.digest('commit ' || made.number), 8, 40),
       (%(changes)s::text[])[1 + floor(pg_temp.dice(made.number, 21) * 5)::int]
           || ' (#' || made.number || ')',
       'main', (%(authors)s::text[])[1 + floor(pg_temp.dice(made.number, 22) * 5)::int],
       pg_temp.at(made.ms - 1800000), '', '', ''
FROM seed_service service CROSS JOIN generate_series(1, %(releases)s) AS k CROSS JOIN LATERAL (
    SELECT pg_temp.release_ms(service.number, k) AS ms, pg_temp.release_number(service.number, k) AS number,
           k - (k - 1) %% %(shared)s AS first
) AS made ORDER BY 1;

ANALYZE deployments_configsnapshot, deployments_artifact, deployments_release
"""
AUTHORS = ["Ada", "Grace", "Edsger", "Barbara", "Donald"]
CHANGES = [
    "Answer an empty basket with an empty list",
    "Keep the connection while the pool has room",
    "Say which field was refused",
    "Read prices once a minute",
    "Update dependencies",
]


def service_name(number: int) -> str:
    if number == SHOWCASE:
        return "showcase"
    return f"{NOUNS[number % len(NOUNS)]}-{ROLES[number // len(NOUNS) % len(ROLES)]}-{number:05}"


def make_catalog(size: Size, cursor: CursorWrapper) -> Iterator[str]:
    """Yields what it makes next."""
    yield "teams and people"
    teams = _teams(size)
    _members(size, teams)
    yield "environments, agents and services"
    _environments(size)
    _agents(size)
    Service.objects.bulk_create(
        (
            Service(
                id=make(size, size.founded + timedelta(milliseconds=number), Kind.SERVICE, number),
                created_at=size.founded + timedelta(milliseconds=number),
                team=teams[_team_of(size, number)],
                name=service_name(number),
                description=f"Service {number} of {size.services}",
                repository_url=f"https://git.example/{service_name(number)}",
            )
            for number in range(1, size.services + 1)
        ),
        batch_size=2000,
    )
    yield "configurations, artifacts and releases"
    cursor.execute(
        NUMBERED,
        {
            "places": list(PLACES),
            "showcase": SHOWCASE,
            "targets": size.targets,
            "regions": len(PLACES["prod"]),
        },
    )
    body = canonical.canonical_json({"base": configuration(), "overlays": {}}).decode()
    values: dict[str, Any] = {
        "config": Kind.CONFIG,
        "artifact": Kind.ARTIFACT,
        "releases": size.releases,
        "shared": CONFIGS_FROM_RELEASES,
        "seed": size.seed,
        "body": body,
        "authors": AUTHORS,
        "changes": CHANGES,
    }
    cursor.execute(RELEASES, values)


def configuration() -> dict[str, Any]:
    """`@number` stands for the number of the configuration, which makes each another one."""
    return {
        "process": {"command": ["python3", "app.py"]},
        "env": {"PORT": "${target.port}", "VERSION": "${version}", "SETTINGS": "@number"},
        "health": {"kind": "http", "port": "${target.port}", "path": "/healthz"},
    }


def _team_of(size: Size, number: int) -> int:
    """Index of the team: the first has the showcase and many more."""
    return 0 if number <= size.large_team else 1 + number % (size.teams - 1)


def _teams(size: Size) -> list[Team]:
    return Team.objects.bulk_create(
        Team(
            id=make(size, size.founded, Kind.TEAM, number),
            created_at=size.founded,
            name="platform" if number == 1 else f"team-{number:03}",
            title=f"Team {number}",
        )
        for number in range(1, size.teams + 1)
    )


def _members(size: Size, teams: list[Team]) -> None:
    """Each person owns one team and deploys in the next one."""
    people = User.objects.bulk_create(
        User(
            id=make(size, size.founded, Kind.USER, number),
            username=f"seeded-{number:03}" if number else MEMBER,
            # Nobody logs in with this: no password has such a hash.
            password="!",  # noqa: S106
            date_joined=size.founded,
        )
        for number in range(size.teams + 1)
    )
    roles = [(people[0], teams[0], Membership.Role.DEPLOYER)]
    for number, person in enumerate(people[1:]):
        roles.append((person, teams[number], Membership.Role.OWNER))
        roles.append((person, teams[(number + 1) % len(teams)], Membership.Role.DEPLOYER))
    memberships = Membership.objects.bulk_create(
        Membership(
            id=make(size, size.founded, Kind.MEMBERSHIP, number),
            created_at=size.founded,
            user=person,
            team=team,
            role=role,
        )
        for number, (person, team, role) in enumerate(roles, 1)
    )
    for membership in memberships:
        access.project(membership)


def _environments(size: Size) -> None:
    number = 0
    for place, (name, regions) in enumerate(PLACES.items(), 1):
        environment = Environment.objects.create(
            id=make(size, size.founded, Kind.ENVIRONMENT, place),
            created_at=size.founded,
            name=name,
            tier=name,
        )
        for position, region in enumerate(regions):
            number += 1
            Region.objects.create(
                id=make(size, size.founded, Kind.REGION, number),
                created_at=size.founded,
                environment=environment,
                name=region,
                position=position,
            )


def _agents(size: Size) -> None:
    Agent.objects.bulk_create(
        Agent(
            id=make(size, size.founded, Kind.AGENT, number),
            created_at=size.founded,
            name=f"host-{number:04}",
            # Nobody holds the private half.
            public_key=number.to_bytes(32, "big"),
            hostname=f"host-{number:04}.example",
            software="1.0",
            connected_at=size.founded,
            last_seen_at=size.until,
        )
        for number in range(1, size.agents + 1)
    )
