"""Real agents as processes, and the artifacts and services that they are given."""

import asyncio
import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import uuid
from pathlib import Path

from deployments import protocol
from tests.agent.fake import FakeControlPlane

ROOT = Path(__file__).resolve().parent.parent.parent

SERVER = """\
import os, signal, socket, sys
print("starting", os.environ.get("VERSION", ""), flush=True)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
print("listening", flush=True)
while True:
    peer, _ = listener.accept()
    line = peer.recv(4096).split(b"\\r\\n")[0].decode()
    path = line.split(" ")[1] if " " in line else "/"
    status = os.environ.get("STATUS", "200")
    if path == "/env":
        body = repr(dict(os.environ)).encode()
    elif path == "/cwd":
        body = os.getcwd().encode()
    else:
        body = os.environ.get("VERSION", "").encode()
    head = f"HTTP/1.1 {status} X\\r\\nContent-Length: {len(body)}\\r\\n\\r\\n"
    peer.sendall(head.encode() + body)
    peer.close()
"""


def tar(files: dict[str, str | bytes], *, compress: bool = True, executable: bool = True) -> bytes:
    """A tar of regular files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz" if compress else "w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if executable else 0o644
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def tar_of(*members: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def web_release(
    plane: FakeControlPlane,
    port: int,
    version: str = "1",
    *,
    env: dict[str, str] | None = None,
    **fields: object,
) -> protocol.ReleaseSpec:
    """A web server that answers with its version and is checked over HTTP."""
    ref = plane.add(tar({"server.py": SERVER, "VERSION": version}))
    health = protocol.HealthSpec(kind="http", port=port, interval_ms=50, deadline_seconds=10)
    values = {"health": health, **fields}
    command = ("python3", "-S", "-E", "server.py")
    return release(
        ref, command, version, env={"PORT": str(port), "VERSION": version, **(env or {})}, **values
    )


def release(
    ref: protocol.ArtifactRef, command: tuple[str, ...], version: str = "1", **fields: object
) -> protocol.ReleaseSpec:
    values: dict[str, object] = {
        "release_id": f"rel-{version}-{uuid.uuid4().hex[:6]}",
        "service": "shop",
        "version": version,
        "artifact": ref,
        "config_digest": f"sha256:{'c' * 64}",
        "process": protocol.ProcessSpec(command=command, stop_seconds=3),
        **fields,
    }
    return protocol.ReleaseSpec(**values)  # type: ignore[arg-type]


class AgentProgram:
    """`python -m deployments.agent` and its state directory; started, killed and started again."""

    def __init__(self, plane: FakeControlPlane, directory: Path) -> None:
        self.plane = plane
        self.state = directory / "state"
        self.log_path = directory / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.command = [sys.executable, "-m", "deployments.agent"]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def spawn(self, *options: str, env: dict[str, str] | None = None) -> None:
        """Start it, with the join token as long as it has no identity."""
        command = [*self.command, "--server", self.plane.url, "--state-dir", str(self.state), *options]
        environment = {**os.environ, "SLIPWAY_AGENT_JOIN_TOKEN": self.plane.token, **(env or {})}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log, stdout=log)

    async def start(self, *options: str, env: dict[str, str] | None = None) -> None:
        """Start it and wait until it is connected."""
        hellos = len(self.plane.hellos)
        self.plane.connection = None
        self.spawn(*options, env=env)
        try:
            await self.plane.until(
                lambda: len(self.plane.hellos) > hellos and self.plane.connection is not None,
                "the agent is connected",
                30,
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    async def kill(self) -> None:
        """SIGKILL: no goodbye."""
        await self._end(signal.SIGKILL)

    async def terminate(self) -> int:
        return await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await self.wait()

    async def wait(self, seconds: float = 10.0) -> int:
        assert self.process is not None
        code = await asyncio.to_thread(self.process.wait, seconds)
        self.process = None
        return code

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def target_dir(self, target: str = "t1") -> Path:
        return self.state / "targets" / target

    def current(self, target: str = "t1") -> str:
        return (self.target_dir(target) / "current").readlink().name

    def clean_up(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        marker = str(self.state).encode()
        for pid in (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
            # Services outlive their agent; those of this test name its directory in their environment.
            with contextlib.suppress(OSError):
                if marker in Path(f"/proc/{pid}/environ").read_bytes() and pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False


async def get(port: int, path: str = "/") -> str:
    """The body of one GET; empty when nothing answers."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    except OSError:
        return ""
    return answer.partition(b"\r\n\r\n")[2].decode()


async def eventually(condition: object, what: str, seconds: float = 10.0) -> None:
    """Wait for a condition (a callable) that no frame tells of; fails after `seconds`."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.02)
