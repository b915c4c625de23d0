"""Drift: what it is, how it is said, and when it stands on a target."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from audit.models import Entry
from deployments import protocol
from deployments.agents import observations
from deployments.agents.observations import Observation
from deployments.domain import drift
from deployments.domain.drift import Cause, Expected, Repair
from deployments.models import Environment, Event, Region, Service, Target, Task
from deployments.reads import drift as reads
from tests.engine.driver import Driver
from tests.fixtures import Person, World

R, OTHER = "r1", "r2"
EXPECTED = Expected(R, "sha256:a", "sha256:c")


def report(**fields: Any) -> protocol.TargetReport:
    right = {
        "target_id": "t",
        "status": "running",
        "health": "healthy",
        "release_id": R,
        "artifact_digest": "sha256:a",
        "config_digest": "sha256:c",
        "current": R,
    }
    return protocol.TargetReport(**right | fields)


@pytest.mark.parametrize(
    ("fields", "found", "said"),
    [
        ({}, None, ""),
        ({"current": "", "artifact_digest": "", "config_digest": ""}, None, ""),
        ({"health": "unhealthy"}, None, ""),
        ({"restarts": 3, "ended": "was ended by SIGKILL"}, None, ""),
        ({"release_id": OTHER, "current": OTHER}, Cause.RELEASE, "Another release runs than 1.0"),
        ({"release_id": "", "status": "empty"}, Cause.RELEASE, "Nothing is deployed there any more"),
        ({"current": OTHER}, Cause.RELEASE, "The link to 1.0 was switched by hand: it leads to r2."),
        ({"current": "no link"}, Cause.RELEASE, "The link to 1.0 is gone."),
        ({"artifact_digest": "sha256:b"}, Cause.RELEASE, "Another release runs than 1.0"),
        ({"status": "stopped"}, Cause.PROCESS, "The process of 1.0 does not run."),
        (
            {"status": "crashed", "restarts": 2, "ended": "was ended by SIGKILL"},
            Cause.PROCESS,
            "The process of 1.0 does not run: it was ended by SIGKILL; started again twice.",
        ),
        ({"status": "starting", "restarts": 7}, Cause.PROCESS, "does not run; started again 7 times."),
        ({"modified": ("app.py",)}, Cause.FILES, "Files of 1.0 were changed on the target: app.py."),
        ({"modified": ("config/a", "b", "c", "d", "e")}, Cause.FILES, "config/a, b, c and 2 more."),
        (
            {"modified": ("config/a", "release.json")},
            Cause.CONFIG,
            "The configuration of 1.0 was changed on the target: config/a, release.json.",
        ),
        ({"config_digest": "sha256:d"}, Cause.CONFIG, "was changed on the target: it is another one."),
        ({"modified": ("app.py",), "status": "crashed"}, Cause.PROCESS, "The process of 1.0 does not run."),
    ],
)
def test_every_difference_has_its_cause_and_its_sentence(
    fields: dict[str, Any], found: Cause | None, said: str
) -> None:
    seen = report(**fields)
    assert drift.cause(EXPECTED, seen) == found
    assert said in drift.sentence(found or "", seen, "1.0")


def test_where_nothing_was_sent_nothing_should_run() -> None:
    assert drift.cause(Expected(), report(release_id="", status="empty", current="")) is None
    seen = report()
    assert drift.cause(Expected(), seen) is Cause.RELEASE
    assert drift.sentence("release", seen, "") == "A release runs there that nobody sent: r1."


def minutes(count: float) -> datetime:
    return datetime(2026, 5, 1, tzinfo=UTC) + timedelta(minutes=count)


def repair(began: float, ended: float) -> Repair:
    return Repair(minutes(began), minutes(ended))


@pytest.mark.parametrize(
    ("repairs", "drifted", "due"),
    [
        ([], 100, 100),
        ([(0, 1)], 100, 100),
        ([(97, 98)], 99, 99),  # a minute after the last repair is over already
        ([(98, 99)], 99.5, 100),
        ([(98, 99)], 50, 100),  # it failed: the drift is the same as before
        ([(98, 99), (96, 97)], 99.5, 104),
        ([(98, 99), (92, 93), (90, 91)], 99.5, 129),
        ([(98, 99), (68, 69), (38, 39), (32, 33), (30, 31)], 99.5, 129),
        ([(98, 99), (20, 21)], 99.5, 100),
    ],
)
def test_a_repair_that_does_not_hold_waits_longer_and_longer(
    repairs: list[tuple[float, float]], drifted: float, due: float
) -> None:
    earlier = [repair(began, ended) for began, ended in repairs]
    assert max(drift.next_repair_at(earlier, minutes(drifted)), minutes(drifted)) == minutes(due)


def test_the_outlook_says_when_and_why_not_at_once() -> None:
    held = drift.outlook([repair(98, 99), repair(96, 97)], minutes(99.5), minutes(100))
    assert held == "The last 2 repairs did not hold; the next one starts at 01:44:00 UTC."
    assert "in a moment" in drift.outlook([], minutes(99), minutes(100))
    assert "in a moment" in drift.outlook([repair(90, 91)], minutes(95), minutes(96))


# On targets.


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def standing(driver: Driver, orders: Service) -> Service:
    """The service with 1.0 everywhere, as its agents report."""
    driver.deployed(orders, "1.0")
    says(*orders.targets.all())
    assert not orders.targets.exclude(drift="").exists()
    return orders


def as_it_should(target: Target) -> protocol.TargetReport:
    release = target.release
    return report(
        target_id=str(target.id),
        release_id=str(release.id) if release else "",
        artifact_digest=release.artifact.digest if release else "",
        config_digest=release.config.digest if release else "",
        current=str(release.id) if release else "",
    )


def says(*targets: Target, **fields: Any) -> None:
    """The agents' heartbeats."""
    said = []
    for target in targets:
        assert target.agent_id is not None
        target.refresh_from_db()
        seen = msgspec.structs.replace(as_it_should(target), **fields)
        said.append(Observation(target.agent_id, seen))
    observations.observe(said)
    for target in targets:
        target.refresh_from_db()


