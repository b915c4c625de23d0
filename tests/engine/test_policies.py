"""Failure policies: retries, tolerated failures, what is unhealthy, silent or late, and what happens then."""

from typing import Any

import pytest
from django.utils import timezone

from deployments.domain.states import RolloutState
from deployments.errors import Invalid
from deployments.models import Agent, Batch, Rollout, RolloutTarget, Service, Target, Task
from deployments.services.catalog import change_environment, change_service
from deployments.services.policies import definition
from deployments.services.rollouts import pause_rollout, resume_rollout
from tests.engine.driver import Driver, pass_time
from tests.fixtures import Person, World

REACTIONS = {
    "rollback": RolloutState.ROLLED_BACK,
    "pause": RolloutState.PAUSED,
    "abort": RolloutState.FAILED,
}


@pytest.fixture
def updating(driver: Driver, orders: Service) -> Any:
    """Starts 1.1 over a stable 1.0, with a policy, and goes as far as the first activations."""
    driver.deployed(orders, "1.0")

    def start(**policy: Any) -> Rollout:
        rollout = driver.tick(driver.start(orders, "1.1", **policy))
        driver.answer(rollout)
        return rollout

    return start


@pytest.fixture
def other_agent(world: World) -> Agent:
    """Serves orders-01 alone."""
    agent = world.agent_named("other")
    Target.objects.filter(name="orders-01").update(agent=agent)
    return agent


def fall_silent(agent: Agent, driver: Driver, seconds: float = 60) -> None:
    """The driver's ticks let every agent be heard; this one is not."""
    driver.silent = True
    Agent.objects.update(last_seen_at=timezone.now())
    Agent.objects.filter(id=agent.id).update(
        last_seen_at=timezone.now() - timezone.timedelta(seconds=seconds)
    )


def come_back(agent: Agent, driver: Driver) -> None:
    driver.silent = False
    Agent.objects.filter(id=agent.id).update(connected_at=timezone.now())


@pytest.mark.parametrize("reaction", REACTIONS)
@pytest.mark.parametrize(
    ("code", "parameter"), [("exited", "on_task_failure"), ("unhealthy", "on_unhealthy")]
)
def test_each_kind_of_failure_has_a_reaction_of_its_own(
    updating: Any, driver: Driver, reaction: str, code: str, parameter: str
) -> None:
    others = {"on_task_failure": "abort", "on_unhealthy": "abort", "on_failure": "abort"}
    if reaction == "abort":
        others = dict.fromkeys(others, "pause")
    rollout = updating(**others | {parameter: reaction})
    driver.answer(rollout, failing={"orders-01"}, code=code)
    driver.finish(rollout)
    assert rollout.state == REACTIONS[reaction]
    assert "orders-01 failed" in rollout.outcome
    assert "not touched" in rollout.outcome, "what remains untouched is said"


@pytest.mark.parametrize("reaction", REACTIONS)
def test_a_task_without_answer_is_late_and_has_a_reaction(
    updating: Any, driver: Driver, reaction: str
) -> None:
    rollout = updating(on_failure="abort" if reaction != "abort" else "pause", on_timeout=reaction)
    driver.later(rollout, 121)
    driver.finish(rollout)
    assert rollout.state == REACTIONS[reaction]
    failed = Task.objects.filter(rollout=rollout, state="expired")
    assert "did not answer in time" in failed.first().error


def test_failures_are_tolerated_as_a_share_of_all_and_of_a_batch(updating: Any, driver: Driver) -> None:
    fine = updating(max_failures="20%", max_failures_per_batch=1)
    driver.finish(fine, failing={"orders-01", "orders-04"})
    assert fine.state == RolloutState.SUCCEEDED
    assert fine.outcome == "2 of 12 targets failed, which the policy tolerates."


def test_two_failures_in_one_batch_are_too_many_where_one_is_tolerated(updating: Any, driver: Driver) -> None:
    rollout = updating(max_failures="20%", max_failures_per_batch=1, on_failure="pause")
    driver.finish(rollout, failing={"orders-01", "orders-02"})
    assert rollout.state == RolloutState.PAUSED
    assert "Out of service meanwhile: orders-01, orders-02" in rollout.waiting_on["sentence"]


