"""Progress as a bar of coloured parts: an SVG with attributes, because the policy forbids inline style."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    state: str
    x: str
    width: str


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    parts: tuple[Part, ...]
    label: str


ORDER = ("healthy", "reverted", "reverting", "failed", "activating", "staged", "staging", "skipped")


def bar(counts: Mapping[str, int], total: int) -> Bar:
    """Parts in percent of `total`, done first; what is pending is the empty rest."""
    parts = []
    start = 0.0
    for state in ORDER:
        if number := counts.get(state, 0):
            width = 100 * number / max(total, 1)
            parts.append(Part(state, f"{start:.2f}", f"{width:.2f}"))
            start += width
    said = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts.get(state))
    return Bar(tuple(parts), f"{said or 'none done'} of {total}")
