"""Event to browser: 500 real websockets on one real web process, beside Channels' groups.

    python -m bench.fanout [--sockets 500]

Events are written with `deployments.events.record`; each carries the time just before it was written, so
a latency holds the write, the commit, the notification, the read and the fan-out, up to the moment when
the client process gets the bytes. Server, clients, writer and PostgreSQL share the cores of this machine;
browsers have cores of their own, so the clients (one process) note the time first and decode afterwards.
A delivery is one event that one client received; events that come quickly share a message.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

from bench import figures
from bench.database import database

SERVERS = {"hub": "portal.asgi:application", "groups": "bench.fanout_groups:application"}
ARGUMENTS = (
    "--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "1",
    "--log-level", "warning", "--ws-ping-interval", "300",
)  # fmt: skip
PATIENCE_SECONDS = 60
"""What has not arrived by then does not count; groups that are overrun lose messages."""
MARK = b'"sent"'


class Peer(asyncio.Protocol):
    """One websocket; keeps what arrives with the time of its arrival."""

    def __init__(self, url: str, headers: dict[str, str], progress: "Progress") -> None:
        self.websocket = ClientProtocol(parse_uri(url), origin=headers["Origin"])  # type: ignore[arg-type]
        self.headers = headers
        self.progress = progress
        self.arrived: list[tuple[float, bytes]] = []
        self.is_open = False
        self.tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        request = self.websocket.connect()
        request.headers["Cookie"] = self.headers["Cookie"]
        self.websocket.send_request(request)
        transport.write(b"".join(self.websocket.data_to_send()))

    def data_received(self, data: bytes) -> None:
        if self.is_open:
            self.arrived.append((time.time(), data))
            self.progress.add((self.tail + data).count(MARK))
            self.tail = data[1 - len(MARK) :]
            return
        self.websocket.receive_data(data)
        self.websocket.events_received()
        self.is_open = True
        self.progress.opened.release()

    def latencies(self) -> tuple[int, list[float]]:
        """Messages and seconds from write to arrival, of everything since the last call."""
        messages, found = 0, []
        for at, data in self.arrived:
            self.websocket.receive_data(data)
            for frame in self.websocket.events_received():
                assert isinstance(frame, Frame)
                messages += 1
                found += [at - event["data"]["sent"] for event in json.loads(frame.data)["events"]]
        self.arrived.clear()
        return messages, found


class Progress:
    def __init__(self) -> None:
        self.left = 0
        self.done = asyncio.Event()
        self.opened = asyncio.Semaphore(0)

    def expect(self, deliveries: int) -> None:
        self.left = deliveries
        self.done.clear()

    def add(self, deliveries: int) -> None:
        self.left -= deliveries
        if self.left <= 0:
            self.done.set()


async def watch(url: str, headers: dict[str, str], sockets: int, pipe: Connection) -> None:
    """Open the sockets, then answer each request of the parent: receive so and so many events on each."""
    loop = asyncio.get_running_loop()
    progress = Progress()
    address = parse_uri(url)
    peers = []
    for _ in range(sockets):
        _, peer = await loop.create_connection(
            lambda: Peer(url, headers, progress), address.host, address.port
        )
        peers.append(peer)
    for _ in range(sockets):
        await progress.opened.acquire()
    # Those who came last may still be joining; the warm-up sees to that.
    pipe.send("ready")
    while count := await loop.run_in_executor(None, pipe.recv):
        progress.expect(count * sockets)
        pipe.send("watching")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await progress.done.wait()
        ended = time.time()
        found = [peer.latencies() for peer in peers]
        latencies = sorted(latency for _, some in found for latency in some)
        pipe.send((ended, sum(messages for messages, _ in found), latencies))


def clients(url: str, headers: dict[str, str], sockets: int, pipe: Connection) -> None:
    asyncio.run(watch(url, headers, sockets, pipe))


def port_answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(kind: str, port: int) -> Iterator[int]:
    """Run the server; yields its process id."""
    environment = os.environ | {
        "SLIPWAY_PROCESS": "web",
        "SLIPWAY_PUBLIC_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "uvicorn", SERVERS[kind], "--port", str(port), *ARGUMENTS]
    server = subprocess.Popen(command, env=environment)
    try:
        while not port_answers(port):
            assert server.poll() is None, "the web process ended"
            time.sleep(0.1)
        yield server.pid
    finally:
        server.terminate()
        try:
            server.wait(5)
        except subprocess.TimeoutExpired:
            server.kill()


class Measured(msgspec.Struct, frozen=True):
    latencies_ms: list[float]
    deliveries_per_second: float
    events_per_message: float
    cpu_ms_per_event: float
    """Of the server, at the steady pace: what does not depend on who else uses the machine."""


def world() -> tuple[Any, str]:
    """A rollout to write events of, and the session of somebody who may watch it."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from deployments.models import Artifact, ConfigSnapshot, Environment, Release, Rollout, Service, Team
    from portal.accounts.models import User

    user = User.objects.create(username=f"bench-{os.urandom(4).hex()}", is_superuser=True)
    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.save()
    digest, name = "sha256:" + os.urandom(32).hex(), f"bench-{os.urandom(4).hex()}"
    service = Service.objects.create(team=Team.objects.create(name=name), name=name)
    config = ConfigSnapshot.objects.create(service=service, number=1, base={}, digest=digest)
    artifact = Artifact.objects.create(digest=digest, size_bytes=1)
    release = Release.objects.create(service=service, version="1", artifact=artifact, config=config)
    environment = Environment.objects.create(name=name, tier="dev")
    rollout = Rollout.objects.create(
        service=service, environment=environment, release=release, requested_by="bench"
    )
    assert session.session_key
    return rollout, session.session_key


