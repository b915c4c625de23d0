"""One byte range of a representation (RFC 9110, section 14). Several at once are answered with the whole."""

import re

import msgspec

from deployments.errors import RangeNotSatisfiable

RANGE = re.compile(r"bytes\s*=\s*(?:(\d{1,19})-(\d{0,19})|-(\d{1,19}))\s*", re.IGNORECASE)


class Span(msgspec.Struct, frozen=True):
    start: int
    end: int
    """Exclusive."""

    @property
    def length(self) -> int:
        return self.end - self.start


def parse(header: str, size: int) -> Span | None:
    """Read a Range header for a representation of `size` bytes; None: send all of it.

    What is not one well-formed range is ignored, as the RFC wants. Raises RangeNotSatisfiable where the
    range lies outside.
    """
    match = RANGE.fullmatch(header)
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(
            f"The artifact has {size} bytes, and the range begins at {start}.", size=size
        )
    return Span(start, end)