def test_a_target_that_falls_ill_is_activated_again_as_often_as_the_policy_says(
    updating: Any, driver: Driver
) -> None:
    rollout = updating(activate_attempts=2, bake_seconds=60)
    driver.finish(rollout)
    row = RolloutTarget.objects.get(rollout=rollout, target__name="orders-01")
    ill = {"health": "unhealthy", "reported": {"release_id": str(rollout.release_id)}}
    for states in (["running", "staged"], ["rolled_back", "reverted"]):
        Target.objects.filter(id=row.target_id).update(**ill, reported_at=timezone.now())
        driver.tick(rollout)
        row.refresh_from_db()
        if states[0] == "running":
            assert [rollout.state, row.state] == states
            assert rollout.waiting_on["kind"] == "retry"
            driver.later(rollout, 31)
            driver.finish(rollout)
            row.refresh_from_db()
            assert row.state == "healthy"
        else:
            driver.finish(rollout)
            row.refresh_from_db()
            assert [rollout.state, row.state] == states


def test_retries_wait_longer_each_time_and_stop_at_the_limit(updating: Any, driver: Driver) -> None:
    rollout = updating(activate_attempts=3, retry_base_seconds=10, retry_max_seconds=40)
    pauses = []
    for _ in range(3):
        driver.answer(rollout, failing={"orders-01"}, code="exited")
        row = RolloutTarget.objects.get(rollout=rollout, target__name="orders-01")
        if row.retry_at is not None:
            pauses.append((row.retry_at - timezone.now()).total_seconds())
            driver.later(rollout, 41)
    assert len(pauses) == 2
    assert all(pause <= 41 for pause in pauses), "full jitter below the growing ceiling"
    driver.finish(rollout)
    assert rollout.state == RolloutState.ROLLED_BACK
    assert Task.objects.filter(rollout=rollout, kind="activate", target__name="orders-01").count() == 3


def test_a_silent_agent_halts_the_batch_and_nothing_is_assumed(
    updating: Any, driver: Driver, other_agent: Agent
) -> None:
    rollout = updating()
    tasks = driver.open_tasks(rollout)
    fall_silent(other_agent, driver)
    for task in tasks:
        if task.target.name != "orders-01":
            driver.report(task)
    driver.tick(rollout)
    assert rollout.waiting_on["kind"] == "agent"
    assert "skip" in rollout.waiting_on["unblock"]
    driver.later(rollout, 3000)
    row = RolloutTarget.objects.get(rollout=rollout, target__name="orders-01")
    assert row.state == "activating", "neither healthy nor failed"
    assert driver.open_tasks(rollout), "its task is not given up: the result may lie in its journal"
    come_back(other_agent, driver)
    driver.tick(rollout)
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED
    assert Task.objects.filter(rollout=rollout, target__name="orders-01", kind="activate").count() == 1


def test_nothing_is_begun_on_a_target_of_a_silent_agent(updating: Any, driver: Driver, world: World) -> None:
    other_agent = world.agent_named("other")
    rollout = updating(batch=6)
    last = Batch.objects.get(rollout=rollout, position=1)
    Target.objects.filter(progress__batch=last).update(agent=other_agent)
    fall_silent(other_agent, driver)
    driver.finish(rollout)
    last.refresh_from_db()
    assert (rollout.state, last.state) == ("running", "running")
    assert rollout.waiting_on["kind"] == "agent"
    assert not Task.objects.filter(progress__batch=last, kind="activate").exists()


def test_a_task_that_never_reached_its_agent_costs_no_attempt(
    updating: Any, driver: Driver, other_agent: Agent
) -> None:
    rollout = updating()
    for task in driver.open_tasks(rollout):
        if task.target.name != "orders-01":
            driver.report(task)
    fall_silent(other_agent, driver)
    driver.later(rollout, 300)
    come_back(other_agent, driver)
    driver.tick(rollout)
    driver.later(rollout, 11)
    tasks = Task.objects.filter(rollout=rollout, target__name="orders-01", kind="activate").order_by("id")
    assert [task.state for task in tasks] == ["expired", "dispatched"]
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED


@pytest.mark.parametrize("reaction", REACTIONS)
def test_the_policy_acts_on_an_agent_that_stays_silent(
    updating: Any, driver: Driver, other_agent: Agent, reaction: str
) -> None:
    rollout = updating(on_silent=reaction, silent_seconds=120)
    for task in driver.open_tasks(rollout):
        if task.target.name != "orders-01":
            driver.report(task)
    fall_silent(other_agent, driver)
    driver.tick(rollout)
    assert rollout.state == RolloutState.RUNNING
    assert rollout.waiting_on["deadline"], "it says when the policy acts"
    pass_time(125)
    Agent.objects.exclude(id=other_agent.id).update(last_seen_at=timezone.now())
    driver.tick(rollout)
    come_back(other_agent, driver)
    driver.silent = True
    driver.finish(rollout)
    assert rollout.state == REACTIONS[reaction]
    assert "Agent other has been silent for 2 min" in rollout.outcome


