"""Between the agents' sockets of this web process and the rows: tasks go down, everything else comes up.

There is one of these in a process, not one for each connection: a wake-up takes the tasks of all
connected agents in one go, and what the agents say is gathered before it is written.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

import msgspec
import structlog
from django.db import DatabaseError, InterfaceError

from deployments import protocol
from deployments.agents import connections, inbox, logs, observations, outbox
from deployments.agents.observations import Observation
from portal.live.database import Database
from portal.live.gatherer import Gatherer
from portal.live.outlet import NOT_SIGNED_IN, REPLACED, Outlet
from portal.logging import redact_text

logger = structlog.get_logger(__name__)

POLL_SECONDS = 2.0
"""For tasks whose notification was lost."""
CHECK_SECONDS = 5.0
HEARTBEATS_EVERY_SECONDS = 1.0
LOGS_EVERY_SECONDS = 0.2
PRUNE_AFTER_CHUNKS = 50
RETRY_SECONDS = 0.5


class AgentSocket:
    """One agent's connection, once it has proved who it is."""

    __slots__ = ("agent_id", "instructions_refused", "open_tasks", "outlet", "place", "refused")

    def __init__(self, agent_id: UUID, place: str, outlet: Outlet, *, open_tasks: int = 0) -> None:
        self.agent_id = agent_id
        self.place = place
        self.outlet = outlet
        self.open_tasks = open_tasks
        """Tasks without an acknowledged result in the agent's journal, when it connected."""
        self.refused = 0
        """Messages of the agent that were refused here."""
        self.instructions_refused = 0
        """Instructions that the agent says it refused for a wrong signature."""


class Beat(msgspec.Struct, frozen=True):
    """What one agent said in a heartbeat, and when (`time.monotonic`); `last_try`: it was kept over once."""

    agent_id: UUID
    targets: tuple[protocol.TargetReport, ...]
    heard_at: float
    last_try: bool = False


class Said(msgspec.Struct, frozen=True):
    """A report, and when the agent said it (`time.monotonic`)."""

    report: inbox.Report
    heard_at: float


