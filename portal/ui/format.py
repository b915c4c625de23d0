"""Values as people read them. Formatted in the view, because a template spends its time on filters."""

import json
from datetime import datetime, timedelta
from typing import Any

from django.utils.html import format_html
from django.utils.safestring import SafeString

DASH = "\N{EM DASH}"
UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def duration(value: timedelta | None) -> str:
    """`1 h 4 min`, `12 s`: the two largest units, without a zero at the end."""
    if value is None:
        return DASH
    seconds = max(0, round(value.total_seconds()))
    for position, (size, name) in enumerate(UNITS):
        if seconds >= size or size == 1:
            whole, rest = divmod(seconds, size)
            if position + 1 < len(UNITS):
                smaller, unit = UNITS[position + 1]
                if part := rest // smaller:
                    return f"{whole} {name} {part} {unit}"
            return f"{whole} {name}"
    raise AssertionError("a duration has a unit")


def age(moment: datetime, now: datetime) -> str:
    """`just now`, `3 min ago`, `5 h ago`, `12 d ago`; `in 3 min` for what lies ahead."""
    seconds = round((now - moment).total_seconds())
    ahead, seconds = seconds < 0, abs(seconds)
    if seconds < 5:
        return "just now"
    size, name = next(unit for unit in UNITS if seconds >= unit[0])
    return f"in {seconds // size} {name}" if ahead else f"{seconds // size} {name} ago"


def ago(moment: datetime | None, now: datetime) -> SafeString | str:
    """A `<time>` that says how long ago, and on hover when; `times.js` keeps it true."""
    if moment is None:
        return DASH
    return format_html(
        '<time class="ago" datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="milliseconds"),
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        age(moment, now),
    )


def clock(moment: datetime) -> SafeString:
    """A `<time>` that says the time of day, and on hover the date."""
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        moment.isoformat(timespec="milliseconds"),
        f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        f"{moment:%H:%M:%S}",
    )


def size(number: int) -> str:
    """`4.5 MB`: decimal, as registries and shells' `ls --si` count."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def short(digest: str) -> str:
    """The first 12 hex digits of a digest or a commit: enough to recognise it."""
    return digest.removeprefix("sha256:")[:12]


def words(state: str) -> str:
    return state.replace("_", " ")


def plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def pretty(value: Any) -> str:
    """JSON for reading: indented, keys as they were written."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def one_line(value: Any) -> str:
    """`state=running, reason=x` of a flat object."""
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    return ", ".join(f"{key}={_plain(item)}" for key, item in value.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
