"""Whatever people, agents and time do, and in whatever order: every wait is explained, every limit holds.

A state machine drives the real engine on the real database: the wake-ups that it runs are those that were
really enqueued or that the sweep finds, so that a lost one shows. Time passes by moving all times that the
rows hold into the past.
"""

import contextlib
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from deployments import protocol
from deployments.agents import connections, inbox, liveness, observations
from deployments.domain.states import ACTIVE, MOVING, TASK_OPEN, RolloutState, TargetState, TaskState
from deployments.engine import sweep
from deployments.engine.tick import tick
from deployments.errors import SlipwayError
from deployments.models import (
    Agent,
    Environment,
    Event,
    Membership,
    QueuedJob,
    Release,
    Rollout,
    RolloutTarget,
    Target,
    Task,
    Team,
)
from deployments.services import holds, retries, rollbacks, rollouts
from tests.engine.driver import pass_time
from tests.fixtures import Person, World, make_person

WAITS = {"engine", "queue", "tasks", "bake", "retry", "capacity", "person", "agent"}
PEOPLE = {"resume", "retry", "skip", "rollback", "cancel", "pause"}
NEVER_OUT = {"agent", "person", "capacity"}
"""Waits that only somebody or something outside ends; the engine still looks at agents by itself."""
LIMIT = 2
"""Rollouts that may move at once in the environment."""
AT_WORK = (TargetState.STAGING, TargetState.ACTIVATING, TargetState.REVERTING)

reactions = st.sampled_from(["rollback", "pause", "abort"])
policies = st.fixed_dictionaries(
    {
        "batch": st.sampled_from([1, "50%", "100%"]),
        "on_failure": reactions,
        "on_timeout": st.one_of(st.none(), reactions),
        "on_unhealthy": st.one_of(st.none(), reactions),
        "on_silent": st.one_of(st.just("wait"), reactions),
        "max_failures": st.sampled_from([0, 1, "34%"]),
        "max_failures_per_batch": st.sampled_from([None, 0, "50%"]),
        "max_unavailable": st.sampled_from([0, 1, "100%"]),
        "activate_attempts": st.integers(1, 3),
        "bake_seconds": st.sampled_from([0, 20]),
        "batch_timeout_seconds": st.sampled_from([200, 3600]),
        "rollout_timeout_seconds": st.sampled_from([4000, 86_400]),
    }
)


def refused(command: Any, **arguments: Any) -> SlipwayError | None:
    """Carry the command out, or return why not."""
    try:
        with transaction.atomic():
            command(**arguments)
    except SlipwayError as error:
        return error
    return None


