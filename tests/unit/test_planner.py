"""Properties of the planner: whatever agents answer, and in whatever order, the limits hold and it ends."""

import uuid
from datetime import UTC, datetime, timedelta

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.domain.actions import (
    CheckAt,
    CloseTask,
    Dispatch,
    MoveBatch,
    MoveRollout,
    MoveTarget,
    Wait,
)
from deployments.domain.snapshot import BatchFacts, Snapshot, TargetFacts, TaskFacts
from deployments.domain.states import (
    ACTIVE,
    ALLOWED,
    ALLOWED_BATCH,
    ALLOWED_TARGET,
    TASK_OPEN,
    BatchState,
    RolloutState,
    TargetState,
    TaskState,
)
from deployments.engine.planner import plan
from deployments.strategies import registry
from deployments.strategies.base import TargetRef

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REGIONS = ("eu", "us", "ap")


def begin(targets: int, params: dict[str, int | str | bool]) -> Snapshot:
    strategy, parsed = registry.parse(params)
    refs = [
        TargetRef(id=str(uuid.UUID(int=n + 1)), name=f"t{n}", region=REGIONS[n % 3], region_position=n % 3)
        for n in range(targets)
    ]
    waves = strategy.lay_out(refs, parsed)
    members = [(wave.name, batch.targets) for wave in waves for batch in wave.batches]
    return Snapshot(
        rollout_id=uuid.UUID(int=10_000),
        state=RolloutState.PENDING,
        state_since=NOW,
        kind="deploy",
        outcome="",
        title="orders 1.0 to prod",
        strategy=strategy.name,
        params=msgspec.to_builtins(parsed),
        waiting_on=None,
        batches=tuple(
            BatchFacts(
                id=uuid.UUID(int=5_000 + position),
                position=position,
                wave=wave,
                state=BatchState.PENDING,
                activated_at=None,
            )
            for position, (wave, _) in enumerate(members)
        ),
        targets=tuple(
            TargetFacts(
                id=uuid.UUID(target),
                target_id=uuid.UUID(target),
                name=target[-4:],
                batch=position,
                state=TargetState.PENDING,
                state_since=NOW,
                attempts=0,
                retry_at=None,
                touched=False,
                has_previous=True,
                health="healthy",
                reported_at=None,
                error="",
                agent="a",
                agent_silent=False,
                reports_release=True,
            )
            for position, (_, batch) in enumerate(members)
            for target in batch
        ),
    )