@pytest.mark.parametrize("reaction", REACTIONS)
@pytest.mark.parametrize(
    ("limits", "sentence"),
    [
        ({"batch_timeout_seconds": 200}, "Batch 1 was not done within 200 s"),
        ({"batch_timeout_seconds": 200, "rollout_timeout_seconds": 200}, "It did not end within 200 s."),
    ],
)
def test_a_batch_and_a_rollout_have_a_deadline(
    updating: Any, driver: Driver, reaction: str, limits: dict[str, int], sentence: str
) -> None:
    rollout = updating(on_timeout=reaction, activate_attempts=20, **limits)
    for _ in range(3):
        driver.later(rollout, 70)
        for task in driver.open_tasks(rollout):
            if rollout.state == RolloutState.RUNNING:
                driver.report(task, "failed", code="exited", message="it exited")
        driver.tick(rollout)
    driver.finish(rollout)
    assert rollout.state == REACTIONS[reaction]
    assert sentence in rollout.outcome


def test_the_time_that_a_rollout_stood_paused_does_not_count(
    updating: Any, driver: Driver, owner: Person
) -> None:
    rollout = updating(batch_timeout_seconds=200, rollout_timeout_seconds=300)
    pause_rollout(actor=owner, rollout_id=rollout.id, reason="lunch")
    driver.later(rollout, 5000)
    assert rollout.state == RolloutState.PAUSED, "a person's pause has no end of its own"
    driver.answer(rollout)
    resume_rollout(actor=owner, rollout_id=rollout.id, reason="back")
    driver.finish(rollout)
    assert rollout.state == RolloutState.SUCCEEDED


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"batch": "0%"}, "must lie between 1% and 100%"),
        ({"batch": 0}, "must lie between 1 and"),
        ({"max_unavailable": 13}, "between 1 and the number of targets"),
        ({"max_failures": 12}, "tolerates that every target fails"),
        ({"max_failures": "100%"}, "tolerates that every target fails"),
        ({"activate_attempts": 0}, "activate_attempts"),
        ({"batch_timeout_seconds": 60}, "batch_timeout_seconds"),
        ({"rollout_timeout_seconds": 60}, "rollout_timeout_seconds"),
        ({"retry_base_seconds": 60}, "retry_max_seconds"),
        ({"bake_seconds": 40_000}, "is over before the batches have baked"),
        ({"on_failure": "explode"}, "on_failure"),
        ({"on_failure": "rollback"}, "has a stable release to go back to yet. Choose pause or abort"),
    ],
)
def test_a_policy_that_contradicts_itself_is_refused(
    driver: Driver, orders: Service, policy: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Invalid) as refusal:
        driver.start(orders, "1.0", **policy)
    assert sentence in refusal.value.message


def test_the_later_word_counts_environment_service_overlay_request(
    orders: Service, admin: Person, owner: Person, world: World
) -> None:
    change_environment(
        actor=admin,
        environment_id=world.prod.id,
        strategy={"on_failure": "pause", "max_unavailable": "25%", "silent_seconds": 60},
    )
    overlay = {"prod": {"batch": 3}}
    change_service(
        actor=owner, service_id=orders.id, strategy={"on_failure": "abort", "environments": overlay}
    )
    world.prod.refresh_from_db()
    orders.refresh_from_db()
    assert definition(orders, world.prod, {"silent_seconds": 30}) == {
        "on_failure": "abort",
        "max_unavailable": "25%",
        "silent_seconds": 30,
        "batch": 3,
    }


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        ({"environments": {"nowhere": {}}}, "there is no environment 'nowhere'"),
        ({"environments": {"prod": {"batch": "0%"}}}, "must lie between 1% and 100%"),
        ({"environments": []}, "must be a JSON object"),
    ],
)
def test_an_overlay_is_checked_when_it_is_made(
    orders: Service, owner: Person, strategy: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Invalid, match=sentence):
        change_service(actor=owner, service_id=orders.id, strategy=strategy)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"max_active": 0}, "nothing could ever move"),
        ({"max_active": -1}, "must lie between 1"),
        ({"strategy": {"batch": 1}}, "belong to the service"),
        ({"on_drift": "explode"}, "on_drift"),
        ({"name": "other"}, "cannot be changed"),
    ],
)
def test_an_environment_refuses_what_makes_no_sense(
    world: World, admin: Person, fields: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(Invalid, match=sentence):
        change_environment(actor=admin, environment_id=world.prod.id, **fields)
