"""A seeded database is the same every time, true in itself, and ordinary work goes on in it."""

import dataclasses
from collections import Counter
from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.db.models import Count, F, Max
from django.test import Client

from deployments.domain import canonical
from deployments.domain.actor import Actor
from deployments.domain.states import RolloutState
from deployments.engine.tick import tick
from deployments.models import (
    Batch,
    Environment,
    Event,
    Plan,
    Release,
    Rollout,
    RolloutTarget,
    Service,
    Target,
)
from deployments.services.rollouts import start_rollout
from portal.accounts.models import User
from portal.local.seed import ids
from portal.local.seed.catalog import MEMBER
from portal.local.seed.make import NotEmpty, count_rows, make_all
from portal.local.seed.size import Size

SMALL = Size(
    services=30, rollouts=600, targets=25, history_days=90, seed=1, until=datetime(2026, 3, 1, tzinfo=UTC)
)
COUNTED = ("deployments_event", "audit_entry", "deployments_teamuserobjectpermission")
"""Tables whose ids come from a sequence, which goes on counting, as fences do."""


@pytest.fixture
def seeded(db: None) -> Size:
    list(make_all(SMALL))
    return SMALL


def contents(size: Size) -> dict[str, str]:
    """A digest of each table after a seed, which is undone."""
    tables = [
        table
        for table in connection.introspection.table_names()
        if table.startswith(("deployments_", "audit"))
    ]
    found = {}
    with transaction.atomic(), connection.cursor() as cursor:
        list(make_all(size))
        for table in tables:
            left_out = "{fence,id}" if table in COUNTED else "{fence}"
            rows = f"SELECT (to_jsonb(t) - '{left_out}'::text[])::text AS row FROM {table} t"
            cursor.execute(f"SELECT md5(string_agg(row, ',' ORDER BY row)) FROM ({rows}) AS rows")
            found[table] = cursor.fetchone()[0]
        transaction.set_rollback(True)
    return found


@pytest.mark.django_db
def test_the_same_arguments_make_the_same_rows_and_another_seed_makes_others() -> None:
    first = contents(SMALL)
    assert contents(SMALL) == first
    other = contents(dataclasses.replace(SMALL, seed=2))
    assert {table for table in first if first[table] and first[table] == other[table]} == set()


def test_there_is_as_much_as_was_asked_for(seeded: Size) -> None:
    counts = count_rows()
    assert counts["services"] == 30
    assert counts["rollouts"] == 600
    largest = Rollout.objects.annotate(size=Count("targets")).order_by("-id").first()
    assert largest is not None
    assert (largest.service.name, largest.size, largest.state) == ("showcase", 25, RolloutState.RUNNING)
    assert Counter(Rollout.objects.values_list("state", flat=True)).keys() == set(RolloutState)
    assert set(Rollout.objects.values_list("kind", flat=True)) == set(Rollout.Kind.values)
    assert Rollout.objects.filter(retries__state="failed").exists()


def test_ids_tell_the_time_and_are_what_python_makes_of_them(seeded: Size) -> None:
    for model in (Service, Release, Target, Rollout, RolloutTarget):
        for row in model.objects.all()[:200]:
            assert row.id.version == 7
            assert row.id.int >> 80 == int(row.created_at.timestamp() * 1000 + 0.5)
    oldest = Rollout.objects.order_by("id").first()
    assert oldest is not None
    assert oldest.id == ids.make(seeded, oldest.created_at, ids.Kind.ROLLOUT, 1)


def test_what_the_rows_say_is_true(seeded: Size) -> None:
    for plan in Plan.objects.select_related("rollout__release__artifact"):
        assert plan.digest == canonical.digest(plan.body)
        assert plan.body["artifact_digest"] == plan.rollout.release.artifact.digest
        planned = [
            target for wave in plan.body["waves"] for batch in wave["batches"] for target in batch["targets"]
        ]
        rows = plan.rollout.targets.order_by("position").values_list("target_id", flat=True)
        assert planned == [str(target) for target in rows]
    told = Rollout.objects.annotate(events_there=Count("events"), last=Max("events__number"))
    assert not told.exclude(event_count=F("events_there"), last=F("events_there")).exists()
    assert (
        not Rollout.objects.filter(release__service=F("service"))
        .filter(release__created_at__gt=F("created_at"))
        .exists()
    )
    assert Rollout.objects.exclude(release__service=F("service")).count() == 0
    assert Rollout.objects.active().filter(waiting_on=None).count() == 0
    last = Event.objects.order_by("rollout_id", "-number").distinct("rollout_id")
    for event in last.filter(kind="rollout.state").select_related("rollout"):
        assert event.data["after"]["state"] == event.rollout.state


