"""Tasks to frames: once, to the right agent, with what the target needs."""

import base64

import nacl.signing
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deployments import protocol
from deployments.agents import outbox, signing
from deployments.domain import config
from deployments.domain.states import TASK_OPEN
from deployments.errors import Invalid
from deployments.models import Rollout, Service, Target, Task, TaskReport
from tests.engine.driver import Driver
from tests.fixtures import CONFIG, Person, World


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    return driver.tick(driver.start(orders, "1.0"))


def instruction(frame: str) -> protocol.AnyInstruction:
    """The instruction, after the signature was checked as an agent does it."""
    signed = protocol.decode_downward(frame)
    assert isinstance(signed, protocol.Signed)
    key = nacl.signing.VerifyKey(base64.b64decode(signing.public_key()))
    key.verify(signed.body.encode(), base64.b64decode(signed.signature))
    return protocol.decode_instruction(signed.body)


def test_a_task_is_taken_once(rollout: Rollout, world: World) -> None:
    taken = outbox.take([world.agent.id])
    assert [task_id for _, task_id, _ in taken] == list(
        Task.objects.filter(rollout=rollout).order_by("id").values_list("id", flat=True)
    )
    assert outbox.take([world.agent.id]) == []
    assert not Task.objects.filter(sent_at=None).exists()


def test_taking_costs_the_same_for_one_task_and_for_many(catalog: World, driver: Driver) -> None:
    costs = []
    for name, targets in (("one", 1), ("many", 100)):
        driver.tick(driver.start(catalog.service(name, targets=targets), "1.0"))
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert len(outbox.take([catalog.agent.id])) == targets
        costs.append(len(queries))
    assert costs[0] == costs[1] <= 4


def test_nobody_elses_tasks_are_taken(rollout: Rollout, world: World) -> None:
    assert outbox.take([world.agent_named("idle").id]) == []
    assert outbox.take([]) == []


def test_tasks_that_ended_or_expired_are_not_sent(rollout: Rollout, world: World) -> None:
    first, second = Task.objects.order_by("id")[:2]
    Task.objects.filter(pk=first.pk).update(state="cancelled")
    Task.objects.filter(pk=second.pk).update(expires_at="2026-01-01T00:00:00Z")
    sent = {task_id for _, task_id, _ in outbox.take([world.agent.id])}
    assert len(sent) == 10
    assert not {first.id, second.id} & sent


def test_an_agent_that_connected_anew_gets_its_open_tasks_again(rollout: Rollout, world: World) -> None:
    before = outbox.take([world.agent.id])
    Task.objects.filter(pk=before[0][1]).update(state="succeeded")
    again = [task_id for _, task_id, _ in outbox.resend([world.agent.id])[0]]
    assert again == [task_id for _, task_id, _ in before[1:]]
    assert outbox.take([world.agent.id]) == []


@pytest.mark.django_db(transaction=True)
def test_what_the_engine_holds_is_not_waited_for_and_sent_when_asked_for_again(
    rollout: Rollout, world: World
) -> None:
    before = [task_id for _, task_id, _ in outbox.take([world.agent.id])]
    elsewhere = connection.copy()
    try:
        elsewhere.set_autocommit(False)
        with elsewhere.cursor() as cursor:
            cursor.execute("SELECT FROM deployments_task WHERE id = %s FOR UPDATE", [before[0]])
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")
        frames, skipped = outbox.resend([world.agent.id])
        elsewhere.rollback()
    finally:
        elsewhere.close()
        with connection.cursor() as cursor:
            cursor.execute("RESET lock_timeout")
    assert [task_id for _, task_id, _ in frames] == before[1:]
    assert skipped == {world.agent.id}
    frames, skipped = outbox.resend([world.agent.id])
    assert [task_id for _, task_id, _ in frames] == before
    assert skipped == set()


def test_what_was_sent_before_the_connection_is_taken_again(rollout: Rollout, world: World) -> None:
    outbox.take([world.agent.id])
    type(world.agent).objects.filter(pk=world.agent.pk).update(connected_at=timezone.now())
    # Within one transaction the database's now() stands still; sent_at is before it either way.
    Task.objects.update(sent_at="2026-01-01T00:00:00Z")
    assert len(outbox.take([world.agent.id])) == 12


def test_the_environments_overlay_and_the_targets_variables_are_filled_in(
    catalog: World, driver: Driver, orders: Service
) -> None:
    base = {
        "process": {"command": ["./run", "--port=${target.port}"]},
        "env": {
            "WHERE": "${environment}/${region}/${target.name}",
            "DB": "${secret:vault:orders/db#password}",
        },
    }
    catalog.release(orders, "2.0", base=base, overlays={"prod": {"env": {"LEVEL": "warn"}}})
    driver.tick(driver.start(orders, "2.0"))
    frames = [instruction(frame) for _, _, frame in outbox.take([catalog.agent.id])]
    (first,) = [one for one in frames if one.target_name == "orders-01"]
    assert isinstance(first, protocol.Stage)
    assert first.release.process.command == ("./run", "--port=9001")
    assert first.release.env == {
        "WHERE": "prod/eu/orders-01",
        "DB": "${secret:vault:orders/db#password}",
        "LEVEL": "warn",
    }
    assert first.release.service == "orders"
    assert first.release.artifact.size_bytes == len(b"orders 2.0")


