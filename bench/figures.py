"""Samples to lines of a table: medians with their spread, ratios, what was asked and whether it was met."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table, as text."""

    what: str
    median: str
    spread: str = ""
    asked: str = ""
    met: str = ""
    """`yes`, `no`, or empty where nothing was asked."""
    note: str = ""


COLUMNS = ("what", "median", "spread", "asked", "met", "note")


def timed(
    what: str, samples: Sequence[float], unit: str, *, most: float | None = None, note: str = ""
) -> Row:
    """A line for repeated measurements; `most`: the asked upper limit of the median."""
    ordered = sorted(samples)
    median = statistics.median(ordered)
    several = len(ordered) > 1
    return Row(
        what=what,
        median=f"{number(median)} {unit}",
        spread=f"{number(ordered[0])} to {number(ordered[-1])} ({len(ordered)})" if several else "1 run",
        asked=f"at most {number(most)} {unit}" if most is not None else "",
        met=met(median <= most) if most is not None else "",
        note=note,
    )


def latency(
    what: str,
    samples: Sequence[float],
    *,
    median_most: float | None = None,
    p99_most: float | None = None,
    note: str = "",
) -> list[Row]:
    """Two lines, median and 99th percentile, of samples in milliseconds."""
    middle, tail = statistics.median(samples), percentile(samples, 0.99)
    quartiles = f"quartiles {number(percentile(samples, 0.25))} to {number(percentile(samples, 0.75))}"
    return [
        Row(
            what=f"{what}, median",
            median=f"{number(middle)} ms",
            spread=f"{quartiles} ({len(samples)})",
            asked=f"at most {number(median_most)} ms" if median_most is not None else "",
            met=met(middle <= median_most) if median_most is not None else "",
            note=note,
        ),
        Row(
            what=f"{what}, p99",
            median=f"{number(tail)} ms",
            spread=f"longest {number(max(samples))}",
            asked=f"at most {number(p99_most)} ms" if p99_most is not None else "",
            met=met(tail <= p99_most) if p99_most is not None else "",
        ),
    ]


def tail(
    what: str, samples: Sequence[float], *, share: float, most: float | None = None, note: str = ""
) -> Row:
    """One line for a percentile of samples in milliseconds, with their median beside it."""
    value, middle = percentile(samples, share), statistics.median(samples)
    return Row(
        what=f"{what}, p{share * 100:.0f}",
        median=f"{number(value)} ms",
        spread=f"median {number(middle)}, longest {number(max(samples))} ({len(samples)})",
        asked=f"at most {number(most)} ms" if most is not None else "",
        met=met(value <= most) if most is not None else "",
        note=note,
    )


def ratio(
    what: str, value: float, *, least: float | None = None, most: float | None = None, note: str = ""
) -> Row:
    """A line for a quotient of two medians of the same run."""
    asked = f"at least {number(least)}x" if least is not None else ""
    fits = least is None or value >= least
    if most is not None:
        asked = f"at most {number(most)}x"
        fits = fits and value <= most
    return Row(what=what, median=f"{number(value)}x", asked=asked, met=met(fits) if asked else "", note=note)


def met(is_met: bool) -> str:
    return "yes" if is_met else "no"


def percentile(samples: Iterable[float], share: float) -> float:
    """The nearest-rank percentile: the smallest sample that `share` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(sections: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """Everything as one Markdown table, wide enough to read as plain text too."""
    lines: list[tuple[str, ...]] = [COLUMNS]
    for title, rows in sections:
        lines.append((f"**{title}**", *[""] * (len(COLUMNS) - 1)))
        lines.extend(tuple(getattr(row, column) for column in COLUMNS) for row in rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(COLUMNS))]
    text = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
            for line in lines]  # fmt: skip
    text.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(text)
