"""Follows the log files of all services and sends what is new in them, in bounded chunks."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments import protocol
from deployments.agent import logfile

POLL_SECONDS = 0.5
BYTES_PER_SECOND = 64 * 1024
"""For each target; what is more is left out and its lines are counted."""
BURST_BYTES = 128 * 1024


@dataclass
class _Position:
    offset: int
    allowance: float = BURST_BYTES
    last: float = 0.0
    dropped: int = 0
    held: int = 0
    """Length of an unfinished line that was there at the last look."""


class LogPump:
    """Blocking; called in a thread, one call at a time."""

    def __init__(self, limit_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit_bytes
        self._clock = clock
        self._positions: dict[str, _Position] = {}

    def start_at_end(self, target_id: str, path: Path) -> None:
        """What was written before this agent looked is not sent."""
        self._positions.setdefault(target_id, _Position(logfile.size(path)))

    def rotate(self, target_id: str, path: Path) -> bool:
        if logfile.size(path) <= self._limit:
            return False
        if not logfile.rotate(path, self._limit):
            return False
        if target_id in self._positions:
            self._positions[target_id].offset = 0
        return True

    def collect(self, target_id: str, path: Path, secret_values: tuple[str, ...]) -> list[protocol.LogChunk]:
        """What is new, in chunks of at most MAX_LOG_BYTES, as far as the rate allows."""
        position = self._positions.setdefault(target_id, _Position(0))
        length = logfile.size(path)
        now = self._clock()
        if position.last:
            earned = (now - position.last) * BYTES_PER_SECOND
            position.allowance = min(BURST_BYTES, position.allowance + earned)
        position.last = now
        if length < position.offset:
            position.offset = 0
        chunks: list[protocol.LogChunk] = []
        while position.offset < length:
            data = logfile.read(path, position.offset, min(protocol.MAX_LOG_BYTES, length - position.offset))
            data = self._whole_lines(position, data)
            if not data:
                break
            position.offset += len(data)
            if len(data) > position.allowance:
                position.dropped += max(data.count(b"\n"), 1)
                continue
            position.allowance -= len(data)
            chunks.append(
                protocol.LogChunk(
                    target_id=target_id, text=_text(data, secret_values), dropped=position.dropped
                )
            )
            position.dropped = 0
        return chunks

    def unsent(self, target_id: str, chunk: protocol.LogChunk) -> None:
        """The chunk could not be queued: it counts as dropped."""
        position = self._positions[target_id]
        position.dropped += chunk.dropped + max(chunk.text.count("\n"), 1)

    @staticmethod
    def _whole_lines(position: _Position, data: bytes) -> bytes:
        """Up to the last line's end; a line without one is waited for once, unless it fills the chunk."""
        end = data.rfind(b"\n") + 1
        if end:
            position.held = 0
            return data[:end]
        if len(data) < protocol.MAX_LOG_BYTES and len(data) != position.held:
            position.held = len(data)
            return b""
        position.held = 0
        return data


def _text(data: bytes, secret_values: tuple[str, ...]) -> str:
    text = logfile.redact(data.decode("utf-8", "replace"), secret_values)
    # Replacement characters are three bytes long; a chunk of binary noise may have grown.
    return text.encode()[: protocol.MAX_LOG_BYTES].decode("utf-8", "ignore")
