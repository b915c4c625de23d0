"""What breaks while a rollout is under way, by name: it ends as it should have, and nothing happens twice."""

import random
import resource
import threading
import time
from collections.abc import Callable

import pytest
from django.db import connections
from django_q.tasks import async_task

from deployments.errors import SlipwayError
from deployments.models import Rollout, Task
from deployments.services.rollbacks import roll_back_rollout
from deployments.services.rollouts import cancel_rollout, pause_rollout, resume_rollout
from tests.faults.fleet import Fleet, through
from tests.faults.points import CLAIM, names
from tests.faults.stack import eventually
from tests.faults.world import ACTOR

pytestmark = pytest.mark.timeout(200)
ONCE = "deployments/engine/tick.py:_once"
SILENT_SECONDS = 3
"""Three heartbeats of one second."""


def succeeds(fleet: Fleet, rollout: Rollout) -> None:
    fleet.ended(rollout)
    assert rollout.state == "succeeded", rollout.outcome
    fleet.prove(rollout)


def test_a_broken_release_is_put_back(fleet: Fleet) -> None:
    fleet.ended(fleet.deploy())
    rollout = fleet.ended(fleet.deploy(broken=True))
    assert rollout.state == "rolled_back", rollout.outcome
    fleet.prove(rollout)


def test_the_database_is_restarted(fleet: Fleet) -> None:
    rollout = fleet.activating(fleet.deploy(bake_seconds=1))
    fleet.postgres.stop()
    fleet.postgres.start()
    succeeds(fleet, rollout)


def test_the_database_crashes(fleet: Fleet) -> None:
    rollout = fleet.activating(fleet.deploy(bake_seconds=1))
    fleet.crash_database()
    fleet.postgres.start()
    succeeds(fleet, rollout)


def test_the_power_fails_everywhere(fleet: Fleet) -> None:
    rollout = fleet.activating(fleet.deploy(bake_seconds=1))
    for program in fleet.programs.values():
        program.kill()
    fleet.crash_database()
    fleet.mend()
    succeeds(fleet, rollout)


@pytest.mark.parametrize("place", [CLAIM, ONCE])
def test_a_worker_sleeps_past_its_lease(fleet: Fleet, place: str) -> None:
    """Another takes over; the sleeper wakes to find that its word no longer counts."""
    fleet.ended(fleet.deploy())
    workers = names(fleet, "worker")
    when = "after" if place == CLAIM else "before"
    for name in workers:
        fleet.arm(name, when, place, how="STOP")
    rollout = fleet.deploy()
    eventually(lambda: not all(map(fleet.armed, workers)), "a worker falls asleep")
    for name in workers:
        fleet.disarm(name)
    succeeds(fleet, rollout)
    for name in workers:
        fleet.programs[name].thaw()
    succeeds(fleet, fleet.deploy())
    fleet.prove(rollout)


@pytest.mark.parametrize("seconds", [SILENT_SECONDS / 2, 2 * SILENT_SECONDS], ids=["short", "long"])
def test_an_agent_is_cut_off_and_comes_back(fleet: Fleet, seconds: float) -> None:
    """Shorter than it takes to be called silent, and longer."""
    rollout = fleet.activating(fleet.deploy(activate_timeout_seconds=30))
    fleet.proxies["eu"].partition()
    time.sleep(seconds)
    fleet.proxies["eu"].heal()
    succeeds(fleet, rollout)


def test_an_agent_that_comes_back_gives_back_what_it_took_of_the_limit(fleet: Fleet) -> None:
    """Its targets count as out of service meanwhile, and hold up those of others; not for ever."""
    fleet.ended(fleet.deploy())
    rollout = fleet.deploy(batch=1, max_unavailable=2, order="regions", bake_seconds=SILENT_SECONDS + 2)
    fleet.wait(rollout, lambda r: r.batches.filter(state="baking").exists(), "the first batch bakes")
    fleet.programs["agent-us"].freeze()
    blocked = fleet.wait(
        rollout,
        lambda r: r.waiting_on is not None and r.waiting_on["kind"] == "capacity",
        "the silent targets use up what may be out of service",
    )
    fleet.programs["agent-us"].thaw()
    succeeds(fleet, blocked)


@pytest.mark.parametrize(
    "weather",
    [{"duplicate": 0.5}, {"reorder": 0.4}, {"delay_seconds": 0.5}],
    ids=["duplicated", "reordered", "delayed"],
)
def test_messages_come_as_they_like(fleet: Fleet, weather: dict[str, float]) -> None:
    before = {name: proxy.seen.copy() for name, proxy in fleet.proxies.items()}
    for proxy in fleet.proxies.values():
        for name, value in weather.items():
            setattr(proxy.weather, name, value)
    started = [fleet.deploy(service) for service in range(2)]
    for rollout in map(fleet.ended, started):
        assert rollout.state == "succeeded", rollout.outcome
    for what in weather.keys() - {"delay_seconds"}:
        assert any(proxy.seen[what] > before[name][what] for name, proxy in fleet.proxies.items()), what
    fleet.prove(*started)


