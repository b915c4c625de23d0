"""What moves or waits at the end: a few rollouts in each active state, and one to very many targets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.db.backends.utils import CursorWrapper

from deployments.domain.states import BatchState, RolloutState, TargetState
from deployments.domain.waiting import Waiting
from deployments.models import Environment, Release, Service, Target
from portal.local.seed.size import ACTIVE_KINDS, QUIET, SHOWCASE, SHOWCASE_ROLLOUTS, Size
from portal.local.seed.stories import LASTED, Story, Writer

B, R, T = BatchState, RolloutState, TargetState
SHOWCASE_BATCHES = 10
FAILED_OF_SHOWCASE = 3
STEERING = ("pause", "rollback", "cancel")


@dataclass(frozen=True)
class Scene:
    """How an ordinary rollout to prod stands: states of batches of one target each, and of the targets."""

    state: RolloutState
    batches: Sequence[BatchState]
    targets: Sequence[TargetState]
    waiting: Waiting
    outcome: str = ""


SCENES = (
    Scene(
        R.RUNNING,
        (B.SUCCEEDED, B.RUNNING, B.PENDING),
        (T.HEALTHY, T.ACTIVATING, T.STAGED),
        Waiting(
            kind="tasks",
            subject="activating:1",
            sentence="Batch 2 of 3: 1 target to start the release and pass their health check",
            unblock=STEERING,
        ),
    ),
    Scene(
        R.PAUSED,
        (B.FAILED, B.PENDING, B.PENDING),
        (T.FAILED, T.STAGED, T.STAGED),
        Waiting(
            kind="person",
            subject="paused",
            sentence="Paused: 1 target failed in batch 1",
            who="anyone who may resume rollouts of this service",
            unblock=("resume", "rollback", "cancel"),
        ),
        "1 target failed in batch 1",
    ),
    Scene(
        R.ROLLING_BACK,
        (B.FAILED, B.PENDING, B.PENDING),
        (T.REVERTING, T.STAGED, T.STAGED),
        Waiting(
            kind="tasks",
            subject="reverting:0",
            sentence="1 target to go back to the last stable release",
        ),
        "A target did not become healthy",
    ),
    Scene(
        R.PENDING,
        (B.PENDING, B.PENDING, B.PENDING),
        (T.PENDING, T.PENDING, T.PENDING),
        Waiting(
            kind="engine",
            subject="engine",
            sentence="Waiting for a worker to take it up",
            who="whoever runs the workers, if it lasts",
            unblock=("cancel",),
        ),
    ),
)
# Behind the running one of the same service.
BEHIND = Scene(
    R.QUEUED,
    (B.PENDING, B.PENDING, B.PENDING),
    (T.PENDING, T.PENDING, T.PENDING),
    Waiting(
        kind="queue",
        subject="slot",
        sentence="Waits for its turn: another rollout of the service moves in this environment",
        unblock=("cancel",),
    ),
)


def make_active(size: Size, cursor: CursorWrapper) -> Iterator[str]:
    """Yields what it makes next."""
    stage = _Stage(size, cursor)
    showcase = stage.services[SHOWCASE - 1]
    before, newest = _releases(showcase)[-2:]
    targets = stage.targets(showcase)
    counts = _parts(len(targets), SHOWCASE_BATCHES)
    yield f"a rollout to {size.targets:,} targets"
    stage.tell(
        service=showcase,
        release=before,
        previous=None,
        state=R.SUCCEEDED,
        batches=[(count, B.SUCCEEDED) for count in counts],
        targets=[(target, T.HEALTHY) for target in targets],
        waiting=None,
        outcome="Every batch is healthy",
    )
    yield f"{size.active_each} rollouts in each active state"
    for number, scene in enumerate(SCENES):
        for turn in range(size.active_each):
            service = stage.services[SHOWCASE + number * size.active_each + turn]
            stage.play(service, scene)
            if scene.state is R.RUNNING:
                stage.play(service, BEHIND)
    yield "the next one to all of them, half-way"
    half = len(counts) // 2
    batches = [B.SUCCEEDED if p < half else B.RUNNING if p == half else B.PENDING for p in range(len(counts))]
    sentence = f"Batch {half + 1} of {len(counts)}: {counts[half]} targets to start the release"
    stage.tell(
        service=showcase,
        release=newest,
        previous=before,
        state=R.RUNNING,
        batches=list(zip(counts, batches, strict=True)),
        targets=list(zip(targets, _half_way(counts, batches), strict=True)),
        waiting=Waiting(kind="tasks", subject=f"activating:{half}", sentence=sentence, unblock=STEERING),
    )


def _half_way(counts: Sequence[int], batches: Sequence[BatchState]) -> list[TargetState]:
    """Healthy where the batch is done, but for a few that failed; at work, or staged and waiting."""
    arrived = {B.SUCCEEDED: T.HEALTHY, B.RUNNING: T.ACTIVATING, B.PENDING: T.STAGED}
    states = [arrived[batch] for count, batch in zip(counts, batches, strict=True) for _ in range(count)]
    done = states.count(T.HEALTHY)
    for turn in range(min(done, FAILED_OF_SHOWCASE)):
        states[turn * done // FAILED_OF_SHOWCASE] = T.FAILED
    return states


def _parts(total: int, most: int) -> list[int]:
    """`total` in at most so many parts of nearly the same size."""
    count = min(total, most)
    return [total // count + (position < total % count) for position in range(count)]


def _releases(service: Service) -> list[Release]:
    return list(service.releases.select_related("artifact", "config", "service").order_by("id"))


class _Stage:
    def __init__(self, size: Size, cursor: CursorWrapper) -> None:
        self.size = size
        self.count = SHOWCASE_ROLLOUTS + ACTIVE_KINDS * size.active_each
        self.told = 0
        self.services = list(Service.objects.select_related("team").order_by("id")[: self.count])
        self.prod = Environment.objects.get(name="prod")
        self.writer = Writer(size, cursor, self.prod)

    def targets(self, service: Service) -> list[Target]:
        """In prod, dealt out over the regions, as the strategy does by default."""
        targets = Target.objects.filter(service=service, region__environment=self.prod)
        return list(targets.select_related("stable_release", "agent").order_by("name", "region__position"))

    def play(self, service: Service, scene: Scene) -> None:
        targets = self.targets(service)
        self.tell(
            service=service,
            release=_releases(service)[-1],
            previous=targets[0].stable_release,
            state=scene.state,
            batches=[(1, state) for state in scene.batches],
            targets=list(zip(targets, scene.targets, strict=True)),
            waiting=scene.waiting,
            outcome=scene.outcome,
        )

    def tell(self, **what: Any) -> None:
        """All within the quiet time, one after the other."""
        self.told += 1
        at = self.size.until - QUIET + (QUIET - 2 * LASTED) * self.told / self.count
        # Ids have milliseconds, and no row is to be older than its id.
        at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        self.writer.write(Story(number=self.size.history + self.told, at=at, **what))
