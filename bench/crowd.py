"""Thousands of simulated agents: client processes beside the one that measures, told what to do by pipe."""

import asyncio
import contextlib
import multiprocessing
import resource
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Literal

from websockets.exceptions import WebSocketException

from bench.agents import Credential, SimulatedAgent

Order = Literal["count", "mute", "end"]

PROCESSES = 2
CONNECTING_AT_ONCE = 20
RETRY_SECONDS = 1.0
PATIENCE_SECONDS = 600
SPARE_FILES = 200


@dataclass
class Lived:
    """What the agents did since they connected."""

    beats: dict[str, int] = field(default_factory=dict)
    """Heartbeats that were sent, by agent."""
    given: Counter[str] = field(default_factory=Counter)
    """How often each task was received, by its id."""
    refused: int = 0
    """Messages that the control plane refused."""
    lost: list[str] = field(default_factory=list)
    """How connections ended that should not have."""

    def add(self, other: "Lived") -> None:
        self.beats |= other.beats
        self.given += other.given
        self.refused += other.refused
        self.lost += other.lost


class Crowd:
    """Connected agents in processes of their own."""

    def __init__(self, pipes: Sequence[Connection]) -> None:
        self._pipes = pipes

    def count(self) -> Lived:
        """What they did so far; raises RuntimeError when a client process has ended."""
        return self._ask("count")

    def mute(self) -> Lived:
        """Have them send no more heartbeats, and return what they did."""
        return self._ask("mute")

    def wait_until_connected(self) -> None:
        for pipe in self._pipes:
            _receive(pipe)

    def _ask(self, order: Order) -> Lived:
        for pipe in self._pipes:
            pipe.send(order)
        whole = Lived()
        for pipe in self._pipes:
            whole.add(_receive(pipe))
        return whole

    def end(self) -> None:
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send("end")


@contextlib.contextmanager
def crowd(url: str, credentials: Sequence[Credential], *, processes: int = PROCESSES) -> Iterator[Crowd]:
    """All of them connected for the time of the block."""
    context = multiprocessing.get_context("spawn")
    shares = [credentials[first::processes] for first in range(processes)]
    pipes: list[Connection] = []
    clients = []
    for share in shares:
        here, there = context.Pipe()
        client = context.Process(target=_client, args=(url, share, there), daemon=True)
        client.start()
        there.close()
        pipes.append(here)
        clients.append(client)
    gathered = Crowd(pipes)
    try:
        gathered.wait_until_connected()
        yield gathered
    finally:
        gathered.end()
        for client in clients:
            client.join(10)
            client.kill()


def allow_files(count: int) -> None:
    """Have this process, and those that it starts, open so many files."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + SPARE_FILES
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))


def _receive(pipe: Connection) -> Lived:
    if not pipe.poll(PATIENCE_SECONDS):
        raise TimeoutError("the simulated agents do not answer")
    try:
        lived: Lived = pipe.recv()
    except EOFError:
        raise RuntimeError("a process of simulated agents has ended") from None
    return lived


def _client(url: str, credentials: Sequence[Credential], pipe: Connection) -> None:
    asyncio.run(_live(url, credentials, pipe))


async def _live(url: str, credentials: Sequence[Credential], pipe: Connection) -> None:
    agents = [SimulatedAgent(url, credential, lambda: 0.0) for credential in credentials]
    lost: list[str] = []
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
    async with asyncio.TaskGroup() as group:
        runs = [group.create_task(_serve(agent, gate, lost)) for agent in agents]
        for agent in agents:
            await agent.welcomed.wait()
        pipe.send(Lived())
        loop = asyncio.get_running_loop()
        while (order := await loop.run_in_executor(None, pipe.recv)) != "end":
            for agent in agents:
                agent.is_mute = agent.is_mute or order == "mute"
            pipe.send(_lived(agents, lost))
        for run in runs:
            run.cancel()


async def _serve(agent: SimulatedAgent, gate: asyncio.Semaphore, lost: list[str]) -> None:
    """Be the agent until cancelled; `gate` bounds how many introduce themselves at a time.

    Like a real one it tries again until it is welcome; how a connection ended after that is kept in `lost`.
    """
    while not agent.welcomed.is_set():
        async with gate:
            serving = asyncio.create_task(agent.run())
            welcomed = asyncio.create_task(agent.welcomed.wait())
            await asyncio.wait((serving, welcomed), return_when=asyncio.FIRST_COMPLETED)
            welcomed.cancel()
        if not agent.welcomed.is_set():
            await asyncio.gather(serving, return_exceptions=True)
            await asyncio.sleep(RETRY_SECONDS)
    try:
        await serving
        lost.append("closed")
    except (OSError, WebSocketException) as error:
        lost.append(f"{type(error).__name__}: {error}")
    finally:
        serving.cancel()


def _lived(agents: Sequence[SimulatedAgent], lost: Sequence[str]) -> Lived:
    return Lived(
        beats={agent.id: agent.seen.beats for agent in agents},
        given=Counter(task.task_id for agent in agents for _, task in agent.seen.received),
        refused=sum(agent.seen.refused for agent in agents),
        lost=list(lost),
    )