@pytest.mark.parametrize(
    "message",
    [b'\\"kind\\":\\"stage\\"', b'\\"kind\\":\\"activate\\"', b'"status":"succeeded"', b'"type":"ack"'],
    ids=["stage", "activate", "result", "acknowledgement"],
)
def test_a_message_is_lost(fleet: Fleet, message: bytes) -> None:
    """The time limit of the task, or the agent's own second report, gets over it."""
    lost = fleet.proxies["us"].seen["drop"]
    fleet.proxies["us"].once("drop", message)
    rollout = fleet.deploy(batch=4, stage_timeout_seconds=4, activate_timeout_seconds=4)
    succeeds(fleet, rollout)
    assert fleet.proxies["us"].seen["drop"] == lost + 1


@pytest.mark.parametrize("seconds", ["600", "-600"], ids=["ahead", "behind"])
def test_the_clock_of_a_worker_is_ten_minutes_off(fleet: Fleet, seconds: str) -> None:
    """What counts is the database's, also where the other workers help out."""
    right, away = (fleet.programs[name] for name in names(fleet, "worker"))
    away.stop()
    wrong = fleet.add("wrong", "manage.py", "worker", FAULT_CLOCK_SECONDS=seconds)
    wrong.start()
    try:
        eventually(lambda: any(name == "wrong" for name, _, _ in fleet.points()), "it looks for jobs")
        right.freeze()
        alone = fleet.ended(fleet.deploy(bake_seconds=1))
        right.thaw()
        together = fleet.ended(fleet.deploy(bake_seconds=1))
        assert [alone.state, together.state] == ["succeeded", "succeeded"]
        fleet.prove(alone, together)
    finally:
        wrong.stop()
        del fleet.programs["wrong"]


def test_the_disk_of_an_agent_is_full(fleet: Fleet) -> None:
    """It says so, changes nothing that serves, and goes on when there is room again."""
    agent = fleet.programs["agent-eu"].process
    assert agent is not None
    limits = resource.prlimit(agent.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        rollout = fleet.deploy(stage_attempts=8)
        full = Task.objects.filter(rollout=rollout, error_code="disk_full")
        eventually(full.exists, "the agent reports that its disk is full")
    finally:
        resource.prlimit(agent.pid, resource.RLIMIT_FSIZE, limits)
    succeeds(fleet, rollout)


def test_a_job_is_delivered_a_hundred_times(fleet: Fleet) -> None:
    rollout = fleet.deploy(bake_seconds=1)
    for _ in range(100):
        async_task("deployments.tasks.tick", str(rollout.id))
    succeeds(fleet, rollout)
    assert Task.objects.filter(rollout=rollout).count() == 8, "one stage and one activation a target"


def test_cancelling_races_with_the_end(fleet: Fleet) -> None:
    """Whoever is first, it ends once; and what had ended stays so."""
    chance = random.Random(20)
    ended = [fleet.ended(fleet.deploy())]
    for _ in range(4):
        rollout = fleet.activating(fleet.deploy(batch=4))
        time.sleep(chance.uniform(0, 0.5))
        said = press(rollout, [cancel_rollout])
        fleet.ended(rollout)
        assert rollout.state == ("cancelled" if said == ["done"] else "succeeded"), (said, rollout.outcome)
        ended.append(rollout)
    fleet.prove(*ended)


def test_two_people_press_opposite_buttons(fleet: Fleet) -> None:
    """One after the other is obeyed, or told why not; nobody gets an error that nobody foresaw."""
    buttons = [
        [cancel_rollout, roll_back_rollout],
        [pause_rollout, cancel_rollout],
        [pause_rollout, roll_back_rollout],
        [cancel_rollout, cancel_rollout],
    ]
    fleet.ended(fleet.deploy())
    for pair in buttons:
        rollout = fleet.activating(fleet.deploy(bake_seconds=1))
        said = press(rollout, pair)
        assert "done" in said, said
        rollout.refresh_from_db()
        if rollout.state == "paused":
            press(rollout, [resume_rollout, roll_back_rollout])
        fleet.ended(rollout)
        # Whoever wants to go back from what was cancelled just before gets a rollout of its own.
        back = [fleet.ended(one) for one in Rollout.objects.filter(rolls_back=rollout)]
        stopped = rollout.state == "failed" and rollout.outcome.startswith("The rollback was cancelled")
        assert stopped or rollout.state in ("cancelled", "rolled_back"), (said, rollout.outcome)
        fleet.prove(rollout, *back)


def press(rollout: Rollout, buttons: list[Callable[..., Rollout]]) -> list[str]:
    """Each command from a thread of its own, at the same moment; what each of them was told."""
    gate = threading.Barrier(len(buttons))
    said: list[str] = []

    def one(command: Callable[..., Rollout]) -> None:
        try:
            gate.wait()
            through(lambda: command(actor=ACTOR, rollout_id=rollout.id, reason="a person says so"))
            said.append("done")
        except SlipwayError as refusal:
            said.append(str(refusal))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=one, args=(button,)) for button in buttons]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == len(buttons), "an error that nobody foresaw, see above"
    return said
