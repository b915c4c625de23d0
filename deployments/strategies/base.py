"""What a strategy decides: how targets are laid out before, and which batch may start next during.

A strategy is one file here and one line in `registry.py` (or an entry point in the group
`slipway.strategies`). It is pure: no clock, no database. Staging, tasks, retries, failures and
rollback are the planner's, the same for every strategy.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar, Literal, Protocol

import msgspec

from deployments.domain.plan import WavePlan
from deployments.domain.states import BatchState
from deployments.errors import Invalid

MAX_TARGETS = 1_000_000


class TargetRef(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    region: str
    region_position: int


Reaction = Literal["rollback", "pause", "abort"]


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every strategy understands."""

    on_failure: Reaction = "rollback"
    """What happens when more targets have failed than is tolerated."""
    on_task_failure: Reaction | None = None
    """The same where an agent said that a task failed; None: as `on_failure`, here and below."""
    on_unhealthy: Reaction | None = None
    """Where a target does not become healthy, or does not stay so."""
    on_timeout: Reaction | None = None
    """Where an agent did not answer in time, or a batch or the rollout took too long."""
    on_silent: Reaction | Literal["wait"] = "wait"
    """What happens when an agent that is needed has been silent for `silent_seconds`."""
    silent_seconds: int = 300
    max_failures: int | str = 0
    """Targets, as a count or as "10%" of all, that may fail in the whole rollout."""
    max_failures_per_batch: int | str | None = None
    """Of those, how many in one batch, as a count or as a percentage of the batch; None: no limit."""
    max_unavailable: int | str = 0
    """Targets, as a count or as "25%", that may be out of service at once; 0: a whole batch."""
    stage_attempts: int = 3
    activate_attempts: int = 1
    """How often a target is activated at most, whether it failed at once or fell ill later."""
    retry_base_seconds: int = 1
    retry_max_seconds: int = 30
    """A retry waits a random share of base, 2 x base, 4 x base, ... up to this."""
    stage_timeout_seconds: int = 600
    activate_timeout_seconds: int = 120
    """From dispatch to the agent's word, stopping, starting and health check included."""
    batch_timeout_seconds: int = 3600
    """From the start of a batch until its targets are healthy, not counting the bake and pauses."""
    rollout_timeout_seconds: int = 86_400
    """From the start to the end, not counting pauses."""


class BatchView(msgspec.Struct, frozen=True, kw_only=True):
    position: int
    wave: str
    state: BatchState
    activated_at: datetime | None


class Start(msgspec.Struct, frozen=True):
    """The batch at `position` may start now."""

    position: int


class Bake(msgspec.Struct, frozen=True):
    """The batch at `position` is watched until then; afterwards it has succeeded."""

    position: int
    until: datetime


class Settle(msgspec.Struct, frozen=True):
    """The batch at `position` has baked long enough."""

    position: int


class Busy(msgspec.Struct, frozen=True):
    """The batch at `position` is at work."""

    position: int


class Done(msgspec.Struct, frozen=True):
    """Every batch has succeeded."""


Step = Start | Bake | Settle | Busy | Done


class Strategy(Protocol):
    name: ClassVar[str]
    params: ClassVar[type[Params]]

    def check(self, params: Params, targets: int) -> None:
        """Refuse parameters that make no sense for so many targets; raises Invalid."""

    def lay_out(self, targets: Sequence[TargetRef], params: Params) -> tuple[WavePlan, ...]:
        """Put every target into exactly one batch."""

    def next(self, batches: Sequence[BatchView], params: Params, now: datetime) -> Step:
        """Say what comes next when nothing has failed."""


def check_common(params: Params, targets: int) -> None:
    """Refuse values of the common parameters that make no sense for so many targets; raises Invalid."""
    if params.max_unavailable != 0:
        size(params.max_unavailable, targets, "max_unavailable")
    if 0 < targets <= tolerated(params.max_failures, targets, "max_failures"):
        raise Invalid(
            max_failures="tolerates that every target fails, which would count as a success; allow fewer"
        )
    if params.max_failures_per_batch is not None:
        tolerated(params.max_failures_per_batch, targets, "max_failures_per_batch")
    for name in ("stage_attempts", "activate_attempts"):
        bounded(params, name, 1, 20)
    for name in ("stage_timeout_seconds", "activate_timeout_seconds", "retry_base_seconds", "silent_seconds"):
        bounded(params, name, 1, 86_400)
    bounded(params, "retry_max_seconds", params.retry_base_seconds, 86_400)
    bounded(params, "batch_timeout_seconds", params.activate_timeout_seconds, 7 * 86_400)
    bounded(params, "rollout_timeout_seconds", params.batch_timeout_seconds, 30 * 86_400)


def bounded(params: Params, name: str, least: int, most: int) -> None:
    """Raise Invalid naming the parameter unless its value lies between the bounds."""
    if not least <= getattr(params, name) <= most:
        raise Invalid(**{name: f"must lie between {least} and {most}"})


def tolerated(value: int | str, total: int, name: str) -> int:
    """As `size`, but none at all (0 or 0%) is fine, and a percentage is rounded down to 0."""
    text = str(value).strip()
    if text in ("0", "0%"):
        return 0
    found = size(text, max(total, 1) if text.endswith("%") else MAX_TARGETS, name)
    return total * int(text[:-1]) // 100 if text.endswith("%") else found


def size(value: int | str, total: int, name: str) -> int:
    """Read a count or a percentage of `total` (rounded down, at least 1); raises Invalid naming `name`."""
    text = str(value).strip()
    digits, percent = (text[:-1], True) if text.endswith("%") else (text, False)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 7):
        raise Invalid(**{name: f"{text[:20]!r} is neither a count nor a percentage like “25%”"})
    number = int(digits)
    if percent and not 1 <= number <= 100:
        raise Invalid(**{name: f"{text!r} must lie between 1% and 100%"})
    if not percent and not 1 <= number <= max(total, 1):
        raise Invalid(**{name: f"{text!r} must lie between 1 and the number of targets ({total})"})
    return max(1, total * number // 100) if percent else number
