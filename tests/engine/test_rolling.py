"""A rolling rollout from start to end, as the engine drives it."""

from collections import Counter
from datetime import timedelta

from audit.models import Entry
from deployments.domain.states import RolloutState
from deployments.models import Agent, Batch, Event, RolloutTarget, Service, Target, Task
from tests.engine.driver import Driver


def test_everything_is_staged_before_anything_is_activated(driver: Driver, orders: Service) -> None:
    rollout = driver.start(orders, "1.0")
    driver.tick(rollout)
    assert Counter(task.kind for task in driver.open_tasks(rollout)) == {"stage": 12}
    driver.answer(rollout)
    assert Counter(task.kind for task in driver.open_tasks(rollout)) == {"activate": 3}


def test_one_target_that_is_not_staged_holds_every_batch(driver: Driver, orders: Service) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    for task in driver.open_tasks(rollout)[1:]:
        driver.report(task)
    driver.tick(rollout)
    assert {task.kind for task in driver.open_tasks(rollout)} == {"stage"}
    assert "orders-01" in rollout.waiting_on["sentence"]


def test_batches_follow_one_another_until_all_run_the_release(driver: Driver, orders: Service) -> None:
    rollout = driver.finish(driver.start(orders, "1.0"))
    assert rollout.state == RolloutState.SUCCEEDED
    assert set(driver.running(orders).values()) == {"1.0"}
    assert list(Batch.objects.filter(rollout=rollout).values_list("state", flat=True)) == ["succeeded"] * 4
    assert rollout.waiting_on is None
    assert rollout.finished_at is not None


def test_a_batch_takes_from_every_region(driver: Driver, orders: Service) -> None:
    rollout = driver.start(orders, "1.0")
    first = RolloutTarget.objects.filter(rollout=rollout, batch__position=0)
    assert sorted(first.values_list("target__region__name", flat=True)) == ["ap", "eu", "us"]


def test_a_batch_is_watched_before_the_next(driver: Driver, orders: Service) -> None:
    rollout = driver.finish(driver.start(orders, "1.0", bake_seconds=3600))
    assert rollout.state == RolloutState.RUNNING
    assert rollout.waiting_on["kind"] == "bake"
    assert rollout.next_check_at is not None
    assert list(Batch.objects.filter(rollout=rollout).values_list("state", flat=True)) == [
        "baking",
        "pending",
        "pending",
        "pending",
    ]


