"""What must never happen is refused by PostgreSQL itself."""

import json
import re

import pytest
from django.db import DatabaseError, connection, transaction

from audit.models import Entry
from deployments.domain import states
from deployments.models import Artifact, ConfigSnapshot, Event, Plan, Release, Rollout, Service
from tests.engine.driver import Driver
from tests.fixtures import Person, World

TABLES = {
    "deployments_rollout": states.ALLOWED,
    "deployments_batch": states.ALLOWED_BATCH,
    "deployments_rollouttarget": states.ALLOWED_TARGET,
    "deployments_task": states.ALLOWED_TASK,
}


def execute(statement: str, *values: object) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement, values)


@pytest.mark.django_db
@pytest.mark.parametrize("table", TABLES)
def test_the_database_has_the_same_table_of_moves_as_the_code(table: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = %s::regclass AND tgname = 'moves'",
            [table],
        )
        row = cursor.fetchone()
    assert row is not None
    argument = re.search(r"slipway_check_move\('(.*)'\)", row[0])
    assert argument is not None
    assert json.loads(argument[1]) == {
        str(state): sorted(map(str, moves)) for state, moves in TABLES[table].items()
    }


@pytest.mark.parametrize("to", ["succeeded", "rolled_back", "rolling_back", "paused"])
def test_a_move_that_is_not_in_the_table_is_refused(
    catalog: World, owner: Person, orders: Service, to: str
) -> None:
    rollout = Driver(catalog, owner).start(orders, "1.0")
    with pytest.raises(DatabaseError, match=f"may not move from pending to {to}"):
        execute("UPDATE deployments_rollout SET state = %s WHERE id = %s", to, rollout.id)


@pytest.mark.parametrize("model", [Artifact, ConfigSnapshot, Release, Plan, Event])
def test_an_immutable_row_refuses_update(catalog: World, owner: Person, orders: Service, model: type) -> None:
    Driver(catalog, owner).start(orders, "1.0")
    row = model.objects.first()
    assert row is not None
    column = row._meta.pk.column
    with pytest.raises(DatabaseError, match="immutable"):
        execute(f"UPDATE {row._meta.db_table} SET {column} = {column} WHERE {column} = %s", row.pk)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor_name = 'somebody else'",
        "DELETE FROM audit_entry",
        "TRUNCATE audit_entry",
    ],
)
def test_the_audit_log_refuses_to_forget(
    catalog: World, owner: Person, orders: Service, statement: str
) -> None:
    Driver(catalog, owner).start(orders, "1.0")
    with pytest.raises(DatabaseError, match="append-only"):
        execute(statement)
    assert Entry.objects.exists()


def test_digests_are_unique(world: World) -> None:
    artifact = world.artifact(b"one")
    with pytest.raises(DatabaseError), transaction.atomic():
        Artifact.objects.create(digest=artifact.digest, size_bytes=3)


def test_an_artifact_needs_a_real_digest(world: World) -> None:
    with pytest.raises(DatabaseError), transaction.atomic():
        Artifact.objects.create(digest="sha256:short", size_bytes=3)


def test_ids_sort_by_time(catalog: World, owner: Person, orders: Service) -> None:
    driver = Driver(catalog, owner)
    first = driver.deployed(orders, "1.0")
    second = driver.deployed(orders, "1.1")
    assert first.id.version == 7
    assert list(Rollout.objects.order_by("id")) == [first, second]
