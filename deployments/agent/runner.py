"""Takes signed instructions, decides whether to carry them out, does so once, and answers for them."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping

from deployments import protocol
from deployments.agent import logs
from deployments.agent.errors import TaskFailure, failure_from
from deployments.agent.identity import Identity
from deployments.agent.journal import Entry, Journal, Key
from deployments.agent.state import safe_name
from deployments.agent.target import Target

log = logging.getLogger("slipway.agent.runner")

CANCELLED = "The task was cancelled; what runs is as the target's state says."


class Runner:
    """Tasks of different targets run at once, those of one target in the order in which they came.

    The control plane has one open task for a target at most. So one with a newer fence says that it has
    given up what is under way there, which is then cancelled and not waited for.
    """

    def __init__(
        self,
        identity: Identity,
        journal: Journal,
        target: Callable[[str], Target],
        known: Mapping[str, Target],
        send: Callable[[protocol.TaskReport], bool],
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._target = target
        self._known = known
        self._send = send
        self._running: dict[Key, asyncio.Task[None]] = {}
        self._working: dict[Key, protocol.AnyInstruction] = {}
        """Those that have not come to a result yet, and can be cancelled."""
        self._begun: set[Key] = set()
        """Of those, the ones whose first step was made: only that can be interrupted."""
        self._cancelled: set[Key] = set()
        self.refused = 0
        """Envelopes with a wrong signature so far."""

    def receive(self, envelope: protocol.Signed) -> None:
        """Check the signature, then the content, then start the work; returns at once."""
        if not self._identity.is_from_control_plane(envelope.body, envelope.signature):
            self.refused += 1
            log.error(
                "Refused an instruction with a wrong signature (bad_signature, %d so far)", self.refused
            )
            return
        try:
            instruction = protocol.decode_instruction(envelope.body)
        except protocol.ProtocolError as error:
            log.error("Refused an instruction that cannot be read: %s", error)
            return
        with logs.fields(
            task_id=instruction.task_id,
            target_id=instruction.target_id,
            rollout_id=instruction.rollout_id,
            request_id=instruction.request_id,
        ):
            self._consider(instruction)

    def _consider(self, instruction: protocol.AnyInstruction) -> None:
        if isinstance(instruction, protocol.Cancel):
            self._cancel(instruction)
            return
        key = (instruction.task_id, instruction.attempt)
        if key in self._running:
            self._send(_report(instruction, "accepted"))
            return
        entry = self._journal.find(key)
        if entry is not None and entry.report is not None:
            log.info("Task seen before; answering with its recorded result")
            self._send(entry.report)
            return
        try:
            self._check(instruction)
        except TaskFailure as refusal:
            log.warning("Refused: %s", refusal.message)
            report = _report(instruction, "refused", refusal)
            if entry is None:
                self._send(report)
            else:  # begun by an agent that was killed, and now too late: it must not stay open
                self._start(key, self._finish(report))
            return
        self._supersede(instruction)
        self._working[key] = instruction
        self._start(key, self._run(instruction))

    def _start(self, key: Key, work: Coroutine[object, object, None]) -> None:
        self._running[key] = asyncio.create_task(work, name=f"task {key[0]}")
        self._running[key].add_done_callback(lambda _: self._running.pop(key, None))

    def _check(self, instruction: protocol.AnyInstruction) -> None:
        """Raise TaskFailure with the reason why it is refused."""
        if instruction.agent_id != self._identity.agent_id:
            raise TaskFailure("wrong_agent", "The instruction is for another agent.")
        safe_name(instruction.target_id, "target id")
        if isinstance(instruction, protocol.Stage | protocol.Activate):
            safe_name(instruction.release.release_id, "release id")
        if instruction.expires_at <= time.time():
            raise TaskFailure(
                "expired",
                "The instruction came after its expiry. Compare the clocks of target and control plane; "
                "if they agree, start the rollout again.",
            )
        highest = self._journal.highest_fence(instruction.target_id)
        if instruction.fence < highest:
            raise TaskFailure(
                "stale_fence",
                f"The instruction has fence {instruction.fence}, but this target has seen {highest}: "
                "another orchestrator has taken over.",
            )

    async def _run(self, instruction: protocol.AnyInstruction) -> None:
        begun = time.monotonic()
        key = (instruction.task_id, instruction.attempt)
        failure: TaskFailure | None = None
        cancelled = False
        target: Target | None = None
        self._begun.add(key)
        try:
            try:
                if key in self._cancelled:
                    raise asyncio.CancelledError
                await self._journal.begin(instruction)
                self._send(_report(instruction, "accepted"))
                target = self._target(instruction.target_id)
                await self._carry_out(instruction, target)
            except asyncio.CancelledError:
                if key not in self._cancelled:
                    raise  # the agent exits; the task stays open in the journal and is resumed
                cancelled = True
            except Exception as error:
                failure = failure_from(error, "carrying out the instruction")
                if failure.code == "internal":
                    log.exception("The task failed")
        finally:
            self._working.pop(key, None)
            self._begun.discard(key)
            self._cancelled.discard(key)
        report = await self._result(instruction, target, failure, cancelled, begun)
        level = logging.INFO if report.status == "succeeded" else logging.WARNING
        log.log(level, "%s %s %s", type(instruction).__name__, report.status, report.message)
        await self._finish(report)

    async def _carry_out(self, instruction: protocol.AnyInstruction, target: Target) -> None:
        async with target.turn:
            log.info("%s begins", type(instruction).__name__)
            if isinstance(instruction, protocol.Stage):
                await target.stage(instruction.release)
            elif isinstance(instruction, protocol.Activate):
                await target.activate(instruction.release, instruction.task_id, instruction.attempt)
            else:
                await target.deactivate(instruction.task_id, instruction.attempt)

    def _cancel(self, cancel: protocol.Cancel) -> None:
        """Give a task up where that leaves nothing half done; it answers for itself."""
        key = (cancel.cancels, cancel.attempt)
        if cancel.agent_id != self._identity.agent_id or cancel.expires_at <= time.time():
            log.warning("Refused a cancellation for another agent, or one that came too late")
            return
        entry = self._journal.find(key)
        if key in self._working:
            target = self._known.get(self._working[key].target_id)  # a cancellation makes none
            if target is not None and target.supervisor.has_begun(*key):
                log.info("Task %s has begun to switch and is not cancelled", key[0])
            else:
                self._cancel_one(key)
        elif entry is not None and entry.report is None and key not in self._running:
            # Begun by an agent that was killed, and never sent again.
            self._start(key, self._finish(_given_up(key, entry)))

    def _supersede(self, instruction: protocol.AnyInstruction) -> None:
        for key, other in list(self._working.items()):
            if other.target_id == instruction.target_id and other.fence < instruction.fence:
                self._cancel_one(key)

    def _cancel_one(self, key: Key) -> None:
        """Once: a switch that has begun is finished first, and a second cancellation must not hurry it."""
        if key in self._cancelled:
            return
        log.info("Cancelling task %s", key[0])
        self._cancelled.add(key)
        if key in self._begun:
            self._running[key].cancel()

    async def _result(
        self,
        instruction: protocol.AnyInstruction,
        target: Target | None,
        failure: TaskFailure | None,
        cancelled: bool,
        begun: float,
    ) -> protocol.TaskReport:
        tail: tuple[str, ...] = ()
        message = ""
        if cancelled:
            message = CANCELLED
        status = "cancelled" if cancelled else "succeeded"
        if failure is not None:
            status = "failed"
            message = failure.message
            if target is not None and isinstance(instruction, protocol.Activate):
                tail = await target.failed_tail(instruction.release.release_id)
        return protocol.TaskReport(
            task_id=instruction.task_id,
            attempt=instruction.attempt,
            fence=instruction.fence,
            status=status,  # type: ignore[arg-type]
            code=failure.code if failure else "",
            message=message,
            log_tail=tail,
            duration_ms=int((time.monotonic() - begun) * 1000),
            target=target.supervisor.report() if target else None,
        )

    async def _finish(self, report: protocol.TaskReport) -> None:
        await self._journal.end(report)
        self._send(report)

    async def close(self) -> None:
        """Leave what is under way for the next start; a switch that has begun is finished."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _given_up(key: Key, entry: Entry) -> protocol.TaskReport:
    return protocol.TaskReport(
        task_id=key[0], attempt=key[1], fence=entry.fence, status="cancelled", message=CANCELLED
    )


def _report(
    instruction: protocol.AnyInstruction, status: str, failure: TaskFailure | None = None
) -> protocol.TaskReport:
    return protocol.TaskReport(
        task_id=instruction.task_id,
        attempt=instruction.attempt,
        fence=instruction.fence,
        status=status,  # type: ignore[arg-type]
        code=failure.code if failure else "",
        message=failure.message if failure else "",
    )
