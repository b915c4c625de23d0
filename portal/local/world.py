"""The demo's world: a person to log in as, a team, a service, an environment with regions, its targets.

Made by the same commands that the API and the pages call. Imported only after Django is set up.
"""

import secrets
from pathlib import Path

from django.db import transaction

from deployments.domain.actor import Actor
from deployments.models import Agent, Region, Service, Target
from deployments.services.agents import create_join_token
from deployments.services.catalog import create_environment, create_service, create_target
from deployments.services.teams import create_team
from portal.accounts.models import User
from portal.accounts.tokens import create_api_token
from portal.local.files import private_directory, write_private
from portal.local.layout import REGIONS, TARGETS_PER_REGION, Layout, Memory, StrangeDatabase

ACTOR = Actor.system("make up")
TEAM, SERVICE, ENVIRONMENT = "shop", "orders", "prod"
USERNAME = "demo"
# A quarter of the targets at a time, and all regions in each batch; a second of watching in between.
STRATEGY = {"name": "rolling", "batch": "25%", "bake_seconds": 1}


def ensure(layout: Layout) -> Memory:
    """What is remembered, or a new world. All of it is there afterwards, or nothing."""
    known = Memory.load(layout)
    if known is not None and User.objects.filter(username=known.username).exists():
        return known
    if User.objects.filter(username=USERNAME).exists():
        raise StrangeDatabase(
            f"The database holds a demo already, but {layout.state_dir} does not know its log-in. "
            "Empty the database that DATABASE_URL names, or name another."
        )
    with transaction.atomic():
        memory = _person(layout)
        _catalog(layout)
    memory.save(layout)
    return memory


def join_tokens(layout: Layout) -> dict[str, Path]:
    """By region, the file with the join token of an agent that has yet to enrol."""
    directory = private_directory(layout.state_dir / "join")
    enrolled = set(Agent.objects.values_list("name", flat=True))
    files = {}
    for region in REGIONS:
        name = f"demo-{region}"
        if name not in enrolled:
            targets = Target.objects.filter(service__name=SERVICE, region__name=region)
            ids = list(targets.values_list("id", flat=True))
            _, text = create_join_token(actor=ACTOR, agent_name=name, target_ids=ids)
            files[region] = directory / region
            write_private(files[region], text)
    return files


def _person(layout: Layout) -> Memory:
    password = secrets.token_urlsafe(9)
    user = User.objects.create_superuser(USERNAME, password=password)
    _, token = create_api_token(actor=ACTOR, user_id=user.pk, name="make up")
    return Memory(username=USERNAME, password=password, token=token, demo_port=layout.demo_port)


def _catalog(layout: Layout) -> None:
    team = create_team(actor=ACTOR, name=TEAM, title="Shop")
    environment = create_environment(actor=ACTOR, name=ENVIRONMENT, tier="prod", regions=REGIONS)
    service: Service = create_service(
        actor=ACTOR, team_id=team.pk, name=SERVICE, description="The sample service", strategy=STRATEGY
    )
    ports = iter(layout.target_ports())
    for name in REGIONS:
        region = Region.objects.get(environment=environment, name=name)
        for number in range(1, TARGETS_PER_REGION + 1):
            create_target(
                actor=ACTOR,
                service_id=service.pk,
                region_id=region.pk,
                name=f"{SERVICE}-{name}-{number}",
                variables={"port": str(next(ports))},
            )