class Model:
    """Carries actions out in memory, as `apply` does in the database, and refuses what it would refuse."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.now = NOW
        self.check: datetime | None = None

    def step(self) -> list[object]:
        actions = plan(self.snapshot, self.now)
        assert actions == plan(self.snapshot, self.now), "the same question has the same answer"
        targets = {target.id: target for target in self.snapshot.targets}
        batches = {batch.id: batch for batch in self.snapshot.batches}
        state, outcome, waiting = self.snapshot.state, self.snapshot.outcome, None
        for action in actions:
            match action:
                case MoveTarget():
                    before = targets[action.id]
                    assert action.to in ALLOWED_TARGET[before.state], (before.state, action.to)
                    targets[action.id] = msgspec.structs.replace(
                        before,
                        state=action.to,
                        state_since=self.now,
                        attempts=action.attempts,
                        retry_at=action.retry_at,
                        error=action.error,
                        touched=before.touched or action.to is TargetState.ACTIVATING,
                    )
                case Dispatch():
                    before = targets[action.id]
                    assert before.task is None or before.task.state not in TASK_OPEN, "one task at a time"
                    task = TaskFacts(
                        id=uuid.uuid4(),
                        kind=action.kind,
                        state=TaskState.DISPATCHED,
                        attempt=action.attempt,
                        expires_at=action.expires_at,
                    )
                    targets[action.id] = msgspec.structs.replace(before, task=task)
                case CloseTask():
                    owner = next(t for t in targets.values() if t.task and t.task.id == action.id)
                    assert owner.task is not None
                    assert owner.task.state in TASK_OPEN
                    closed = msgspec.structs.replace(owner.task, state=action.to)
                    targets[owner.id] = msgspec.structs.replace(owner, task=closed)
                case MoveBatch():
                    batch = batches[action.id]
                    assert action.to in ALLOWED_BATCH[batch.state], (batch.state, action.to)
                    since = self.now if action.to is BatchState.BAKING else batch.activated_at
                    batches[action.id] = msgspec.structs.replace(batch, state=action.to, activated_at=since)
                case MoveRollout():
                    assert action.to in ALLOWED[state]
                    state, outcome = action.to, action.reason
                case Wait():
                    waiting = action.waiting
                case CheckAt():
                    self.check = action.when
        self.snapshot = msgspec.structs.replace(
            self.snapshot,
            state=state,
            outcome=outcome,
            waiting_on=waiting,
            batches=tuple(batches.values()),
            targets=tuple(targets.values()),
        )
        return list(actions)

    def open_tasks(self) -> list[TargetFacts]:
        return [t for t in self.snapshot.targets if t.task is not None and t.task.state in TASK_OPEN]

    def answer(self, target: TargetFacts, *, good: bool) -> None:
        assert target.task is not None
        task = msgspec.structs.replace(
            target.task,
            state=TaskState.SUCCEEDED if good else TaskState.FAILED,
            error_code="" if good else "exited",
            error="" if good else "it exited",
        )
        answered = msgspec.structs.replace(target, task=task)
        self.snapshot = msgspec.structs.replace(
            self.snapshot,
            targets=tuple(answered if t.id == target.id else t for t in self.snapshot.targets),
        )


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    targets=st.integers(1, 14),
    params=st.fixed_dictionaries(
        {
            "batch": st.sampled_from(["25%", "10%", "100%", 1]),
            "order": st.sampled_from(["spread", "regions"]),
            "on_failure": st.sampled_from(["rollback", "pause", "abort"]),
            "max_failures": st.integers(0, 3),
            "max_unavailable": st.sampled_from([0, 1, "50%"]),
            "bake_seconds": st.sampled_from([0, 30]),
            "activate_attempts": st.integers(1, 2),
        }
    ),
)
def test_whatever_agents_answer_the_limits_hold_and_every_wait_is_explained(
    data: st.DataObject, targets: int, params: dict[str, int | str | bool]
) -> None:
    model = Model(begin(targets, params))
    for _ in range(400):
        model.step()
        snapshot = model.snapshot
        busy = [t for t in snapshot.targets if t.state in (TargetState.ACTIVATING, TargetState.REVERTING)]
        if params["max_unavailable"] == 1:
            out_already = [t for t in snapshot.targets if t.state is TargetState.FAILED and t.touched]
            serving_again = [t for t in busy if t.error == "" and t.state is TargetState.ACTIVATING]
            assert len(serving_again) <= 1, (serving_again, out_already)
        if snapshot.state not in ACTIVE:
            assert model.open_tasks() == [], "no task outlives its rollout"
            break
        assert snapshot.waiting_on is not None, "every wait is explained"
        assert snapshot.waiting_on.sentence
        repeated = model.step()
        assert all(isinstance(action, Wait | CheckAt) for action in repeated), "a plan is made once"
        if snapshot.state is RolloutState.PAUSED:
            open_tasks = model.open_tasks()
            if not open_tasks:
                break
        waiting = model.open_tasks()
        if waiting and data.draw(st.integers(0, 9), label="answer, or let time pass") < 9:
            chosen = data.draw(st.sampled_from(waiting))
            model.answer(chosen, good=data.draw(st.integers(0, 9), label="how it went") < 8)
        else:
            assert model.check is not None or snapshot.waiting_on.kind in ("capacity", "person"), (
                "it waits for time, and nobody told the clock"
            )
            if model.check is None:
                break
            model.now = max(model.now, model.check) + timedelta(milliseconds=1)
    else:
        raise AssertionError(f"no end in sight: {model.snapshot.waiting_on}")
    end = model.snapshot
    if end.state is RolloutState.RUNNING:
        assert end.waiting_on is not None
        assert end.waiting_on.kind == "capacity", "nothing else may wait for what is outside"
        assert "cancel" in end.waiting_on.unblock
    else:
        assert end.state not in ACTIVE or end.state is RolloutState.PAUSED, "a rollback always ends"
    if model.snapshot.state is RolloutState.SUCCEEDED:
        failed = [t for t in model.snapshot.targets if t.state is TargetState.FAILED]
        assert len(failed) <= int(params["max_failures"])
        assert all(b.state is BatchState.SUCCEEDED for b in model.snapshot.batches)
    if model.snapshot.state is RolloutState.ROLLED_BACK:
        assert all(t.state is TargetState.REVERTED for t in model.snapshot.targets if t.touched)


@given(targets=st.integers(1, 60), batch=st.sampled_from(["1%", "10%", "33%", "100%", 1]))
def test_every_target_is_in_exactly_one_batch(targets: int, batch: str | int) -> None:
    for order in ("spread", "regions"):
        snapshot = begin(targets, {"batch": batch, "order": order})
        assert len({target.id for target in snapshot.targets}) == len(snapshot.targets) == targets


@given(targets=st.integers(3, 60))
def test_spreading_takes_regions_in_turn(targets: int) -> None:
    snapshot = begin(targets, {"batch": 3})
    first = [int(t.id) - 1 for t in snapshot.targets if t.batch == 0]
    assert sorted(n % 3 for n in first) == [0, 1, 2]