def test_a_target_that_falls_ill_in_the_bake_turns_the_rollout_round(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.finish(driver.start(orders, "1.1", bake_seconds=3600))
    victim = RolloutTarget.objects.filter(rollout=rollout, state="healthy").select_related("target").first()
    assert victim is not None
    report = {"release_id": str(rollout.release_id)}
    target = Target.objects.filter(pk=victim.target_id)
    target.update(health="unhealthy", reported=report, reported_at=rollout.next_check_at)
    driver.finish(rollout)
    assert rollout.state == RolloutState.ROLLED_BACK
    assert victim.target.name in rollout.outcome
    assert set(driver.running(orders).values()) == {"1.0"}


def test_a_failed_batch_stops_the_rollout_and_puts_its_targets_back(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.1")
    rollout = driver.finish(driver.start(orders, "1.2"), failing={"orders-01"})
    assert rollout.state == RolloutState.ROLLED_BACK
    assert rollout.outcome == ("orders-01 failed: unhealthy on purpose. 9 of 12 targets were not touched.")
    assert set(driver.running(orders).values()) == {"1.1"}
    touched = RolloutTarget.objects.filter(rollout=rollout, touched=True)
    assert touched.count() == 3, "the first batch and nothing else"
    assert set(touched.values_list("state", flat=True)) == {"reverted"}


def test_the_first_release_ever_is_rolled_back_to_nothing(driver: Driver, orders: Service) -> None:
    rollout = driver.finish(driver.start(orders, "1.0"), failing={"orders-01"})
    assert rollout.state == RolloutState.ROLLED_BACK
    assert set(driver.running(orders).values()) == {None}


def test_a_release_that_cannot_be_staged_changes_nothing(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.1")
    rollout = driver.tick(driver.start(orders, "1.2"))
    driver.answer(rollout, failing={"orders-05"}, kind="stage", code="digest_mismatch")
    assert rollout.state == RolloutState.FAILED
    assert rollout.outcome.endswith("Nothing was changed.")
    assert driver.open_tasks(rollout) == []
    assert set(driver.running(orders).values()) == {"1.1"}


def test_a_passing_failure_to_stage_is_tried_again_later(driver: Driver, orders: Service) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    driver.answer(rollout, failing={"orders-05"}, kind="stage", code="download_failed")
    assert rollout.state == RolloutState.RUNNING
    waiting = RolloutTarget.objects.get(rollout=rollout, target__name="orders-05")
    assert (waiting.state, waiting.attempts) == ("pending", 1)
    assert rollout.next_check_at == waiting.retry_at
    RolloutTarget.objects.filter(pk=waiting.pk).update(retry_at=rollout.created_at)
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED
    assert Task.objects.filter(progress=waiting, kind="stage").count() == 2


def test_a_silent_agent_fails_its_targets_after_the_deadline(driver: Driver, orders: Service) -> None:
    rollout = driver.tick(driver.start(orders, "1.0", stage_attempts=1))
    late = driver.open_tasks(rollout)[0]
    for task in driver.open_tasks(rollout)[1:]:
        driver.report(task)
    Task.objects.filter(pk=late.pk).update(expires_at=rollout.created_at)
    driver.tick(rollout)
    assert rollout.state == RolloutState.FAILED
    late.refresh_from_db()
    assert late.state == "expired"
    assert "agent-1" in rollout.outcome


def test_failures_pause_where_the_policy_says_so(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.1")
    rollout = driver.finish(driver.start(orders, "1.2", on_failure="pause"), failing={"orders-01"})
    assert rollout.state == RolloutState.PAUSED
    assert rollout.waiting_on["unblock"] == ["resume", "retry", "skip", "rollback", "cancel"]
    assert "orders-01" in rollout.waiting_on["sentence"]


def test_failures_abort_where_the_policy_says_so(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.1")
    rollout = driver.finish(driver.start(orders, "1.2", on_failure="abort"), failing={"orders-01"})
    assert rollout.state == RolloutState.FAILED
    assert "3 of 12 targets were changed" in rollout.outcome


def test_tolerated_failures_do_not_stop_the_rollout(driver: Driver, orders: Service) -> None:
    rollout = driver.finish(driver.start(orders, "1.0", max_failures=1), failing={"orders-01"})
    assert rollout.state == RolloutState.SUCCEEDED
    assert rollout.outcome.startswith("1 of 12 targets failed")
    assert driver.states(rollout)["orders-01"] == "failed"


def test_no_more_than_the_limit_are_out_of_service_at_once(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", batch="100%", max_unavailable=2))
    driver.answer(rollout)
    while rollout.state == RolloutState.RUNNING:
        out = [state for state in driver.states(rollout).values() if state == "activating"]
        assert 1 <= len(out) <= 2
        driver.answer(rollout)
    assert rollout.state == RolloutState.SUCCEEDED


def test_healthy_targets_go_back_a_batch_at_a_time(driver: Driver, orders: Service) -> None:
    """A rollback that took all good targets down at once would be the outage that it should prevent."""
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1"))
    for _ in range(4):
        driver.answer(rollout)
    assert Counter(driver.states(rollout).values())["healthy"] == 9
    failing = next(task.target.name for task in driver.open_tasks(rollout))
    driver.answer(rollout, failing={failing})
    while rollout.state == RolloutState.ROLLING_BACK:
        assert Counter(driver.states(rollout).values())["reverting"] <= 3
        driver.answer(rollout)
    assert rollout.state == RolloutState.ROLLED_BACK
    assert set(driver.running(orders).values()) == {"1.0"}


def test_a_target_that_cannot_be_put_back_is_named(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1"))
    driver.answer(rollout)
    driver.answer(rollout, failing={"orders-01"})
    for _ in range(20):
        for task in driver.open_tasks(rollout):
            outcome = "failed" if task.target.name == "orders-01" else "succeeded"
            driver.report(task, outcome, code="start_failed" if outcome == "failed" else "")
        RolloutTarget.objects.filter(rollout=rollout, retry_at__isnull=False).update(
            retry_at=rollout.created_at
        )
        driver.tick(rollout)
    assert rollout.state == RolloutState.FAILED
    assert "1 could not be put back and need a person: orders-01" in rollout.outcome


def test_every_state_change_is_an_event_and_an_audit_entry(driver: Driver, orders: Service) -> None:
    rollout = driver.finish(driver.start(orders, "1.0"))
    events = list(Event.objects.filter(rollout=rollout))
    assert [event.number for event in events] == list(range(1, rollout.event_count + 1))
    kinds = Counter(event.kind for event in events)
    assert kinds["target.state"] == 12 * 4, "staging, staged, activating, healthy"
    assert kinds["batch.state"] == 4 * 3, "running, baking, succeeded"
    assert kinds["rollout.state"] == 3, "queued, running, succeeded"
    audited = Counter(Entry.objects.values_list("verb", flat=True))
    assert audited["target.healthy"] == 12
    assert audited["batch.succeeded"] == 4
    assert audited["rollout.state"] == 3
    assert audited["task.succeeded"] == 24
    assert audited["rollout.create"] == 1


def test_the_request_that_made_a_rollout_is_named_in_all_that_follows(
    driver: Driver, orders: Service
) -> None:
    rollout = driver.finish(driver.start(orders, "1.0"))
    tasks = Task.objects.filter(rollout=rollout)
    assert set(tasks.values_list("request_id", flat=True)) == {"request-of-owner"}
    assert set(Entry.objects.values_list("request_id", flat=True)) == {"request-of-owner"}


def test_a_late_report_on_the_release_before_turns_nothing_round(driver: Driver, orders: Service) -> None:
    old = driver.deployed(orders, "1.0")
    rollout = driver.finish(driver.start(orders, "1.1", bake_seconds=3600))
    Target.objects.filter(service=orders).update(
        health="unhealthy", reported={"release_id": str(old.release_id)}, reported_at=rollout.next_check_at
    )
    driver.tick(rollout)
    assert rollout.state == RolloutState.RUNNING


def test_a_target_that_cannot_be_put_back_does_not_hold_up_the_others(driver: Driver) -> None:
    """Its failure counted against the limit of one, and the rollback never ended."""
    service = driver.world.service("small", targets=4)
    driver.deployed(service, "1.0")
    rollout = driver.finish(driver.start(service, "1.1", batch=1, bake_seconds=0))
    assert rollout.state == RolloutState.SUCCEEDED
    rollout = driver.tick(driver.start(service, "1.2", batch=1))
    driver.answer(rollout)
    driver.answer(rollout)
    victim = driver.open_tasks(rollout)[0].target.name
    for _ in range(30):
        for task in driver.open_tasks(rollout):
            driver.report(task, "failed" if task.target.name == victim else "succeeded", code="exited")
        RolloutTarget.objects.filter(rollout=rollout, retry_at__isnull=False).update(
            retry_at=rollout.created_at
        )
        driver.tick(rollout)
    assert rollout.state == RolloutState.FAILED
    assert f"1 could not be put back and need a person: {victim}" in rollout.outcome
    others = {name: version for name, version in driver.running(service).items() if name != victim}
    assert set(others.values()) == {"1.1"}


def test_a_silent_agent_is_waited_for_and_never_taken_for_healthy(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1"))
    driver.answer(rollout)
    driver.silent = True
    Agent.objects.update(last_seen_at=rollout.created_at - timedelta(minutes=1))
    driver.answer(rollout)
    assert rollout.state == RolloutState.RUNNING
    assert rollout.waiting_on["kind"] == "agent"
    assert "agent-1" in rollout.waiting_on["sentence"]
    assert Batch.objects.filter(rollout=rollout, state="pending").count() == 3
    driver.silent = False
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED


def test_a_failed_target_that_has_recovered_gives_its_place_back(driver: Driver, orders: Service) -> None:
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", max_failures=1, max_unavailable=1, batch=3))
    driver.answer(rollout)
    victim = driver.open_tasks(rollout)[0].target
    driver.answer(rollout, failing={victim.name})
    assert rollout.waiting_on["kind"] == "capacity"
    Target.objects.filter(pk=victim.pk).update(health="healthy")
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED


def test_targets_that_were_not_staged_when_it_ended_are_not_shown_as_staging(
    driver: Driver, orders: Service
) -> None:
    rollout = driver.tick(driver.start(orders, "1.0"))
    tasks = driver.open_tasks(rollout)
    driver.report(tasks[0], "failed", code="digest_mismatch")
    driver.tick(rollout)
    assert rollout.state == RolloutState.FAILED
    assert Counter(driver.states(rollout).values()) == {"failed": 1, "pending": 11}
