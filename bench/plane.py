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


@contextlib.contextmanager
def control_plane(logs: Path) -> Iterator[str]:
    """Web, worker and clock on the database of `bench.database`; yields the URL of the web process."""
    from portal.local.ports import free_port

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environ = os.environ | {"SLIPWAY_PUBLIC_URL": url}
    with contextlib.ExitStack() as stack:
        web = stack.enter_context(running("web", manage("web", "--port", str(port)), logs, environ))
        stack.enter_context(worker(logs))
        stack.enter_context(running("clock", manage("clock"), logs, environ))
        _answers(web, url)
        yield url


@contextlib.contextmanager
def agent(name: str, url: str, join_token: str, state_dir: Path, logs: Path) -> Iterator[Running]:
    """A real agent, enrolled by `join_token`; its services end with it."""
    environ = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
    environ["SLIPWAY_AGENT_JOIN_TOKEN"] = join_token
    command = [sys.executable, "-m", "deployments.agent", "--server", url, "--state-dir", str(state_dir)]
    with running(name, [*command, "--name", name, "--stop-services-on-exit"], logs, environ) as started:
        yield started


def _answers(web: Running, url: str) -> None:
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
