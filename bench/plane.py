"""The control plane as it runs in production: web, worker and clock as processes of their own; and agents."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0
STOP_SECONDS = 20.0


class Running:
    """One process that we started, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str], logs: Path) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=environ, cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    def require(self) -> None:
        """Raise RuntimeError with its last words when it has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended:\n{self.log.read_text()[-3000:]}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


@contextlib.contextmanager
def running(
    name: str, command: Sequence[str], logs: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """A process for the time of the block."""
    started = Running(name, command, os.environ if environ is None else environ, logs)
    try:
        yield started
    finally:
        started.stop()


def manage(*arguments: str) -> list[str]:
    return [sys.executable, "manage.py", *arguments]


@contextlib.contextmanager
def worker(logs: Path, *, settings: str = "portal.settings", command: str = "worker") -> Iterator[Running]:
    """The process that runs jobs, once it listens. `settings` and `command` are another cluster's."""
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": settings, "SLIPWAY_PROCESS": "worker"}
    with running("worker", manage(command), logs, environ) as started:
        yield started


@dataclass(frozen=True)
class Plane:
    """The running control plane: one of each process."""

    url: str
    web: Running
    worker: Running
    clock: Running

    @property
    def pids(self) -> dict[str, int]:
        return {one.name: one.process.pid for one in (self.web, self.worker, self.clock)}


@contextlib.contextmanager
def processes(logs: Path) -> Iterator[Plane]:
    """Web, worker and clock on the database of `bench.database`, once the web process answers."""
    from portal.local.ports import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = os.environ | {"SLIPWAY_PUBLIC_URL": url}
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(running("web", manage("web", "--port", str(port)), logs, environ))
        started = stack.enter_context(worker(logs))
        clock = stack.enter_context(running("clock", manage("clock"), logs, environ))
        answers(web, url)
        yield Plane(url, web, started, clock)


@contextlib.contextmanager
def control_plane(logs: Path) -> Iterator[str]:
    """As `processes`; yields the URL of the web process."""
    with processes(logs) as started:
        yield started.url


@contextlib.contextmanager
def agent(name: str, url: str, join_token: str, state_dir: Path, logs: Path) -> Iterator[Running]:
    """A real agent, enrolled by `join_token`; its services end with it."""
    environ = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    environ["SLIPWAY_AGENT_JOIN_TOKEN"] = join_token
    command = [sys.executable, "-m", "deployments.agent", "--server", url, "--state-dir", str(state_dir)]
    with running(name, [*command, "--name", name, "--stop-services-on-exit"], logs, environ) as started:
        yield started


def answers(web: Running, url: str) -> None:
    """Return when the web process answers; raises what keeps it from that."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        web.require()
        try:
            urllib.request.urlopen(f"{url}/nothing-is-here", timeout=1)
        except urllib.error.HTTPError:
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.05)