class Engine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.stack = contextlib.ExitStack()
        self.stack.enter_context(transaction.atomic())
        self.stack.callback(transaction.set_rollback, True)
        self.activations: dict[tuple[UUID, UUID], int] = {}
        self.illnesses: dict[UUID, int] = {}
        self.checked: set[tuple[UUID, Any, Any]] = set()
        now = timezone.now()
        team = Team.objects.create(name="shop")
        self.world = World(
            team=team,
            other_team=team,
            prod=Environment.objects.create(name="prod", tier="prod", max_active=LIMIT),
            agent=Agent.objects.create(name="one", public_key=b"1" * 32, last_seen_at=now, connected_at=now),
            agent_key=None,  # type: ignore[arg-type]  # nothing is signed here
        )
        other = Agent.objects.create(name="two", public_key=b"2" * 32, last_seen_at=now, connected_at=now)
        self.agents = [self.world.agent, other]
        self.silent: set[UUID] = set()
        self.person: Person = make_person("owner")
        self.world.member(self.person, Membership.Role.OWNER)
        self.services = [self.world.service(name, targets=3) for name in ("orders", "carts", "users")]
        Target.objects.filter(name__endswith="-03").update(agent=other)
        for service in self.services:
            for version in ("1.0", "1.1", "1.2"):
                self.world.release(service, version)

    def teardown(self) -> None:
        if not hasattr(self, "stack"):
            return
        try:
            self.come_to_an_end()
        finally:
            self.stack.close()

    # What people do.

    @rule(
        service=st.integers(0, 2),
        version=st.sampled_from(["1.0", "1.1", "1.2"]),
        policy=policies,
        if_busy=st.sampled_from(["refuse", "queue", "supersede"]),
        priority=st.sampled_from(list(Rollout.Priority)),
    )
    def start(self, service: int, version: str, policy: dict[str, Any], if_busy: Any, priority: Any) -> None:
        self.do(
            rollouts.start_rollout,
            service_id=self.services[service].id,
            environment_id=self.world.prod.id,
            release_id=Release.objects.get(service=self.services[service], version=version).id,
            strategy=policy,
            priority=priority,
            if_busy=if_busy,
        )

    @precondition(lambda self: self.any_rollout())
    @rule(
        data=st.data(),
        verb=st.sampled_from(
            [
                rollouts.pause_rollout,
                rollouts.resume_rollout,
                rollouts.resume_rollout,
                rollouts.cancel_rollout,
                rollbacks.roll_back_rollout,
                retries.retry_targets,
            ]
        ),
    )
    def steer(self, data: st.DataObject, verb: Any) -> None:
        self.do(verb, rollout_id=self.draw_rollout(data).id)

    @precondition(lambda self: self.any_rollout())
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        rollout = self.draw_rollout(data)
        targets = list(rollout.targets.values_list("target_id", flat=True))
        self.do(retries.skip_targets, rollout_id=rollout.id, targets=[data.draw(st.sampled_from(targets))])

    @rule(data=st.data(), on=st.booleans())
    def hold(self, data: st.DataObject, on: bool) -> None:
        release = data.draw(st.sampled_from(list(Release.objects.order_by("id"))))
        self.do(holds.hold_release if on else holds.lift_hold, release_id=release.id)

    # What agents do.

    @precondition(lambda self: self.open_tasks())
    @rule(
        data=st.data(), status=st.sampled_from(["accepted", "succeeded", "succeeded", "succeeded", "failed"])
    )
    def answer(self, data: st.DataObject, status: str) -> None:
        self.report(data.draw(st.sampled_from(self.open_tasks())), status)

    @precondition(lambda self: self.open_tasks())
    @rule()
    def answer_all(self) -> None:
        for task in self.open_tasks():
            self.report(task, "succeeded")

    @precondition(lambda self: Task.objects.exclude(state__in=TASK_OPEN).exists())
    @rule(data=st.data())
    def answer_too_late(self, data: st.DataObject) -> None:
        """A result of a task that is closed changes nothing, however often it comes."""
        closed = list(Task.objects.exclude(state__in=TASK_OPEN).order_by("id"))
        task = data.draw(st.sampled_from(closed))
        before = task.state
        self.report(task, "succeeded")
        task.refresh_from_db()
        assert task.state == before

    @precondition(lambda self: self.open_tasks())
    @rule(data=st.data())
    def answer_with_another_fence(self, data: st.DataObject) -> None:
        task = data.draw(st.sampled_from(self.open_tasks()))
        task.fence -= 1
        self.report(task, "succeeded")
        assert Task.objects.get(id=task.id).state in TASK_OPEN

    @rule(agent=st.integers(0, 1))
    def fall_silent_or_return(self, agent: int) -> None:
        found = self.agents[agent]
        if found.id in self.silent:
            self.silent.discard(found.id)
            connections.connect(found.id, "web:1", hostname="", software="")
        else:
            self.silent.add(found.id)
        self.heartbeats()
        self.run_jobs()

    @precondition(lambda self: RolloutTarget.objects.filter(state=TargetState.HEALTHY).exists())
    @rule(data=st.data())
    def fall_ill(self, data: st.DataObject) -> None:
        rows = RolloutTarget.objects.filter(
            state=TargetState.HEALTHY, rollout__state__in=MOVING, target__agent__in=self.heard()
        ).select_related("target", "rollout")
        if not (found := list(rows.order_by("id"))):
            return
        row = data.draw(st.sampled_from(found))
        self.illnesses[row.target_id] = self.illnesses.get(row.target_id, 0) + 1
        self.observe([row.target], "unhealthy")

    @rule()
    def all_get_well(self) -> None:
        self.observe(Target.objects.filter(agent__in=self.heard()), "healthy")

    @rule(seconds=st.sampled_from([1, 5, 25, 130, 400, 4100, 90_000]))
    def time_passes(self, seconds: int) -> None:
        pass_time(seconds)
        self.heartbeats()
        self.wake(sweep.due())
        self.wake(sweep.lost())

    # What must hold.

    @invariant()
    def every_wait_is_explained(self) -> None:
        if not hasattr(self, "stack"):
            return
        for rollout in Rollout.objects.active():
            waiting = rollout.waiting_on
            assert waiting, f"{rollout.state} without an answer"
            assert waiting["kind"] in WAITS
            assert waiting["sentence"]
            assert waiting["since"]
            assert set(waiting.get("unblock", ())) <= PEOPLE
            if waiting["kind"] in NEVER_OUT or rollout.state == RolloutState.ROLLING_BACK:
                assert waiting.get("unblock") or rollout.next_check_at, waiting
            if waiting["kind"] not in ("person", "capacity"):
                assert rollout.next_check_at is not None, f"nothing will look again: {waiting}"
            if waiting["kind"] != "person" and rollout.state == RolloutState.RUNNING:
                assert waiting.get("deadline"), f"no deadline: {waiting}"

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "stack"):
            return
        assert Rollout.objects.moving().exclude(kind=Rollout.Kind.ROLLBACK).count() <= LIMIT
        for rollout in Rollout.objects.exclude(state__in=ACTIVE):
            assert not rollout.tasks.filter(state__in=TASK_OPEN).exists(), "a task outlives its rollout"
            assert not rollout.targets.filter(state__in=AT_WORK).exists(), "it ended in the middle of a step"
            assert rollout.finished_at is not None
            assert rollout.outcome or rollout.state == RolloutState.SUCCEEDED
            assert not rollout.lease_owner
        for rollout in Rollout.objects.moving().select_related("plan"):
            if rollout.plan.body["params"]["max_unavailable"] == 1 and rollout.state == RolloutState.RUNNING:
                assert rollout.targets.filter(state=TargetState.ACTIVATING).count() <= 1

    @invariant()
    def nothing_that_succeeded_is_done_again(self) -> None:
        if not hasattr(self, "stack"):
            return
        done = Task.objects.filter(kind=Task.Kind.ACTIVATE, state=TaskState.SUCCEEDED)
        counts: dict[tuple[UUID, UUID], int] = {}
        for key in done.values_list("rollout_id", "target_id"):
            counts[key] = counts.get(key, 0) + 1
        for (_, target), count in counts.items():
            assert count <= 1 + self.illnesses.get(target, 0)

    @invariant()
    def what_is_said_to_unblock_does(self) -> None:
        """Each verb that a wait names is accepted; what it leads to is undone again."""
        if not hasattr(self, "stack"):
            return
        for rollout in Rollout.objects.active():
            waiting = rollout.waiting_on or {}
            answer = (rollout.id, waiting.get("since"), waiting.get("sentence"))
            if answer in self.checked:
                continue
            self.checked.add(answer)
            for verb in waiting.get("unblock", ()):
                with transaction.atomic():
                    self.check_verb(rollout, verb)
                    transaction.set_rollback(True)

    # Means.

    def check_verb(self, rollout: Rollout, verb: str) -> None:
        command = {
            "pause": rollouts.pause_rollout,
            "resume": rollouts.resume_rollout,
            "cancel": rollouts.cancel_rollout,
            "rollback": rollbacks.roll_back_rollout,
            "retry": retries.retry_targets,
            "skip": retries.skip_targets,
        }[verb]
        attempts: list[dict[str, Any]] = [{}]
        if verb == "skip":
            targets = rollout.targets.values_list("target_id", flat=True)
            attempts = [{"targets": [target]} for target in targets]
        refusals = [
            refused(command, actor=self.person, rollout_id=rollout.id, reason="to see", **arguments)
            for arguments in attempts
        ]
        assert None in refusals, f"{verb} does not unblock {rollout.waiting_on}: {refusals}"

    def do(self, command: Any, **arguments: Any) -> None:
        refusal = refused(command, actor=self.person, reason="because", **arguments)
        if refusal is not None:
            assert len(refusal.message) > 20, "a refusal says why"
            assert refusal.message.rstrip().endswith((".", "...")), refusal.message
        self.run_jobs()

    def report(self, task: Task, status: str) -> None:
        message = protocol.TaskReport(
            task_id=str(task.id), attempt=task.attempt, fence=task.fence, status=status, code="exited"
            if status == "failed" else "", message="it exited" if status == "failed" else "",
        )  # fmt: skip
        inbox.accept([(task.agent_id, message)])
        self.run_jobs()

    def heard(self) -> list[UUID]:
        return [agent.id for agent in self.agents if agent.id not in self.silent]

    def heartbeats(self) -> None:
        Agent.objects.filter(id__in=self.heard()).update(last_seen_at=timezone.now())
        long_ago = timezone.now() - timezone.timedelta(minutes=1)
        Agent.objects.filter(id__in=self.silent, last_seen_at__gt=long_ago).update(last_seen_at=long_ago)
        liveness.note_silence()

    def observe(self, targets: Iterable[Target], health: Any) -> None:
        """Have the agents report of these targets what was last sent to them."""
        observations.observe(
            [
                observations.Observation(
                    agent_id=target.agent_id,
                    target=protocol.TargetReport(
                        target_id=str(target.id),
                        status="running",
                        health=health,
                        release_id=str(target.release_id or ""),
                    ),
                )
                for target in targets
                if target.agent_id is not None
            ]
        )
        self.run_jobs()

    def wake(self, ids: Iterable[UUID]) -> None:
        for rollout_id in ids:
            tick(rollout_id)
        self.run_jobs()

    def run_jobs(self) -> None:
        """Do what a worker would, until nothing is left to do."""
        for _ in range(100):
            jobs = list(QueuedJob.objects.filter(coalesce_key__startswith="tick:").order_by("id"))
            if not jobs:
                return
            for job in jobs:
                job.delete()
                assert job.coalesce_key is not None
                tick(UUID(job.coalesce_key.removeprefix("tick:")))
        raise AssertionError("the engine wakes itself for ever")

    def active_ids(self) -> list[UUID]:
        return list(Rollout.objects.active().order_by("id").values_list("id", flat=True))

    def any_rollout(self) -> bool:
        return hasattr(self, "stack") and Rollout.objects.exists()

    def open_tasks(self) -> list[Task]:
        if not hasattr(self, "stack"):
            return []
        rows = Task.objects.filter(state__in=TASK_OPEN, agent__in=self.heard())
        return list(rows.select_related("target").order_by("id"))

    def draw_rollout(self, data: st.DataObject) -> Rollout:
        return data.draw(st.sampled_from(list(Rollout.objects.order_by("id"))))

    def come_to_an_end(self) -> None:
        """Agents are back, targets well, holds lifted, the paused resumed: everything ends by itself."""
        for agent in list(self.silent):
            self.silent.discard(agent)
            connections.connect(agent, "web:1", hostname="", software="")
        self.heartbeats()
        self.run_jobs()
        for release in Release.objects.filter(holds__lifted_at__isnull=True, holds__isnull=False):
            self.do(holds.lift_hold, release_id=release.id)
        for _ in range(400):
            self.all_get_well()
            for rollout in Rollout.objects.filter(state=RolloutState.PAUSED):
                self.do(rollouts.resume_rollout, rollout_id=rollout.id)
            for release in Release.objects.filter(holds__lifted_at__isnull=True, holds__isnull=False):
                self.do(holds.lift_hold, release_id=release.id)
            if tasks := self.open_tasks():
                for task in tasks:
                    self.report(task, "succeeded")
            elif self.active_ids():
                self.time_passes(25)
            else:
                break
        left = [(one.state, one.waiting_on) for one in Rollout.objects.active()]
        assert not left, f"it does not come to an end: {left}"
        for rollout in Rollout.objects.all():
            numbers = list(Event.objects.filter(rollout=rollout).values_list("number", flat=True))
            assert numbers == list(range(1, rollout.event_count + 1))
        self.limits_hold()


@pytest.mark.timeout(600)
def test_the_engine_is_never_stuck_and_never_silent(db: None) -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Engine,
        settings=settings(
            max_examples=settings().max_examples // 2,
            stateful_step_count=50,
            deadline=None,
            # A failing run is kept as it is: to find a shorter one takes minutes.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
