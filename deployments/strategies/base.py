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


class TargetRef(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    region: str
    region_position: int


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every strategy understands."""

    on_failure: Literal["rollback", "pause", "abort"] = "rollback"
    max_failures: int = 0
    """Targets that may fail before `on_failure` applies."""
    max_unavailable: int | str = 0
    """Targets, as a count or as "25%", that may be out of service at once; 0: a whole batch."""
    stage_attempts: int = 3
    activate_attempts: int = 1
    stage_timeout_seconds: int = 600
    activate_timeout_seconds: int = 120
    """From dispatch to the agent's word, stopping, starting and health check included."""


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
