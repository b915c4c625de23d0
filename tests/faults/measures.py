"""How soon the engine looked at what moved, after the last fault before. Times are Unix seconds."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Run:
    """A time in which a rollout had to be looked at; `end` is infinite where it still has to be."""

    rollout: str
    start: float
    end: float


@dataclass(frozen=True)
class Wait:
    """What one fault did to one rollout that ran then."""

    since_first: float
    """Seconds from this fault."""
    since_last: float
    """Seconds from the last fault before the look that ended the wait."""


def waits(
    struck: Sequence[float],
    every: Sequence[float],
    runs: Sequence[Run],
    looks: Mapping[str, Sequence[float]],
    never: float,
) -> list[Wait]:
    """One for each fault of `struck` and each run that it fell into; none is left out.

    A wait ends with the next look at the rollout, or with the run itself where a person ended that. One
    that never ends counts as `never` seconds. `every` are the faults that excuse: `struck` and others.
    """
    faults = sorted(every)
    found = []
    for when in struck:
        for run in runs:
            if not run.start <= when < run.end:
                continue
            times = sorted(looks.get(run.rollout, ()))
            turn = bisect_right(times, when)
            over = min(times[turn] if turn < len(times) else math.inf, run.end)
            if over == math.inf:
                found.append(Wait(never, never))
                continue
            found.append(Wait(over - when, over - faults[bisect_right(faults, over) - 1]))
    return found


def spread(seconds: Sequence[float]) -> str:
    values = sorted(seconds)
    if not values:
        return "no such case"
    p99 = values[max(0, math.ceil(0.99 * len(values)) - 1)]
    return f"median {median(values):.2f} s, p99 {p99:.2f} s, most {values[-1]:.2f} s, of {len(values)}"