def test_drift_stands_on_the_target_since_it_was_seen_until_it_is_gone(standing: Service) -> None:
    target = standing.targets.earliest("name")
    says(target, modified=("app.py",))
    since = target.drift_since
    assert target.drift == "files"
    assert since is not None
    assert since == target.reported_at
    says(target, modified=("app.py", "b.py"))
    assert (target.drift, target.drift_since) == ("files", since)
    says(target, status="crashed")
    assert target.drift == "process"
    assert target.drift_since > since
    says(target)
    assert (target.drift, target.drift_since) == ("", None)


def test_drift_is_evidence_when_it_comes_and_when_it_goes(standing: Service) -> None:
    target = standing.targets.earliest("name")
    before = Entry.objects.count()
    for _ in range(2):
        says(target, modified=("app.py",))
    for _ in range(2):
        says(target)
    came, went = Entry.objects.order_by("id")[before:]
    assert (came.verb, came.actor_kind, came.object_id) == ("target.drift", "agent", str(target.id))
    assert (came.before, came.after) == ({"drift": ""}, {"drift": "files"})
    assert came.reason == "Files of 1.0 were changed on the target: app.py."
    assert (went.before, went.after) == ({"drift": "files"}, {"drift": ""})


def test_a_target_that_is_being_moved_does_not_drift(
    driver: Driver, standing: Service, django_capture_on_commit_callbacks: Any
) -> None:
    """Not while it is activated, nor between two attempts, and again when it has come to rest."""
    rollout = driver.tick(driver.start(standing, "2.0", batch=1))
    driver.answer(rollout)
    task = Task.objects.get(rollout=rollout, kind="activate")
    target = task.target
    assert target.release_id == rollout.release_id
    says(target, release_id="what-ran-before", status="stopped")
    assert target.drift == ""
    driver.report(task)
    driver.tick(rollout)
    says(target)
    assert target.drift == ""
    with django_capture_on_commit_callbacks(execute=True):
        says(target, modified=("app.py",))
    assert target.drift == "files", "this one has come to rest"
    assert Event.objects.get(rollout=rollout, kind="target.drift").data["after"] == {"drift": "files"}