def write(rollout_id: Any) -> None:
    """One event of about 300 bytes, as a moving target makes it."""
    from django.db import transaction

    from deployments.domain.actor import Actor
    from deployments.events import Change, record

    change = Change(
        verb="target.state",
        object_kind="target",
        object_id=str(rollout_id),
        object_name="orders-eu-01",
        before={"state": "staged"},
        after={"state": "activating"},
        event="target.state",
        data={"sent": time.time(), "batch": str(rollout_id), "position": 1},
    )
    with transaction.atomic():
        record(actor=Actor.system(), changes=[change], rollout_id=rollout_id)


def measure(kind: str, sockets: int, paced: tuple[int, float], burst: int) -> Measured:
    """Latencies at a steady pace (events, seconds between them), deliveries a second in a burst."""
    from portal.local.ports import free_port

    rollout, session = world()
    port = free_port()
    here, there = multiprocessing.Pipe()
    url = f"ws://127.0.0.1:{port}/live/rollouts/{rollout.id}/?after=0"
    headers = {"Cookie": f"slipway_session={session}", "Origin": f"http://127.0.0.1:{port}"}
    with serving(kind, port) as pid:
        process = multiprocessing.get_context("spawn").Process(
            target=clients, args=(url, headers, sockets, there)
        )
        process.start()
        # With the only other end in the clients' process, their death is an error here and not a wait.
        there.close()
        assert here.recv() == "ready"
        results = {}
        for name, count, seconds in (("warm up", 5, paced[1]), ("paced", *paced), ("burst", burst, 0.0)):
            here.send(count)
            assert here.recv() == "watching"
            began, spent = time.time(), cpu_seconds(pid)
            for _ in range(count):
                write(rollout.id)
                time.sleep(seconds)
            ended, messages, latencies = here.recv()
            results[name] = (ended - began, messages, latencies)
            if name == "paced":
                cpu_ms = (cpu_seconds(pid) - spent) / count * 1000
        here.send(0)
        process.join(10)
    seconds, messages, arrived = results["burst"]
    return Measured(
        latencies_ms=[latency * 1000 for latency in results["paced"][2]],
        deliveries_per_second=len(arrived) / seconds,
        events_per_message=len(arrived) / messages,
        cpu_ms_per_event=cpu_ms,
    )


def rows(sockets: int) -> list[figures.Row]:
    """The lines of the table; needs `bench.database`."""
    hub = measure("hub", sockets, (400, 0.05), 3000)
    groups = measure("groups", sockets, (15, 1.5), 30)
    return [
        *figures.latency(f"Event to {sockets} browsers", hub.latencies_ms, p99_most=25),
        *figures.latency(f"Event to {sockets} browsers, Channels groups", groups.latencies_ms),
        figures.timed("Server CPU for an event", [hub.cpu_ms_per_event], "ms"),
        figures.timed("Server CPU for an event, Channels groups", [groups.cpu_ms_per_event], "ms"),
        _rate("Deliveries", hub, least=100_000),
        _rate("Deliveries, Channels groups", groups),
        figures.ratio(
            "Deliveries, ratio to Channels groups", hub.deliveries_per_second / groups.deliveries_per_second
        ),
    ]


def _rate(what: str, measured: Measured, *, least: float | None = None) -> figures.Row:
    rate = measured.deliveries_per_second
    return figures.Row(
        what=what,
        median=f"{rate:,.0f}/s",
        spread="1 run",
        asked=f"at least {least:,.0f}/s" if least else "",
        met=figures.met(rate >= least) if least else "",
        note=f"{measured.events_per_message:.0f} events a message",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sockets", type=int, default=500)
    options = parser.parse_args(arguments)
    with database():
        for row in rows(options.sockets):
            print(f"{row.what:50} {row.median:>16} {row.asked:>22} {row.met:4} {row.spread} {row.note}")


if __name__ == "__main__":
    main()