def test_a_configuration_too_large_for_a_frame_is_answered_and_not_sent(
    catalog: World, driver: Driver, orders: Service
) -> None:
    """Small enough when it is filled in; escaped twice, as JSON within JSON, it is not."""
    catalog.release(orders, "2.0", base=CONFIG | {"files": {"quotes": '"' * 90_000}})
    driver.tick(driver.start(orders, "2.0"))
    assert outbox.take([catalog.agent.id]) == []
    reports = list(TaskReport.objects.all())
    assert {report.code for report in reports} == {"invalid_config"}
    assert f"at most {protocol.MAX_FRAME_BYTES}. Shorten" in reports[0].message


def test_the_kinds_of_tasks_become_the_kinds_of_instructions(rollout: Rollout, world: World) -> None:
    tasks = list(Task.objects.order_by("id")[:3])
    Task.objects.filter(pk=tasks[0].pk).update(kind="activate")
    Task.objects.filter(pk=tasks[1].pk).update(kind="revert")
    Task.objects.filter(pk=tasks[2].pk).update(kind="revert", release=None)
    frames = [instruction(frame) for _, _, frame in outbox.take([world.agent.id])]
    by_id = {one.task_id: type(one) for one in frames}
    assert [by_id[str(task.pk)] for task in tasks] == [
        protocol.Activate,
        protocol.Activate,
        protocol.Deactivate,
    ]


def test_a_target_whose_configuration_has_no_value_fails_alone(rollout: Rollout, world: World) -> None:
    lame = Target.objects.get(name="orders-07")
    Target.objects.filter(pk=lame.pk).update(variables={})
    assert len(outbox.take([world.agent.id])) == 11
    report = TaskReport.objects.get()
    assert (report.task.target_id, report.status, report.code) == (lame.id, "failed", "invalid_config")
    assert "target.port" in report.message
    assert Task.objects.filter(state__in=TASK_OPEN, sent_at=None).count() == 0


def test_a_configuration_too_large_once_filled_in_does_not_start(
    catalog: World, driver: Driver, orders: Service
) -> None:
    catalog.release(orders, "2.0", base=CONFIG | {"files": {"table": "x" * config.MAX_RESOLVED_BYTES}})
    with pytest.raises(Invalid, match="Shorten them"):
        driver.start(orders, "2.0")
    assert not Rollout.objects.exists()


def cancelled(world: World) -> dict[str, protocol.AnyInstruction]:
    """What the agent is told to give up, by task."""
    return {str(task_id): instruction(frame) for _, task_id, frame in outbox.cancel([world.agent.id])}


def test_a_task_that_was_sent_and_cancelled_is_to_be_given_up(rollout: Rollout, world: World) -> None:
    sent, unsent, goes_on = Task.objects.order_by("id")[:3]
    outbox.take([world.agent.id])
    Task.objects.filter(pk=unsent.pk).update(sent_at=None)
    assert cancelled(world) == {}
    Task.objects.filter(pk__in=[sent.pk, unsent.pk]).update(state="cancelled")
    (told,) = cancelled(world).values()
    assert isinstance(told, protocol.Cancel)
    assert (told.cancels, told.attempt, told.fence) == (str(sent.id), sent.attempt, sent.fence)
    assert (told.agent_id, told.target_id) == (str(world.agent.id), str(sent.target_id))
    assert told.task_id not in (str(sent.id), str(goes_on.id))
    assert told.expires_at == pytest.approx(sent.expires_at.timestamp())
    assert cancelled(world) == {}, "once is enough while the connection lasts"


def test_a_cancellation_survives_the_loss_of_the_connection(rollout: Rollout, world: World) -> None:
    outbox.take([world.agent.id])
    task = Task.objects.earliest("id")
    Task.objects.filter(pk=task.pk).update(state="cancelled")
    assert list(cancelled(world)) == [str(task.id)]
    # Within one transaction the database's now() stands still: the connection is younger than what was said.
    type(world.agent).objects.filter(pk=world.agent.pk).update(connected_at=timezone.now())
    Task.objects.filter(pk=task.pk).update(cancel_sent_at="2026-01-01T00:00:00Z")
    assert list(cancelled(world)) == [str(task.id)]


def test_what_is_answered_or_too_late_is_not_cancelled_any_more(
    driver: Driver, rollout: Rollout, world: World
) -> None:
    outbox.take([world.agent.id])
    answered, accepted, expired = Task.objects.order_by("id")[:3]
    driver.report(answered)
    driver.report(accepted, "accepted")
    tasks = Task.objects.filter(pk__in=[answered.pk, accepted.pk, expired.pk])
    tasks.update(state="cancelled")
    Task.objects.filter(pk=expired.pk).update(expires_at="2026-01-01T00:00:00Z")
    assert list(cancelled(world)) == [str(accepted.id)]


def test_nobody_elses_cancellations_are_sent(rollout: Rollout, world: World) -> None:
    outbox.take([world.agent.id])
    Task.objects.update(state="cancelled")
    assert outbox.cancel([world.agent_named("idle").id]) == []
    assert outbox.cancel([]) == []
    assert len(cancelled(world)) == 12
