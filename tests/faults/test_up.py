"""`make up` from nothing: the main job in the terminal, a portal that answers, nothing left afterwards."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from portal.local.layout import TARGETS
from portal.local.ports import free_port, is_free

ROOT = Path(__file__).resolve().parents[2]


def free_range(count: int) -> int:
    """First of `count` neighbouring ports that are free now."""
    while True:
        first = free_port()
        if first + count < 65_000 and all(is_free(port) for port in range(first, first + count)):
            return first


class Up:
    """One state directory that `up` is run on, again and again."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.port, self.demo_port = free_port(), free_range(TARGETS)
        ours = ("SLIPWAY_", "DATABASE_", "DJANGO_")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(ours)},
            "SLIPWAY_STATE_DIR": str(state_dir),
            "SLIPWAY_PORT": str(self.port),
            "SLIPWAY_DEMO_PORT": str(self.demo_port),
            "PYTHONUNBUFFERED": "1",
        }
        self.process: subprocess.Popen[str] | None = None
        self.output = ""

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "portal.local.up"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def read_until_ready(self) -> str:
        """What it prints until the log-in is shown, or until it ends."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.output = ""
        for line in self.process.stdout:
            self.output += line
            if "Stop: Ctrl-C" in line:
                break
        return self.output

    def stop(self, number: int = signal.SIGINT) -> int:
        """End it and return its exit code; what it printed meanwhile is added to `output`."""
        assert self.process is not None
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=30)
        self.output += rest
        return self.process.returncode

    def processes(self) -> list[str]:
        """Everything on this machine that has to do with the state directory or its ports."""
        mine = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                variables = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if str(self.state_dir) in line or f"SLIPWAY_STATE_DIR={self.state_dir}\0" in variables:
                mine.append(line)
        return mine

    def get(self, path: str, token: str = "") -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=headers, timeout=10)


@pytest.fixture
def up(tmp_path) -> Iterator[Up]:
    made = Up(tmp_path / "state")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.stop(signal.SIGTERM)
    subprocess.run([sys.executable, "-m", "portal.local.reset"], cwd=ROOT, env=made.environment, check=False)


@pytest.mark.timeout(300)
def test_the_demo_is_shown_once_and_nothing_is_left_when_it_stops(up):
    up.start()
    shown = up.read_until_ready()

    assert f"{TARGETS} targets run 1.0" in shown, shown
    assert re.search(rf"{TARGETS} targets run 1\.1 .*failures: 0", shown), shown
    assert "answered 500" in shown, shown
    assert f"rolled back by itself: all {TARGETS} targets run 1.1" in shown, shown
    assert re.search(r"Log in as demo with \S{10,}", shown), shown
    assert up.get("/login/").status_code == 200

    assert up.stop() == 0
    deadline = time.monotonic() + 5
    while up.processes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert up.processes() == []

    up.start()
    again = up.read_until_ready()
    assert "1. Version 1.0" not in again, "the demo was shown a second time"
    assert "Slipway is up" in again, again
    ports = range(up.demo_port, up.demo_port + TARGETS)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            versions = [httpx.get(f"http://127.0.0.1:{port}/orders").json()["version"] for port in ports]
            break
        except httpx.TransportError:
            time.sleep(0.2)
    assert set(versions) == {"1.1"}
    assert up.stop(signal.SIGTERM) == 0
    assert leaks(up) == []


@pytest.mark.timeout(240)
def test_nothing_outlives_it_when_it_is_killed(up):
    up.start()
    logs = up.state_dir / "logs"
    wait_for(lambda: (logs / "system.log").exists() and "clock started" in (logs / "system.log").read_text())
    assert len(up.processes()) > 6

    assert up.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_for(lambda: up.processes() == [])


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


def leaks(up: Up) -> list[str]:
    """Logs that hold one of the demo's secrets."""
    memory = json.loads((up.state_dir / "demo.json").read_text())
    secrets = [memory["password"], memory["token"]]
    secrets += [(up.state_dir / name).read_text() for name in ("secret-key", "signing-key", "database-url")]
    secrets += [file.read_text() for file in (up.state_dir / "join").iterdir()]
    logs = {log.name: log.read_text() for log in (up.state_dir / "logs").iterdir()}
    assert len(logs) >= 6
    return [name for name, text in logs.items() if any(secret in text for secret in secrets)]


@pytest.mark.parametrize("variable", ["SLIPWAY_PORT", "SLIPWAY_DEMO_PORT"])
def test_a_port_in_use_is_named_before_anything_is_started(up, variable):
    with socket.socket() as other:
        other.bind(("127.0.0.1", int(up.environment[variable])))
        other.listen()
        up.start()
        said = up.read_until_ready()
        assert up.stop() == 1
    assert f"Port {up.environment[variable]}" in said
    assert f"{variable}=" in said
    assert not (up.state_dir / "postgres").exists()


def test_a_second_one_on_the_same_directory_is_refused(up, tmp_path):
    up.start()
    lock = up.state_dir / "lock"
    deadline = time.monotonic() + 20
    while not (lock.exists() and lock.read_text()) and time.monotonic() < deadline:
        time.sleep(0.02)
    second = subprocess.run(
        [sys.executable, "-m", "portal.local.up"],
        cwd=ROOT, env=up.environment, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert second.returncode == 1
    assert "runs already" in second.stdout
    # Stopping in the middle of the start is no error.
    assert up.stop() == 0, up.output
    assert up.processes() == []
