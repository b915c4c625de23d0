"""A service's log file: its last lines, what is new in it, and its bounds."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

TAIL_LINES = 20
TAIL_LINE_CHARS = 500
_TAIL_BYTES = 64 * 1024


def size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def tail(path: Path, start: int, secret_values: Iterable[str]) -> tuple[str, ...]:
    """The last lines written after the offset `start`, each cut, secrets blackened."""
    length = size(path)
    if start > length:
        start = 0  # rotated since
    begin = max(start, length - _TAIL_BYTES)
    text = redact(read(path, begin, length - begin).decode("utf-8", "replace"), secret_values)
    lines = [line[:TAIL_LINE_CHARS] for line in text.splitlines() if line.strip()]
    return tuple(lines[-TAIL_LINES:])


def read(path: Path, begin: int, length: int) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.pread(descriptor, length, begin)
    finally:
        os.close(descriptor)


def redact(text: str, secret_values: Iterable[str]) -> str:
    for value in secret_values:
        text = text.replace(value, "[secret]")
    return text


def rotate(path: Path, limit: int) -> bool:
    """Empty a file larger than `limit` bytes, keeping its end in `<name>.1`.

    The service writes with O_APPEND and goes on at the new end; lines that it writes between copying and
    emptying are lost, which is the price of not asking it to reopen its log.
    """
    length = size(path)
    if length <= limit:
        return False
    old = path.with_name(f"{path.name}.1")
    with path.open("rb") as source, old.open("wb") as target:
        os.fchmod(target.fileno(), 0o600)
        source.seek(max(0, length - limit))
        shutil.copyfileobj(source, target)
    os.truncate(path, 0)
    return True
