"""The journal: which tasks were begun, how they ended, and which results the control plane has not taken yet.

One JSON line an event, synced to the disk before anything is said about it. Lines that wait are written
together, so that hundreds of tasks at once share a few syncs. When the file has grown to twice what still
matters it is written anew. A line that a crash cut off is ignored.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import msgspec

from deployments import protocol
from deployments.agent.errors import failure_from
from deployments.agent.state import write_atomic
from deployments.agent.work import on_disk

log = logging.getLogger("slipway.agent.journal")

MAX_RESULTS = 2000
"""Acknowledged results that are remembered; a repetition older than that has long expired."""
COMPACT_BYTES = 1024 * 1024


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    kind: Literal["begin", "end", "ack", "fence"]
    task_id: str = ""
    attempt: int = 0
    target_id: str = ""
    fence: int = 0
    report: protocol.TaskReport | None = None


class Entry(msgspec.Struct, kw_only=True):
    """What is known of one attempt of one task."""

    target_id: str
    fence: int
    report: protocol.TaskReport | None = None
    """How it ended; None while it has not."""
    acknowledged: bool = False


Key = tuple[str, int]


class Journal:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._fences: dict[str, int] = {}
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._descriptor = -1
        self._size = 0
        self._kept = 0
        """Bytes of the file right after it was last written anew."""

    def load(self) -> None:
        """Read what is there and write it anew, compact; raises OSError."""
        data = self._path.read_bytes() if self._path.exists() else b""
        for raw in data.splitlines():
            try:
                self._apply(msgspec.json.decode(raw, type=Line))
            except ValueError:  # of JSON that is none, or no UTF-8
                log.warning("A journal line cannot be read and is ignored (%d bytes)", len(raw))
        self._compact()

    def _apply(self, line: Line) -> None:
        key = (line.task_id, line.attempt)
        if line.target_id:
            self._fences[line.target_id] = max(self._fences.get(line.target_id, 0), line.fence)
        if line.kind == "begin":
            self._entries[key] = Entry(target_id=line.target_id, fence=line.fence)
        elif line.kind == "end" and line.report is not None:
            entry = self._entries.setdefault(key, Entry(target_id=line.target_id, fence=line.fence))
            entry.report = line.report
        elif line.kind == "ack" and key in self._entries:
            self._entries[key].acknowledged = True
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        surplus = len(self._entries) - MAX_RESULTS
        if surplus > 0:
            old = [key for key, entry in self._entries.items() if entry.acknowledged][:surplus]
            for key in old:
                del self._entries[key]

    # Questions.

    def highest_fence(self, target_id: str) -> int:
        return self._fences.get(target_id, 0)

    def find(self, key: Key) -> Entry | None:
        return self._entries.get(key)

    def unacknowledged(self) -> list[protocol.TaskReport]:
        return [e.report for e in self._entries.values() if e.report is not None and not e.acknowledged]

    def open_tasks(self) -> tuple[str, ...]:
        """Tasks begun and not ended, and those whose result was not acknowledged."""
        return tuple({key[0]: None for key, entry in self._entries.items() if not entry.acknowledged})

    # Changes. In memory at once, on disk when the call returns.

    async def begin(self, instruction: protocol.AnyInstruction) -> None:
        """Raises OSError when it cannot be written; the task must then not be started."""
        line = Line(
            "begin",
            instruction.task_id,
            instruction.attempt,
            target_id=instruction.target_id,
            fence=instruction.fence,
        )
        self._apply(line)
        await self._append(line)

    async def end(self, report: protocol.TaskReport) -> None:
        """Record a result. When the disk is full it is kept in memory and written at the next chance."""
        key = (report.task_id, report.attempt)
        target_id = self._entries[key].target_id if key in self._entries else ""
        line = Line(
            "end",
            report.task_id,
            report.attempt,
            target_id=target_id,
            fence=report.fence if target_id else 0,
            report=report,
        )
        self._apply(line)
        try:
            await self._append(line)
        except OSError as error:
            log.error(
                "A result is kept in memory only: %s", failure_from(error, "writing its journal").message
            )
            self._kept = 0  # the next compaction writes it

    def acknowledge(self, key: Key) -> None:
        """Not waited for: an acknowledgement lost in a crash costs one more report."""
        if (entry := self._entries.get(key)) is None or entry.report is None or entry.acknowledged:
            return
        line = Line("ack", *key)
        self._apply(line)
        future = self._enqueue(line)
        future.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _append(self, line: Line) -> None:
        await asyncio.shield(self._enqueue(line))

    def _enqueue(self, line: Line) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((msgspec.json.encode(line) + b"\n", future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_waiting(), name="journal")
        return future

    async def _write_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            failure: OSError | None = None
            try:
                await on_disk(self._write, b"".join(data for data, _ in batch))
                if self._size > max(COMPACT_BYTES, 2 * self._kept):
                    self._compact()
            except OSError as error:
                failure = error
            for _, future in batch:
                if future.done():
                    continue
                if failure is None:
                    future.set_result(None)
                else:
                    future.set_exception(OSError(failure.errno, failure.strerror))

    def _write(self, data: bytes) -> None:
        """Append and sync; on failure the file is as it was."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
            self._size += len(data)
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise

    def _compact(self) -> None:
        """On the loop, since it reads what the loop changes; a megabyte takes a few milliseconds."""
        lines = [Line("fence", target_id=target, fence=fence) for target, fence in self._fences.items()]
        for key, entry in self._entries.items():
            if entry.report is None:
                lines.append(Line("begin", *key, entry.target_id, entry.fence))
            else:
                lines.append(Line("end", *key, entry.target_id, entry.fence, entry.report))
                if entry.acknowledged:
                    lines.append(Line("ack", *key))
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        write_atomic(self._path, data)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = self._kept = len(data)

    async def close(self) -> None:
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
