"""One owner per rollout, by the database's clock."""

import threading
import uuid

import pytest
from django.db import connection, connections, transaction

from deployments.domain.states import ACTIVE
from deployments.engine import lease, sweep
from deployments.engine.tick import tick
from deployments.errors import LeaseLost
from deployments.models import Rollout, Service, Task
from tests.engine.driver import Driver

ACTIVE_STATES = sorted(ACTIVE)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    return driver.start(orders, "1.0")


def run_out(rollout: Rollout) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE deployments_rollout SET lease_until = clock_timestamp() - interval '1 s' WHERE id = %s",
            [rollout.id],
        )


def test_a_held_lease_is_not_given_twice_and_the_holder_looks_again(rollout: Rollout) -> None:
    held = lease.claim(rollout.id, ACTIVE_STATES)
    assert held is not None
    assert lease.claim(rollout.id, ACTIVE_STATES) is None
    with transaction.atomic():
        lease.guard(held)
        assert lease.release(held) is True, "somebody came in the meantime"


def test_nobody_came_in_the_meantime(rollout: Rollout) -> None:
    held = lease.claim(rollout.id, ACTIVE_STATES)
    assert held is not None
    with transaction.atomic():
        lease.guard(held)
        assert lease.release(held) is False


def test_a_worker_that_was_stopped_past_its_lease_is_refused(rollout: Rollout) -> None:
    slow = lease.claim(rollout.id, ACTIVE_STATES)
    assert slow is not None
    run_out(rollout)
    quick = lease.claim(rollout.id, ACTIVE_STATES)
    assert quick is not None
    assert quick.fence > slow.fence
    with pytest.raises(LeaseLost), transaction.atomic():
        lease.guard(slow)


def test_a_lease_that_ran_out_is_void_even_if_nobody_took_over(rollout: Rollout) -> None:
    slow = lease.claim(rollout.id, ACTIVE_STATES)
    assert slow is not None
    run_out(rollout)
    with pytest.raises(LeaseLost), transaction.atomic():
        lease.guard(slow)


def test_a_rollout_at_its_end_has_no_owner(driver: Driver, rollout: Rollout) -> None:
    driver.finish(rollout)
    assert lease.claim(rollout.id, ACTIVE_STATES) is None
    assert tick(rollout.id) is False


def test_a_rollout_that_does_not_exist_is_not_an_error(rollout: Rollout) -> None:
    assert tick(uuid.uuid4()) is False


def test_the_sweep_finds_a_rollout_whose_owner_died(rollout: Rollout) -> None:
    lease.claim(rollout.id, ACTIVE_STATES)
    assert sweep.lost() == []
    run_out(rollout)
    assert sweep.lost() == [rollout.id]


def test_the_sweep_finds_a_rollout_that_was_never_ticked(rollout: Rollout) -> None:
    assert sweep.lost() == []
    Rollout.objects.filter(pk=rollout.pk).update(created_at="2026-01-01T00:00:00Z")
    assert sweep.lost() == [rollout.id]


def test_the_sweep_finds_reports_that_nobody_took_up(driver: Driver, rollout: Rollout) -> None:
    driver.tick(rollout)
    driver.report(driver.open_tasks(rollout)[0])
    with connection.cursor() as cursor:
        cursor.execute("UPDATE deployments_taskreport SET received_at = now() - interval '1 minute'")
    assert sweep.lost() == [rollout.id]


def test_the_sweep_finds_a_timer_that_ran_out(driver: Driver, rollout: Rollout) -> None:
    driver.tick(rollout)
    assert sweep.due() == []
    Rollout.objects.filter(pk=rollout.pk).update(next_check_at=rollout.created_at)
    assert sweep.due() == [rollout.id]


def test_ticks_delivered_a_hundred_times_give_each_task_once(driver: Driver, rollout: Rollout) -> None:
    for _ in range(100):
        tick(rollout.id)
    assert Task.objects.filter(rollout=rollout).count() == 12


@pytest.mark.django_db(transaction=True)
def test_ticks_of_eight_workers_at_once_give_each_task_once(driver: Driver, rollout: Rollout) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                tick(rollout.id)
        except BaseException as error:
            failures.append(error)
        finally:
            connections.close_all()

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert failures == []
    assert Task.objects.filter(rollout=rollout).count() == 12
    rollout.refresh_from_db()
    assert rollout.lease_owner == ""
    assert rollout.wake_again is False


@pytest.mark.django_db(transaction=True)
def test_a_report_does_not_wait_for_the_engine_nor_the_engine_for_it(
    driver: Driver, rollout: Rollout
) -> None:
    """A report refers to the rollout whose row the engine holds; each waited for the other's target."""
    driver.tick(rollout)
    task = driver.open_tasks(rollout)[0]
    held = lease.claim(rollout.id, ACTIVE_STATES)
    assert held is not None
    done = threading.Event()

    def report() -> None:
        driver.report(task)
        connections.close_all()
        done.set()

    with transaction.atomic():
        lease.guard(held)
        threading.Thread(target=report).start()
        assert done.wait(5), "the report waits for the engine's transaction"
        lease.release(held)
