"""Rolling: batch after batch, with health and bake time between them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Literal

from deployments.domain.plan import BatchPlan, WavePlan
from deployments.domain.states import BatchState
from deployments.errors import Invalid
from deployments.strategies.base import (
    Bake,
    BatchView,
    Busy,
    Done,
    Params,
    Settle,
    Start,
    Step,
    TargetRef,
    bounded,
    check_common,
    size,
)

MAX_BAKE_SECONDS = 7 * 86_400


class RollingParams(Params, frozen=True, kw_only=True, forbid_unknown_fields=True):
    batch: int | str = "25%"
    """Targets in a batch, as a count or as a percentage of all (rounded down, at least one)."""
    order: Literal["spread", "regions"] = "spread"
    """`spread`: each batch takes from every region; `regions`: one region whole before the next."""
    bake_seconds: int = 0
    """How long a batch is watched before the next one starts."""


class Rolling:
    name = "rolling"
    params = RollingParams

    def check(self, params: Params, targets: int) -> None:
        assert isinstance(params, RollingParams)
        check_common(params, targets)
        size(params.batch, targets, "batch")
        bounded(params, "bake_seconds", 0, MAX_BAKE_SECONDS)

    def lay_out(self, targets: Sequence[TargetRef], params: Params) -> tuple[WavePlan, ...]:
        assert isinstance(params, RollingParams)
        regions: dict[tuple[int, str], list[TargetRef]] = {}
        for target in sorted(targets, key=lambda t: (t.region_position, t.region, t.name, t.id)):
            regions.setdefault((target.region_position, target.region), []).append(target)
        count = size(params.batch, len(targets), "batch")
        bakes = -(-len(targets) // count) * params.bake_seconds
        if bakes >= params.rollout_timeout_seconds:
            raise Invalid(
                rollout_timeout_seconds=f"is over before the batches have baked, which takes {bakes} s; "
                "allow more, or bake for less"
            )
        if params.order == "regions":
            return tuple(
                WavePlan(name=name, batches=_batches(members, count))
                for (_, name), members in regions.items()
            )
        spread = [target for row in zip_longest(*regions.values()) for target in row if target is not None]
        return (WavePlan(name="all regions", batches=_batches(spread, count)),)

    def next(self, batches: Sequence[BatchView], params: Params, now: datetime) -> Step:
        assert isinstance(params, RollingParams)
        for batch in batches:
            match batch.state:
                case BatchState.SUCCEEDED:
                    continue
                case BatchState.PENDING:
                    return Start(batch.position)
                case BatchState.BAKING:
                    assert batch.activated_at is not None
                    until = batch.activated_at + timedelta(seconds=params.bake_seconds)
                    return Settle(batch.position) if now >= until else Bake(batch.position, until)
                case _:
                    return Busy(batch.position)
        return Done()


def _batches(targets: Sequence[TargetRef], count: int) -> tuple[BatchPlan, ...]:
    return tuple(
        BatchPlan(targets=tuple(target.id for target in targets[start : start + count]))
        for start in range(0, len(targets), count)
    )