def test_no_two_rollouts_of_a_service_move_in_an_environment_at_once(seeded: Size) -> None:
    end: dict[tuple[object, object], datetime | None] = {}
    for rollout in Rollout.objects.filter(started_at__isnull=False).order_by("id"):
        place = (rollout.service_id, rollout.environment_id)
        before = end.get(place, seeded.start)
        assert before is not None
        assert before <= rollout.started_at
        end[place] = rollout.finished_at


def test_a_target_runs_what_the_last_success_brought(seeded: Size) -> None:
    showcase = Service.objects.get(name="showcase")
    checked = 0
    for target in Target.objects.exclude(service=showcase).exclude(release=None).select_related("region"):
        here = Rollout.objects.filter(service=target.service_id, environment=target.region.environment_id)
        if not here.active().exists():
            last = here.filter(state=RolloutState.SUCCEEDED).latest("id")
            assert target.release_id == target.stable_release_id == last.release_id
            checked += 1
    assert checked > 50


def test_ordinary_work_goes_on(seeded: Size) -> None:
    prod = Environment.objects.get(name="prod")
    busy = Rollout.objects.active().values("service")
    service = Service.objects.exclude(id__in=busy).exclude(name="showcase").order_by("-id").first()
    assert service is not None
    release = service.releases.order_by("id").first()
    assert release is not None
    actor = Actor.system("test")
    rollout = start_rollout(
        actor=actor, service_id=service.id, environment_id=prod.id, release_id=release.id, reason="It works"
    )
    tick(rollout.id)
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.RUNNING
    assert rollout.id == Rollout.objects.latest("id").id
    assert Event.objects.latest("id").rollout_id == rollout.id
    assert Batch.objects.filter(rollout=rollout).exists()


def test_every_page_shows_it(seeded: Size) -> None:
    boss = User.objects.create(username="boss", is_superuser=True)
    one_of_each = [Rollout.objects.filter(state=state).latest("id") for state in RolloutState]
    busy = one_of_each[0].service
    target = busy.targets.first()
    assert target is not None
    lists = ["/", "/rollouts/", "/rollouts/?state=active", "/environments/prod/", "/agents/"]
    lists += [f"/api/v1/{noun}" for noun in ("services", "rollouts", "targets", "releases", "environments")]
    everywhere = [f"/rollouts/{rollout.id}/" for rollout in one_of_each]
    everywhere += ["/services/showcase/", f"/services/{busy.name}/", f"/targets/{target.id}/", "/audit/"]
    member = User.objects.get(username=MEMBER)
    for person, paths in ((boss, lists + everywhere), (member, [*lists, "/services/showcase/"])):
        client = Client()
        client.force_login(person, backend="django.contrib.auth.backends.ModelBackend")
        for path in paths:
            assert client.get(path).status_code == 200, path


def test_a_database_with_something_in_it_is_left_alone(seeded: Size) -> None:
    before = count_rows()
    with pytest.raises(NotEmpty, match="Create an empty database"):
        list(make_all(SMALL))
    with pytest.raises(CommandError, match="Create an empty database"):
        call_command("seed", services=2, rollouts=3)
    assert count_rows() == before


@pytest.mark.django_db
def test_production_is_seeded_only_where_somebody_says_so(settings) -> None:
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, public_url="https://slipway.example.com")
    with pytest.raises(CommandError, match="--yes"):
        call_command("seed", services=2, rollouts=3)
    assert Service.objects.count() == 0
    said = StringIO()
    call_command("seed", services=2, rollouts=3, targets=1, yes=True, stdout=said)
    assert Service.objects.count() == 2
    assert "3 rollouts\n" in said.getvalue()


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"services": 1}, "--services"),
        ({"rollouts": 2}, "--rollouts"),
        ({"targets": 0}, "--targets"),
        ({"history_days": 0}, "--history-days"),
        ({"seed": 4096}, "--seed"),
    ],
)
@pytest.mark.django_db
def test_numbers_that_make_no_sense_are_refused(numbers: dict[str, int], said: str) -> None:
    with pytest.raises(CommandError, match=said):
        call_command("seed", **numbers)
