"""A real web process, and the two kinds of peers that connect to it."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec
import nacl.signing
from django.db import connection
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from deployments import protocol
from deployments.models import Agent
from portal.local.ports import free_port
from tests.fixtures import Person

T = TypeVar("T")
SECONDS = 10
ARGUMENTS = (
    "--ws", "websockets-sansio", "--ws-per-message-deflate", "false", "--timeout-graceful-shutdown", "2",
    "--ws-max-size", str(2 * protocol.MAX_FRAME_BYTES),
)  # fmt: skip


def eventually(look: Callable[[], T], *, seconds: float = SECONDS) -> T:
    """What `look` returns as soon as it is true; fails at the deadline."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return found


def database_url() -> str:
    parts = connection.settings_dict
    user, password = quote(str(parts["USER"]), safe=""), quote(str(parts["PASSWORD"]), safe="")
    return f"postgresql://{user}:{password}@{parts['HOST']}:{parts['PORT']}/{parts['NAME']}"


class WebServer:
    """uvicorn with Slipway's application, on the test database."""

    def __init__(self, log: Path, *, port: int = 0) -> None:
        self.port = port or free_port()
        self.url = f"ws://127.0.0.1:{self.port}"
        self.origin = f"http://127.0.0.1:{self.port}"
        self.log = log
        environment = os.environ | {
            "DATABASE_URL": database_url(),
            "SLIPWAY_PROCESS": "web",
            "SLIPWAY_PUBLIC_URL": self.origin,
        }
        command = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--port", str(self.port)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *ARGUMENTS], env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        eventually(self._answers, seconds=30)

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log.read_text()
        try:
            urllib.request.urlopen(self.origin + "/nothing-is-here", timeout=1)
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False
        return True

    def stop(self) -> float:
        """SIGTERM; returns the seconds that it took to end."""
        began = time.monotonic()
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        return time.monotonic() - began

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if f'"{event}"' in line]
        return [json.loads(line) for line in lines]


class Browser:
    """A signed-in page's socket; gathers the events that it gets."""

    def __init__(self, server: WebServer, path: str, cookie: str, *, origin: str = "") -> None:
        headers = {"Cookie": f"slipway_session={cookie}"} if cookie else {}
        self.cookie = cookie
        self._opened = ExitStack()
        self.socket = self._opened.enter_context(
            connect(
                server.url + path,
                additional_headers=headers,
                origin=origin or server.origin,
                max_size=None,
                ping_interval=None,
            )
        )
        self.events: list[dict[str, Any]] = []

    def read(self, timeout: float = SECONDS) -> list[dict[str, Any]]:
        """The events of the next message."""
        found: list[dict[str, Any]] = json.loads(self.socket.recv(timeout))["events"]
        self.events += found
        return found

    def until(self, enough: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
        deadline = time.monotonic() + SECONDS
        while not enough(self.events):
            self.read(max(0.01, deadline - time.monotonic()))
        return self.events

    def numbers(self) -> list[int]:
        return [event["n"] for event in self.events]

    def close_code(self, timeout: float = SECONDS) -> int:
        return closed_with(self.socket, timeout)

    def close(self) -> None:
        self._opened.close()


def closed_with(socket: ClientConnection, timeout: float = SECONDS) -> int:
    """Read until the other side closes; returns its code."""
    deadline = time.monotonic() + timeout
    try:
        while True:
            socket.recv(max(0.01, deadline - time.monotonic()))
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


class AgentPeer:
    """An agent as the control plane sees it: says what a test tells it to say."""

    def __init__(
        self,
        server: WebServer,
        agent: Agent,
        key: nacl.signing.SigningKey,
        *,
        said_id: str = "",
        open_tasks: tuple[str, ...] = (),
    ) -> None:
        self._opened = ExitStack()
        self.socket = self._opened.enter_context(connect(server.url + "/agent/v1/ws", max_size=None))
        self.agent = agent
        challenge = self.read()
        assert isinstance(challenge, protocol.Challenge)
        agent_id = said_id or str(agent.id)
        signature = key.sign(protocol.hello_bytes(challenge.nonce, agent_id)).signature
        self.say(
            protocol.Hello(
                agent_id=agent_id,
                signature=base64.b64encode(signature).decode(),
                version="1",
                hostname="h",
                open_tasks=open_tasks,
            )
        )

    def welcomed(self) -> protocol.Welcome:
        welcome = self.read()
        assert isinstance(welcome, protocol.Welcome), welcome
        return welcome

    def say(self, message: protocol.Message | str) -> None:
        self.socket.send(message if isinstance(message, str) else protocol.encode(message))

    def read(self, timeout: float = SECONDS) -> protocol.Downward:
        return protocol.decode_downward(self.socket.recv(timeout))

    def instruction(self) -> protocol.AnyInstruction:
        signed = self.read()
        assert isinstance(signed, protocol.Signed), signed
        return protocol.decode_instruction(signed.body)

    def instructions(self, count: int) -> list[protocol.AnyInstruction]:
        return [self.instruction() for _ in range(count)]

    def answer(self, task: protocol.AnyInstruction, status: Any = "succeeded", **more: Any) -> None:
        report = protocol.TaskReport(
            task_id=task.task_id, attempt=task.attempt, fence=task.fence, status=status
        )
        self.say(msgspec.structs.replace(report, **more))

    def close_code(self) -> int:
        return closed_with(self.socket)

    def close(self) -> None:
        self._opened.close()


def session_of(client: Any, person: Person) -> str:
    """The session cookie of a new log-in."""
    client.force_login(person.user, backend="django.contrib.auth.backends.ModelBackend")
    return str(client.cookies["slipway_session"].value)


def stopping(server: WebServer) -> Iterator[WebServer]:
    try:
        yield server
    finally:
        server.stop()
