"""The agent as a whole: its parts wired together, and what it does all the time beside its tasks."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence

import msgspec

from deployments import protocol
from deployments.agent.errors import CannotStart, TaskFailure
from deployments.agent.identity import Identity
from deployments.agent.inspection import Inspection
from deployments.agent.journal import Journal
from deployments.agent.link import Link
from deployments.agent.logpump import POLL_SECONDS, LogPump
from deployments.agent.options import Options
from deployments.agent.rota import Rota
from deployments.agent.runner import Runner
from deployments.agent.secrets import SecretSource
from deployments.agent.state import StateDir, safe_name
from deployments.agent.store import Store, TreeFound
from deployments.agent.target import Target
from deployments.agent.work import on_disk

log = logging.getLogger("slipway.agent")

CHANGES_SECONDS = 0.25
"""State changes are gathered so long before a heartbeat tells of them."""
HEARTBEAT_BYTES = 128 * 1024
"""Of one heartbeat; many targets are spread over several."""
SEND_AGAIN_SECONDS = 15.0


class Agent:
    def __init__(self, options: Options, state: StateDir, identity: Identity) -> None:
        self._options = options
        self._state = state
        self._secrets = SecretSource(identity)
        self._store = Store(state, identity, options.limits)
        self._journal = Journal(state.journal)
        self._link = Link(identity, self)
        self._logs = LogPump(options.limits.log_file_bytes)
        self._targets: dict[str, Target] = {}
        self._runner = Runner(identity, self._journal, self._target, self._targets, self._link.send)
        self._changed: set[str] = set()
        self._wake = asyncio.Event()
        self._look = asyncio.Event()
        self._heartbeat_seconds = 10.0
        self._number = 0
        self._sent_again = 0.0

    async def run(self) -> None:
        """Serve until cancelled; raises CannotStart when the state directory cannot be read."""
        try:
            self._journal.load()
            self._store.clean()
            for home in sorted(self._state.targets.iterdir()):
                if home.is_dir():
                    self._target(home.name)
        except OSError as error:
            raise CannotStart(
                f"The state directory {self._state.root} cannot be used: {error.strerror}."
            ) from None
        await asyncio.gather(*(target.supervisor.recover() for target in self._targets.values()))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._link.run(), name="link")
                group.create_task(self._beat(), name="heartbeats")
                group.create_task(self._follow_logs(), name="logs")
                group.create_task(self._check_files(), name="files")
        finally:
            await self._close()

    async def _close(self) -> None:
        await self._runner.close()
        stop = self._options.stop_services_on_exit
        await asyncio.gather(*(t.supervisor.shut_down(stop=stop) for t in self._targets.values()))
        await self._journal.close()

    def _target(self, target_id: str) -> Target:
        """The target of that id, made on first mention; raises OSError, TaskFailure for a bad name."""
        target = self._targets.get(target_id)
        if target is None:
            safe_name(target_id, "target id")
            target = Target(
                target_id, self._state, self._store, self._secrets, self._options.limits, self._note_change
            )
            target.load()
            self._logs.start_at_end(target_id, target.supervisor.log_path)
            self._targets[target_id] = target
        return target

    def _note_change(self, target_id: str) -> None:
        self._changed.add(target_id)
        self._wake.set()

    # What the link tells.

    def open_tasks(self) -> tuple[str, ...]:
        return self._journal.open_tasks()

    def connected(self, welcome: protocol.Welcome) -> None:
        self._heartbeat_seconds = max(welcome.heartbeat_seconds, 0.1)
        for target_id in welcome.targets:
            with contextlib.suppress(TaskFailure, OSError):
                self._target(target_id)
        self._send_results_again()
        self._changed.update(self._targets)
        self._wake.set()
        self._look.set()

    def disconnected(self) -> None:
        """Work goes on; results wait in the journal."""

    def heard(self, message: protocol.Signed | protocol.Ack | protocol.Refused) -> None:
        if isinstance(message, protocol.Signed):
            self._runner.receive(message)
        elif isinstance(message, protocol.Ack):
            if message.status != "accepted":
                self._journal.acknowledge((message.task_id, message.attempt))
        else:
            log.warning("The control plane refused a message (%s): %s", message.code, message.reason)

    def _send_results_again(self) -> None:
        self._sent_again = time.monotonic()
        for report in self._journal.unacknowledged():
            self._link.send(report)

    # What goes on all the time.

    async def _beat(self) -> None:
        """A round of heartbeats in each period, and one in between for what has changed."""
        due = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due - time.monotonic(), 0)):
                    await self._wake.wait()
            if time.monotonic() >= due:
                due = time.monotonic() + self._heartbeat_seconds
                self._heartbeat(list(self._targets))
                await on_disk(self._save_again)
                if self._link.up and time.monotonic() - self._sent_again > SEND_AGAIN_SECONDS:
                    self._send_results_again()
            else:
                await asyncio.sleep(CHANGES_SECONDS)
                self._heartbeat(list(self._changed))
                due = min(due, time.monotonic() + self._heartbeat_seconds)

    def _heartbeat(self, target_ids: list[str]) -> None:
        self._wake.clear()
        self._changed.clear()
        if not self._link.up:
            return
        reports: list[protocol.TargetReport] = []
        room = HEARTBEAT_BYTES
        for target_id in target_ids:
            report = self._targets[target_id].supervisor.report()
            try:
                size = len(msgspec.json.encode(report))
            except (TypeError, ValueError) as error:  # a text in it that is none
                log.error("The state of target %s cannot be sent: %s", target_id, error)
                continue
            if reports and size > room:
                self._send_heartbeat(reports)
                reports, room = [], HEARTBEAT_BYTES
            reports.append(report)
            room -= size
        self._send_heartbeat(reports)

    def _send_heartbeat(self, reports: list[protocol.TargetReport]) -> None:
        self._number += 1
        self._link.send(
            protocol.Heartbeat(number=self._number, targets=tuple(reports), refused=self._runner.refused)
        )

    def _save_again(self) -> None:
        for target in list(self._targets.values()):
            target.supervisor.save_again()

    async def _follow_logs(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for target_id, chunks in await on_disk(self._collect_logs):
                for chunk in chunks:
                    if self._link.congested or not self._link.send(chunk):
                        self._logs.unsent(target_id, chunk)

    def _collect_logs(self) -> list[tuple[str, list[protocol.LogChunk]]]:
        found = []
        for target_id, target in list(self._targets.items()):
            supervisor = target.supervisor
            try:
                if self._link.up:
                    chunks = self._logs.collect(target_id, supervisor.log_path, supervisor.secret_values)
                    if chunks:
                        found.append((target_id, chunks))
                self._logs.rotate(target_id, supervisor.log_path)
            except OSError as error:
                log.warning("The log of target %s cannot be followed: %s", target_id, error.strerror)
        return found

    async def _check_files(self) -> None:
        """Look for changes made by hand as often as heartbeats go out, but never for most of the time."""
        rota = Rota()
        while True:
            every = self._options.check_files_seconds or self._heartbeat_seconds
            resting = self._resting()
            for tree in rota.due(resting, time.monotonic()):
                took = await self._look_at(resting[tree])
                rota.looked(tree, time.monotonic(), took, every)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rota.seconds(time.monotonic(), every)):
                    await self._look.wait()
                    self._look.clear()
                    rota.all_at_once()

    def _resting(self) -> dict[str, list[tuple[Target, protocol.ReleaseSpec]]]:
        """Targets where nothing is being changed and their releases, by the tree that they share."""
        found: dict[str, list[tuple[Target, protocol.ReleaseSpec]]] = {}
        for target in self._targets.values():
            if spec := target.at_rest():
                found.setdefault(spec.artifact.digest, []).append((target, spec))
        return found

    async def _look_at(self, resting: Sequence[tuple[Target, protocol.ReleaseSpec]]) -> float:
        """Look at the targets of one tree, and say how many seconds that took, once it had begun."""
        unpacked = self._store.unpacked
        found, took = await on_disk(_inspect, resting)
        if self._store.unpacked == unpacked:  # or a tree was replaced while it was being looked at
            for (target, spec), inspection in zip(resting, found, strict=True):
                if inspection is not None and target.take(spec, inspection):
                    self._note_change(target.target_id)
        return took


def _inspect(
    resting: Sequence[tuple[Target, protocol.ReleaseSpec]],
) -> tuple[list[Inspection | None], float]:
    """What was found, and the seconds that it took; None for a target that cannot be looked at, which must
    not hide the others."""
    begun = time.monotonic()
    trees: dict[str, TreeFound] = {}
    found: list[Inspection | None] = []
    for target, spec in resting:
        try:
            found.append(target.inspect(spec, trees))
        except Exception:  # whatever somebody has put there
            log.exception("The active release of target %s cannot be looked at", target.target_id)
            found.append(None)
    return found, time.monotonic() - begun