def test_what_a_cancelled_task_still_does_is_no_drift_until_it_is_answered(
    driver: Driver, standing: Service, world: World
) -> None:
    from deployments.agents import outbox
    from deployments.services.rollouts import cancel_rollout

    rollout = driver.tick(driver.start(standing, "2.0", batch=1))
    driver.answer(rollout)
    task = Task.objects.get(rollout=rollout, kind="activate")
    outbox.take([world.agent.id])
    cancel_rollout(actor=driver.actor, rollout_id=rollout.id, reason="enough")
    target = task.target
    says(target, release_id="what-ran-before")
    assert target.drift == ""
    driver.report(task, "cancelled")
    says(target, release_id="what-ran-before")
    assert target.drift == "release", "it was sent 2.0 and runs something else"


def test_a_word_about_an_earlier_release_decides_nothing(
    standing: Service, catalog: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The release changes between the question what should run and the write of what does."""
    target = standing.targets.earliest("name")
    other = catalog.release(standing, "2.0")
    expected = observations._expected

    def meanwhile(target_ids: Any) -> Any:
        found = expected(target_ids)
        Target.objects.filter(pk=target.pk).update(release=other)
        return found

    monkeypatch.setattr(observations, "_expected", meanwhile)
    says(target, modified=("app.py",))
    assert target.drift == ""


def test_a_report_on_a_task_leaves_drift_to_the_heartbeats(driver: Driver, standing: Service) -> None:
    target = standing.targets.earliest("name")
    says(target, modified=("app.py",))
    assert target.agent_id is not None
    observations.write([Observation(target.agent_id, as_it_should(target))])
    target.refresh_from_db()
    assert target.drift == "files"


def test_drift_of_many_costs_what_drift_of_one_costs(standing: Service) -> None:
    first, *rest = standing.targets.order_by("name")
    costs = []
    for targets in ([first], rest):
        said = [
            Observation(one.agent_id, msgspec.structs.replace(as_it_should(one), modified=("x",)))
            for one in targets
            if one.agent_id
        ]
        with CaptureQueriesContext(connection) as queries:
            observations.observe(said)
        costs.append(len(queries))
    assert costs[0] == costs[1]
    assert standing.targets.filter(drift="files").count() == 12


def test_what_drifts_is_said_in_a_sentence(standing: Service, catalog: World) -> None:
    first, second = standing.targets.select_related("release").order_by("name")[:2]
    quiet = catalog.service("quiet", targets=1)
    says(first, second, modified=("app.py",))
    assert reads.sentence(first) == "Files of 1.0 were changed on the target: app.py."
    assert reads.sentence(quiet.targets.get()) == ""


def test_of_each_environment_those_that_drift_longest_are_named(
    monkeypatch: pytest.MonkeyPatch, standing: Service, catalog: World
) -> None:
    monkeypatch.setattr(reads, "SHOWN", 2)
    now = timezone.now()
    dev = Environment.objects.create(name="dev", tier="dev")
    region = Region.objects.create(environment=dev, name="eu")
    for number in range(3):
        since = now - timedelta(days=2 + number)
        Target.objects.create(
            service=standing, region=region, name=f"dev-{number}", drift="files", drift_since=since
        )
    standing.targets.filter(name="orders-05").update(drift="process", drift_since=now)
    with CaptureQueriesContext(connection) as queries:
        found = reads.of_service(standing)
    assert len(queries) == 1
    named = {environment: [target.name for target in targets] for environment, targets in found.items()}
    assert named == {"dev": ["dev-2", "dev-1"], "prod": ["orders-05"]}


def test_the_outlook_follows_the_environments_policy(standing: Service, catalog: World) -> None:
    target = standing.targets.earliest("name")
    says(target, modified=("app.py",))
    assert reads.outlook(target) == ""
    type(catalog.prod).objects.update(on_drift="repair")
    target = Target.objects.select_related("region__environment").get(pk=target.pk)
    assert "in a moment" in reads.outlook(target)
    target.stable_release_id = None
    assert "not repaired by itself" in reads.outlook(target)
    assert timezone.now() >= target.drift_since