class Dispatcher:
    def __init__(self, database: Database, counts: Counter[str], process: str) -> None:
        self._database = database
        self._process = process
        """The name that this web process has in the places of its connections."""
        self.counts = counts
        """What was refused and why, since the process began."""
        self.connected: dict[UUID, AgentSocket] = {}
        self._again: set[UUID] = set()
        self._suspects: set[UUID] = set()
        self._wake = asyncio.Event()
        self._suspicion = asyncio.Event()
        self._chunks: Counter[UUID] = Counter()
        self.reports = Gatherer[Said]("reports", self._write_reports)
        self.beats = Gatherer[Beat]("heartbeats", self._write_beats, every_seconds=HEARTBEATS_EVERY_SECONDS)
        self.logs = Gatherer[logs.Chunk]("logs", self._write_logs, every_seconds=LOGS_EVERY_SECONDS)
        self.departures = Gatherer[tuple[UUID, str]]("departures", self._write_departures)

    def arrived(self, socket: AgentSocket) -> None:
        """Serve this connection from now on, instead of an earlier one of the same agent."""
        if earlier := self.connected.get(socket.agent_id):
            earlier.outlet.close(REPLACED)
        self.connected[socket.agent_id] = socket
        # Between the row and this line a task may have been taken for the earlier connection.
        self._again.add(socket.agent_id)
        self._wake.set()

    def left(self, socket: AgentSocket) -> None:
        if self.connected.get(socket.agent_id) is socket:
            del self.connected[socket.agent_id]
        self.departures.add((socket.agent_id, socket.place))

    def tasks_wait(self) -> None:
        self._wake.set()

    def connected_somewhere(self, agent_id: UUID) -> None:
        """The agent connected, here or elsewhere: the socket that this process holds may be an old one."""
        if agent_id in self.connected:
            self._suspects.add(agent_id)
            self._suspicion.set()

    def look_at_everything(self) -> None:
        self._wake.set()
        self._suspects.update(self.connected)
        self._suspicion.set()

    async def send_tasks(self) -> None:
        """Send tasks as they come until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if not self.connected:
                continue
            again, self._again = self._again & self.connected.keys(), set()
            try:
                frames: list[outbox.Sent] = []
                if again:
                    frames, skipped = await self._database.run(outbox.resend, list(again))
                    self._again |= skipped
                frames += await self._database.run(outbox.take, self._process)
            except (DatabaseError, InterfaceError) as error:
                # Tasks may have been marked as sent and not been handed over: send all open ones again.
                logger.warning("live.outbox_failed", error=str(error))
                self._again.update(self.connected)
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()
                continue
            self._write_frames(frames)
            if len(frames) >= outbox.AT_ONCE:
                self._wake.set()
            await self._send_cancellations()

    async def _send_cancellations(self) -> None:
        """After the tasks, in the same loop: a cancellation must not overtake what it cancels."""
        try:
            self._write_frames(await self._database.run(outbox.cancel, self._process))
        except (DatabaseError, InterfaceError) as error:
            # Some may have been marked and not been handed over; the tasks then run to their end.
            logger.warning("live.cancel_failed", error=str(error))

    def _write_frames(self, frames: Sequence[outbox.Sent]) -> None:
        for agent_id, _task_id, frame in frames:
            if socket := self.connected.get(agent_id):
                socket.outlet.write(frame)

    async def drop_lost(self) -> None:
        """Close the sockets of agents that were revoked or connected elsewhere, until cancelled."""
        loop = asyncio.get_running_loop()
        check_all_at = loop.time() + CHECK_SECONDS
        while True:
            try:
                async with asyncio.timeout_at(check_all_at):
                    await self._suspicion.wait()
            except TimeoutError:
                check_all_at = loop.time() + CHECK_SECONDS
                is_due = True
            else:
                is_due = False
            try:
                await self._drop_lost(is_due)
            except (DatabaseError, InterfaceError) as error:
                logger.warning("live.recheck_failed", error=str(error))

    async def _drop_lost(self, is_due: bool) -> None:
        """Look at those who are suspected; `is_due`: at all, unless there are as many as the rows say."""
        self._suspicion.clear()
        if is_due and self.connected:
            held_by_rows = await self._database.run(connections.count_held, self._process)
            if held_by_rows != len(self.connected):
                self._suspects.update(self.connected)
        suspects, self._suspects = self._suspects, set()
        held = {agent_id: self.connected[agent_id] for agent_id in suspects & self.connected.keys()}
        if not held:
            return
        places = {agent_id: socket.place for agent_id, socket in held.items()}
        for agent_id, is_revoked in (await self._database.run(connections.lost, places)).items():
            held[agent_id].outlet.close(NOT_SIGNED_IN if is_revoked else REPLACED)

    async def _write_reports(self, lot: Sequence[Said]) -> None:
        accepted = await self._database.run(_accept, lot)
        self.counts["report_new"] += accepted.new
        self.counts["report_duplicate"] += accepted.duplicates
        if accepted.refused:
            self.counts["report_refused"] += accepted.refused
            logger.warning("agent.reports_refused", reports=accepted.refused)
        for agent_id, ack in accepted.acks:
            if socket := self.connected.get(agent_id):
                socket.outlet.write(protocol.encode(ack))

    async def _write_beats(self, lot: Sequence[Beat]) -> None:
        written = await self._database.run(_observe, lot)
        for beat in lot:
            left = tuple(target for target in beat.targets if target.target_id not in written)
            if left and not beat.last_try:
                self.beats.add(msgspec.structs.replace(beat, targets=left, last_try=True))

    async def _write_logs(self, lot: Sequence[logs.Chunk]) -> None:
        for target_id in await self._database.run(_append, lot):
            self._chunks[target_id] += 1
        full = [target_id for target_id, chunks in self._chunks.items() if chunks >= PRUNE_AFTER_CHUNKS]
        if full:
            await self._database.run(logs.prune, full)
            for target_id in full:
                del self._chunks[target_id]

    async def _write_departures(self, lot: Sequence[tuple[UUID, str]]) -> None:
        await self._database.run(connections.disconnect, dict(lot))


def _accept(lot: Sequence[Said]) -> inbox.Accepted:
    return inbox.accept(
        [
            (
                agent_id,
                msgspec.structs.replace(
                    report,
                    message=redact_text(report.message),
                    log_tail=tuple(map(redact_text, report.log_tail)),
                ),
            )
            for agent_id, report in (said.report for said in lot)
        ],
        _ages([said.heard_at for said in lot]),
    )


def _ages(heard_at: Sequence[float]) -> list[float]:
    """Seconds, at the time of the write: what is kept over or written again has become older."""
    now = time.monotonic()
    return [now - heard for heard in heard_at]


def _observe(lot: Sequence[Beat]) -> set[str]:
    observed = observations.observe(
        [
            Observation(beat.agent_id, target, age)
            for beat, age in zip(lot, _ages([beat.heard_at for beat in lot]), strict=True)
            for target in beat.targets
        ],
        alive={beat.agent_id for beat in lot},
    )
    return {str(target_id) for target_id in observed.written}


def _append(lot: Sequence[logs.Chunk]) -> set[UUID]:
    return logs.append(
        [(agent_id, msgspec.structs.replace(chunk, text=redact_text(chunk.text))) for agent_id, chunk in lot]
    )
