"""Simulated agents: the real protocol over real websockets, and no work. Any number in one event loop."""

import asyncio
import base64
import json
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

from nacl.signing import SigningKey
from websockets.asyncio.client import ClientConnection, connect

from deployments import protocol

ENROL, SOCKET = "/agent/v1/enrol", "/agent/v1/ws"
TARGETS_A_HEARTBEAT = 300
CONNECT_SECONDS = 60


@dataclass(frozen=True)
class Credential:
    agent_id: str
    key: SigningKey


def enrol(url: str, join_token: str, name: str) -> Credential:
    """Trade a join token for an identity, over HTTP as a real agent does. Blocking."""
    key = SigningKey.generate()
    body = {
        "join_token": join_token,
        "public_key": base64.b64encode(bytes(key.verify_key)).decode(),
        "name": name,
        "hostname": name,
        "version": "0",
    }
    request = urllib.request.Request(
        url + ENROL, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return Credential(json.load(answer)["agent_id"], key)


def forge(names: Sequence[str]) -> list[Credential]:
    """As if all of them had been enrolled, by rows alone: for thousands, whose enrolment is not measured."""
    from deployments.models import Agent

    keys = [SigningKey.generate() for _ in names]
    made = Agent.objects.bulk_create(
        Agent(name=name, public_key=bytes(key.verify_key)) for name, key in zip(names, keys, strict=True)
    )
    return [Credential(str(agent.id), key) for agent, key in zip(made, keys, strict=True)]


@dataclass
class Seen:
    """What one agent did, for whoever measures. Unix times in seconds, comparable to those of the rows."""

    received: list[tuple[float, protocol.AnyInstruction]] = field(default_factory=list)
    reported: list[tuple[float, protocol.AnyInstruction]] = field(default_factory=list)
    """When the final report of an instruction was about to be sent."""
    refused: int = 0
    beats: int = 0


class SimulatedAgent:
    """Accepts every instruction and reports that it succeeded, `work_seconds` later.

    Instructions come in one after the other; each is worked on beside the others. A real agent keeps to
    what the control plane takes (`protocol.MAX_MESSAGES_PER_SECOND`); here that is the caller's business.
    """

    def __init__(
        self, url: str, credential: Credential, work_seconds: Callable[[], float], *, is_healthy: bool = False
    ) -> None:
        self._url = url.replace("http", "ws", 1) + SOCKET
        self._credential = credential
        self._work_seconds = work_seconds
        self._running: dict[str, protocol.TargetReport] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._socket: ClientConnection | None = None
        self._is_healthy = is_healthy
        """Whether it says from the beginning that something healthy runs on its targets."""
        self.is_mute = False
        """Whether it says nothing any more, as an agent that hangs."""
        self.seen = Seen()
        self.welcomed = asyncio.Event()

    @property
    def id(self) -> str:
        return self._credential.agent_id

    async def run(self) -> None:
        """Serve one connection until cancelled or closed."""
        async with connect(
            self._url, max_size=protocol.MAX_FRAME_BYTES, compression=None, open_timeout=CONNECT_SECONDS
        ) as socket:
            self._socket = socket
            welcome = await self._introduce(socket)
            beats = asyncio.create_task(self._beat(socket, welcome.heartbeat_seconds))
            self.welcomed.set()
            try:
                async for frame in socket:
                    await self._hear(socket, time.time(), protocol.decode_downward(frame))
            finally:
                beats.cancel()

    def drop(self) -> None:
        """Cut the connection without a word, as the end of the agent's machine does."""
        if self._socket is not None:
            self._socket.transport.abort()

    async def _introduce(self, socket: ClientConnection) -> protocol.Welcome:
        challenge = protocol.decode_downward(await socket.recv())
        assert isinstance(challenge, protocol.Challenge), challenge
        said = protocol.hello_bytes(challenge.nonce, self._credential.agent_id)
        signature = base64.b64encode(self._credential.key.sign(said).signature).decode()
        hello = protocol.Hello(agent_id=self._credential.agent_id, signature=signature, hostname="simulated")
        await socket.send(protocol.encode(hello))
        welcome = protocol.decode_downward(await socket.recv())
        assert isinstance(welcome, protocol.Welcome), welcome
        for target_id in welcome.targets:
            self._running[target_id] = (
                protocol.TargetReport(target_id=target_id, status="running", health="healthy")
                if self._is_healthy
                else protocol.TargetReport(target_id=target_id)
            )
        return welcome

    async def _hear(self, socket: ClientConnection, at: float, message: protocol.Downward) -> None:
        if isinstance(message, protocol.Signed):
            instruction = protocol.decode_instruction(message.body)
            self.seen.received.append((at, instruction))
            await socket.send(protocol.encode(_report(instruction, "accepted")))
            task = asyncio.create_task(self._work(socket, instruction))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        elif isinstance(message, protocol.Refused):
            self.seen.refused += 1

    async def _work(self, socket: ClientConnection, instruction: protocol.AnyInstruction) -> None:
        await asyncio.sleep(self._work_seconds())
        if isinstance(instruction, protocol.Activate):
            release = instruction.release
            self._running[instruction.target_id] = protocol.TargetReport(
                target_id=instruction.target_id,
                status="running",
                health="healthy",
                release_id=release.release_id,
                artifact_digest=release.artifact.digest,
                config_digest=release.config_digest,
                pid=1,
                started_at=time.time(),
            )
        report = _report(instruction, "succeeded", self._running.get(instruction.target_id))
        self.seen.reported.append((time.time(), instruction))
        await socket.send(protocol.encode(report))

    async def _beat(self, socket: ClientConnection, every_seconds: float) -> None:
        number = 0
        while True:
            await asyncio.sleep(every_seconds)
            if self.is_mute:
                return
            reports = list(self._running.values())
            for start in range(0, max(1, len(reports)), TARGETS_A_HEARTBEAT):
                number += 1
                some = tuple(reports[start : start + TARGETS_A_HEARTBEAT])
                await socket.send(protocol.encode(protocol.Heartbeat(number=number, targets=some)))
                self.seen.beats += 1


def _report(
    instruction: protocol.AnyInstruction,
    status: Literal["accepted", "succeeded"],
    target: protocol.TargetReport | None = None,
) -> protocol.TaskReport:
    return protocol.TaskReport(
        task_id=instruction.task_id,
        attempt=instruction.attempt,
        fence=instruction.fence,
        status=status,
        target=target,
    )


@asynccontextmanager
async def serving(agents: list[SimulatedAgent]) -> AsyncIterator[None]:
    """All of them connected for the time of the block; raises what ended one of them."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.run()) for agent in agents]
        for agent in agents:
            await asyncio.wait_for(agent.welcomed.wait(), 30)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
