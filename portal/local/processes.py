"""The processes of `make up` under honcho's supervision: one log file each, all stopped together."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from honcho.manager import SYSTEM_PRINTER_NAME, Manager

from portal.env import CHECKOUT
from portal.local.layout import REGIONS, Layout
from portal.local.leash import end_with_parent, leashed

# What an agent's environment takes from ours: its services inherit from it, and nothing secret may.
HARMLESS = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "USER", "LOGNAME")
LOG_MODE = 0o600


class LogFiles:
    """honcho's printer, into files. `started` is set when all processes are; `dead` is the first to end."""

    def __init__(self, directory: Path) -> None:
        self.width = 0
        self.started = threading.Event()
        self.dead = ""
        self._directory = directory
        self.expected = 0
        self._files: dict[str, TextIO] = {}

    def write(self, message: Any) -> None:
        text = message.data.decode(errors="replace") if isinstance(message.data, bytes) else message.data
        if message.name == SYSTEM_PRINTER_NAME:
            self._notice(text)
        file = self._file(message.name)
        file.write(f"{message.time:%H:%M:%S} {message.name} | {text.rstrip()}\n")
        file.flush()

    def path(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def tail(self, name: str, lines: int = 15) -> str:
        file = self.path(name)
        return "\n".join(file.read_text().splitlines()[-lines:]) if file.exists() else ""

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _file(self, name: str) -> TextIO:
        if name not in self._files:
            descriptor = os.open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, LOG_MODE)
            self._files[name] = os.fdopen(descriptor, "a", encoding="utf-8")
        return self._files[name]

    def _notice(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if rest.startswith("started"):
            self.expected -= 1
            if self.expected == 0:
                self.started.set()
        elif rest.startswith("stopped") and not self.dead:
            self.dead = name


def build(
    layout: Layout, variables: Mapping[str, str], join_tokens: Mapping[str, Path], logs: LogFiles
) -> Manager:
    """A manager of web, worker, clock and one agent a region. `variables` are the control plane's."""
    ours = {**os.environ, **variables}
    manage = [sys.executable, "manage.py"]
    agent_variables = {name: os.environ[name] for name in HARMLESS if name in os.environ}
    commands = {
        "web": [*manage, "web", "--port", str(layout.port)],
        "worker": [*manage, "worker"],
        "clock": [*manage, "clock"],
        **{f"agent-{region}": agent_command(layout, region, join_tokens) for region in REGIONS},
    }
    logs.expected = len(commands)
    manager = Manager(logs)  # type: ignore[no-untyped-call]
    for name, command in commands.items():
        environment = agent_variables if name.startswith("agent-") else ours
        # honcho runs a shell; `exec` leaves no second process between us and the one that we signal.
        after = layout.port if name.startswith("agent-") else None
        line = f"exec {shlex.join(leashed(command, after=after))}"
        manager.add_process(name, line, env=dict(environment), cwd=str(CHECKOUT))  # type: ignore[no-untyped-call]
    return manager


def tie_children_to_us() -> None:
    """Have honcho's own forks, which hold the processes, die with us; the processes then end by the leash."""
    us = os.getpid()

    def bind() -> None:
        end_with_parent(signal.SIGKILL)
        if os.getppid() != us:
            os._exit(1)

    os.register_at_fork(after_in_child=bind)


def agent_command(layout: Layout, region: str, join_tokens: Mapping[str, Path]) -> list[str]:
    """How one demo agent is started; the join token goes by file, and only before it is enrolled."""
    command = [sys.executable, "-m", "deployments.agent", "--server", layout.url]
    command += ["--state-dir", str(layout.state_dir / "agents" / region), "--name", f"demo-{region}"]
    command += ["--stop-services-on-exit", "--json-logs"]
    if region in join_tokens:
        command += ["--join-token-file", str(join_tokens[region])]
    return command
