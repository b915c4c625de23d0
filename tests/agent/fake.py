"""A control plane in one file: the same protocol over real sockets, with faults that can be switched on."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from deployments import protocol

_AUTH = re.compile(r"Slipway-Agent id=([^,]+),ts=(\d+),sig=(\S+)")


@dataclass
class Artifact:
    data: bytes
    served: bytes | None = None
    """What is sent instead, for artifacts that were tampered with."""
    cut_at: int | None = None
    """Each answer breaks off after so many bytes."""
    ranges: bool = True
    status: int = 200
    requests: list[str] = field(default_factory=list)
    """The Range header of each request, empty without one."""
    bytes_per_second: int = 0


class FakeControlPlane:
    """`await start()`, then `url`; the frames of all agents end up in `frames`."""

    def __init__(self) -> None:
        self.key = SigningKey.generate()
        self.token = f"join-{uuid.uuid4().hex}"
        self.token_used = False
        self.agent_id = f"agent-{uuid.uuid4().hex[:8]}"
        self.agent_key: VerifyKey | None = None
        self.enrolments: list[dict[str, Any]] = []
        self.targets: dict[str, str] = {}
        self.heartbeat_seconds = 0.5
        self.ack = True
        self.close_with: int | None = None
        """Answer Hello by closing with this code."""
        self.frames: list[str] = []
        self.hellos: list[protocol.Hello] = []
        self.reports: list[protocol.TaskReport] = []
        self.heartbeats: list[protocol.Heartbeat] = []
        self.logs: list[protocol.LogChunk] = []
        self.artifacts: dict[str, Artifact] = {}
        self.secrets: dict[str, dict[str, str]] = {}
        self.wrapping_tokens: dict[str, str] = {}
        self.secret_requests: list[str] = []
        self.secrets_down = False
        self.flat_secrets = False
        """What is unwrapped is not a secret of a key-value store, version 2."""
        self.requests: Counter[str] = Counter()
        self.connection: ServerConnection | None = None
        self._changed = asyncio.Event()
        self._fence = 100
        self._servers: list[Any] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self.url = ""

    # Life.

    async def start(self, port: int = 0) -> None:
        """One port for all: plain requests are answered here, the websocket is passed on."""
        sockets = await serve(self._websocket, "127.0.0.1", 0, compression=None, max_size=1 << 20)
        self._ws_port = sockets.sockets[0].getsockname()[1]
        front = await asyncio.start_server(self._front, "127.0.0.1", port)
        self.port = front.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._servers = [front, sockets]

    async def stop(self) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._writers):
            writer.close()
        for server in self._servers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(server.wait_closed(), 2)
        self._servers = []

    async def drop(self) -> None:
        """Cut the agent's connection, without a word."""
        assert self.connection is not None
        connection, self.connection = self.connection, None
        connection.transport.abort()

    # What tests do.

    def add(self, data: bytes, **faults: Any) -> protocol.ArtifactRef:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.artifacts[digest] = Artifact(data, **faults)
        return protocol.ArtifactRef(digest=digest, size_bytes=len(data), path=f"/agent/v1/artifacts/{digest}")

    def fence(self) -> int:
        self._fence += 1
        return self._fence

    def common(self, target: str = "t1", **fields: Any) -> dict[str, Any]:
        return {
            "agent_id": self.agent_id,
            "task_id": f"task-{uuid.uuid4().hex[:12]}",
            "attempt": 1,
            "fence": self.fence(),
            "expires_at": time.time() + 60,
            "target_id": target,
            "target_name": target,
            "request_id": "req-1",
            **fields,
        }

    def stage(self, release: protocol.ReleaseSpec, target: str = "t1", **fields: Any) -> protocol.Stage:
        return protocol.Stage(**self.common(target, **fields), release=release)

    def activate(self, release: protocol.ReleaseSpec, target: str = "t1", **fields: Any) -> protocol.Activate:
        return protocol.Activate(**self.common(target, **fields), release=release)

    async def send(self, instruction: protocol.AnyInstruction, *, key: SigningKey | None = None) -> None:
        body = protocol.encode(instruction)
        signature = base64.b64encode((key or self.key).sign(body.encode()).signature).decode()
        await self.until(lambda: self.connection is not None, "an agent is connected")
        assert self.connection is not None
        await self.connection.send(protocol.encode(protocol.Signed(body, signature)))

    async def do(self, instruction: protocol.AnyInstruction, seconds: float = 15.0) -> protocol.TaskReport:
        """Send an instruction and wait for its result."""
        await self.send(instruction)
        return await self.result(instruction.task_id, seconds)

    async def result(self, task_id: str, seconds: float = 15.0) -> protocol.TaskReport:
        await self.until(lambda: bool(self.results(task_id)), f"{task_id} has a result", seconds)
        return self.results(task_id)[-1]

    def results(self, task_id: str) -> list[protocol.TaskReport]:
        return [r for r in self.reports if r.task_id == task_id and r.status != "accepted"]

    def accepted(self, task_id: str) -> bool:
        return any(r.task_id == task_id and r.status == "accepted" for r in self.reports)

    def target(self, target_id: str = "t1") -> protocol.TargetReport:
        """The target as the newest heartbeat has it."""
        for heartbeat in reversed(self.heartbeats):
            for report in heartbeat.targets:
                if report.target_id == target_id:
                    return report
        return protocol.TargetReport(target_id=target_id)

    async def until(self, condition: Callable[[], bool], what: str = "", seconds: float = 15.0) -> None:
        """Wait for a condition that a frame or a request may bring about; fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {what or condition}")
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), 0.02)

    # The websocket.

    async def _websocket(self, connection: ServerConnection) -> None:
        nonce = uuid.uuid4().hex
        with contextlib.suppress(ConnectionClosed):
            await connection.send(protocol.encode(protocol.Challenge(nonce)))
            hello = protocol.decode_upward(await connection.recv())
            assert isinstance(hello, protocol.Hello)
            assert self.agent_key is not None
            self.agent_key.verify(
                protocol.hello_bytes(nonce, hello.agent_id), base64.b64decode(hello.signature)
            )
            self.hellos.append(hello)
            self._changed.set()
            if self.close_with is not None:
                await connection.close(self.close_with, "not known")
                return
            await connection.send(protocol.encode(protocol.Welcome(self.heartbeat_seconds, self.targets)))
            self.connection = connection
            async for frame in connection:
                await self._take(connection, str(frame))

    async def _take(self, connection: ServerConnection, frame: str) -> None:
        self.frames.append(frame)
        message = protocol.decode_upward(frame)
        if isinstance(message, protocol.TaskReport):
            self.reports.append(message)
            if self.ack:
                ack = protocol.Ack(message.task_id, message.attempt, message.status)
                await connection.send(protocol.encode(ack))
        elif isinstance(message, protocol.Heartbeat):
            self.heartbeats.append(message)
        elif isinstance(message, protocol.LogChunk):
            self.logs.append(message)
        self._changed.set()

    # HTTP.

    async def _front(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, path = head.decode().split(" ", 2)[:2]
            if path == "/agent/v1/ws":
                await self._pass_on(head, reader, writer)
                return
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
            }
            body = await reader.readexactly(int(headers.get("content-length") or 0))
            self.requests[path] += 1
            await self._answer(writer, method, path, headers, body)
            self._changed.set()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _pass_on(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._ws_port)
        inner_writer.write(head)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()
            sink.close()

        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))
        for side in (inner_writer, writer):
            with contextlib.suppress(ConnectionError):
                await side.wait_closed()

    async def _answer(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        if path == "/agent/v1/enrol":
            self._enrol(writer, json.loads(body))
        elif path.startswith("/agent/v1/artifacts/"):
            if self._signed(method, path, headers):
                await self._send_artifact(writer, self.artifacts.get(path.rpartition("/")[2]), headers)
            else:
                _reply(writer, 401, {})
        elif path.startswith("/agent/v1/tasks/"):
            self._lease(writer, path.split("/")[4], self._signed(method, path, headers))
        elif path == "/v1/sys/wrapping/unwrap":
            secret = self.wrapping_tokens.pop(headers.get("x-vault-token", ""), None)
            if secret is None:
                _reply(writer, 400, {"errors": ["wrapping token is not valid or does not exist"]})
            else:
                values = self.secrets[secret]
                _reply(writer, 200, {"data": values if self.flat_secrets else {"data": values}})
        else:
            _reply(writer, 404, {})
        await writer.drain()

    def _signed(self, method: str, path: str, headers: dict[str, str]) -> bool:
        match = _AUTH.fullmatch(headers.get("authorization", ""))
        if match is None or self.agent_key is None:
            return False
        try:
            expected = protocol.request_bytes(method, path, match[2], match[1])
            self.agent_key.verify(expected, base64.b64decode(match[3]))
        except BadSignatureError:
            return False
        return match[1] == self.agent_id

    def _enrol(self, writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
        self.enrolments.append(body)
        if body["join_token"] != self.token or self.token_used:
            problem = {
                "type": "https://slipway.example/problems/join-token",
                "title": "Join token refused",
                "detail": "This join token was used already. Make a new one.",
            }
            _reply(writer, 403, problem, "application/problem+json")
            return
        self.token_used = True
        self.agent_key = VerifyKey(base64.b64decode(body["public_key"]))
        control_key = base64.b64encode(bytes(self.key.verify_key)).decode()
        _reply(writer, 201, {"agent_id": self.agent_id, "control_key": control_key})

    def _lease(self, writer: asyncio.StreamWriter, task_id: str, signed: bool) -> None:
        if not signed or self.secrets_down:
            _reply(writer, 503 if signed else 401, {"detail": "sealed"})
            return
        self.secret_requests.append(task_id)
        leases = {}
        for path in self.secrets:
            leases[path] = f"hvs.wrap-{uuid.uuid4().hex}"
            self.wrapping_tokens[leases[path]] = path
        _reply(writer, 200, {"address": self.url, "leases": leases})

    async def _send_artifact(
        self, writer: asyncio.StreamWriter, artifact: Artifact | None, headers: dict[str, str]
    ) -> None:
        if artifact is None:
            _reply(writer, 404, {})
            return
        wanted = headers.get("range", "")
        artifact.requests.append(wanted)
        if artifact.status != 200:
            _reply(writer, artifact.status, {})
            return
        data = artifact.data if artifact.served is None else artifact.served
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and artifact.ranges else 0
        status = "206 Partial Content" if start else "200 OK"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data) - start}\r\nConnection: close\r\n"
        if start:
            head += f"Content-Range: bytes {start}-{len(data) - 1}/{len(data)}\r\n"
        writer.write(head.encode() + b"\r\n")
        end = len(data) if artifact.cut_at is None else min(len(data), start + artifact.cut_at)
        if artifact.bytes_per_second:
            step = max(artifact.bytes_per_second // 50, 1)
            for at in range(start, end, step):
                writer.write(data[at : min(at + step, end)])
                await writer.drain()
                await asyncio.sleep(0.02)
        else:
            writer.write(data[start:end])
        await writer.drain()


def _reply(
    writer: asyncio.StreamWriter, status: int, content: dict[str, Any], kind: str = "application/json"
) -> None:
    body = json.dumps(content).encode()
    writer.write(
        f"HTTP/1.1 {status} Answer\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n".encode()
        + body
    )
