"""Processes that outlive the agent: started in a session of their own, watched through a pidfd.

A pidfd tells of the end of a child and of an adopted process alike, without a thread for each. A process is
known by its id, its start time from /proc and the boot id, since ids are used again.
"""

import asyncio
import contextlib
import functools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deployments.agent.errors import TaskFailure

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "TMPDIR", "SSL_CERT_FILE")
"""What a service sees of the agent's own environment; a join token, for one, is not its business."""


@dataclass(frozen=True)
class Exit:
    code: int | None
    """None for an adopted process: only a parent is told."""

    def __str__(self) -> str:
        if self.code is None:
            return "ended (its exit code is not known, since it was started before the agent)"
        if self.code < 0:
            try:
                return f"was ended by {signal.Signals(-self.code).name}"
            except ValueError:
                return f"was ended by signal {-self.code}"
        return f"ended with exit code {self.code}"


class Child:
    """A running process, ours or adopted. Lives on the event loop."""

    def __init__(self, pid: int, descriptor: int, popen: subprocess.Popen[bytes] | None) -> None:
        self.pid = pid
        self._descriptor = descriptor
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[Exit] = self._loop.create_future()
        self._loop.add_reader(descriptor, self._ended)

    def _ended(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        # Before the id is given back: what the process left in its session goes with it.
        self._signal_group(signal.SIGKILL)
        code = None if self._popen is None else self._popen.wait()
        if not self._exit.done():
            self._exit.set_result(Exit(code))

    @property
    def running(self) -> bool:
        return not self._exit.done()

    async def wait(self) -> Exit:
        return await asyncio.shield(self._exit)

    async def stop(self, seconds: float) -> Exit:
        """SIGTERM to all of the session, SIGKILL after `seconds`; returns when it has ended."""
        if self.running:
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                return await asyncio.wait_for(self.wait(), seconds)
            self.kill()
        return await self.wait()

    def kill(self) -> None:
        if self.running:
            self._signal_group(signal.SIGKILL)

    def forget(self) -> None:
        """Stop watching without ending it; the next agent adopts it."""
        if self.running:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            if self._popen is not None:
                self._popen.returncode = 0  # or Popen warns that it is left behind, which is the intent
            self._exit.cancel()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def spawn(command: Sequence[str], *, cwd: Path, env: Mapping[str, str], output: int) -> Child:
    """Start `command` without a shell; raises TaskFailure `start_failed` with what to correct."""
    try:
        popen = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output != subprocess.DEVNULL else subprocess.DEVNULL,
            start_new_session=True,
            umask=0o022,
        )
    except FileNotFoundError:
        raise _not_found(command) from None
    except PermissionError:
        raise TaskFailure(
            "start_failed",
            f"The command '{command[0]}' is not executable. Set its executable bit in the artifact.",
        ) from None
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "its arguments or environment are invalid"
        raise TaskFailure("start_failed", f"'{command[0]}' cannot be started: {reason}.") from None
    return Child(popen.pid, os.pidfd_open(popen.pid), popen)


def check_command(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> None:
    """Raise TaskFailure `start_failed` when there is nothing to execute, before anything is stopped."""
    if not command or not command[0]:
        raise TaskFailure("start_failed", "The service has no command; set one in its process settings.")
    if "/" in command[0]:
        candidates = [cwd / command[0]]
    else:
        candidates = [Path(part or ".") / command[0] for part in os.get_exec_path(dict(env))]
    found = [path for path in candidates if path.is_file()]
    if not found:
        raise _not_found(command)
    if not any(os.access(path, os.X_OK) for path in found):
        raise TaskFailure(
            "start_failed",
            f"The command '{command[0]}' is not executable. Set its executable bit in the artifact.",
        )


def _not_found(command: Sequence[str]) -> TaskFailure:
    return TaskFailure(
        "start_failed",
        f"The command '{command[0]}' was not found on the target. Put it into the artifact, install it, or "
        "correct the service's command.",
    )


def base_environment() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it cannot be read."""
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return {}
    decoded = (os.fsdecode(pair).partition("=") for pair in pairs if pair)
    return {name: value for name, _, value in decoded}


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 when there is none or it is a zombie."""
    try:
        # The name of the program, in parentheses, may itself hold spaces and parentheses.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in (b"Z", b"X") else int(fields[19])


@functools.cache
def boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def adopt(pid: int, ticks: int) -> Child | None:
    """Take over a process that an earlier agent started; None when it is not there any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        return None
    if start_ticks(pid) != ticks:  # checked after opening: from here on the descriptor cannot change hands
        os.close(descriptor)
        return None
    return Child(pid, descriptor, None)


def find_by_environment(name: str, value: str) -> int:
    """The process whose environment has `name=value`, the leader of its session first; 0 when none has.

    For the moment between starting a process and writing down its id, in which an agent may be killed.
    """
    wanted = f"{name}={value}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                pid = int(entry.name)
                if os.getsid(pid) == pid and start_ticks(pid):
                    return pid
    return 0
