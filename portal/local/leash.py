"""`python -m portal.local.leash PID [--after PORT] COMMAND..`: COMMAND, which ends with process PID.

The kernel sends it SIGTERM when its parent dies, by SIGKILL too, so that a killed `make up` leaves nothing
that would hold its ports. `--after` waits until a port answers: an agent that dials before the portal
listens backs off, and comes seconds later than it could.
"""

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
LOOK_SECONDS = 0.05


def leashed(command: Sequence[str], *, after: int | None = None) -> list[str]:
    """The command line that runs `command` for as long as this process lives."""
    waiting = ["--after", str(after)] if after is not None else []
    return [sys.executable, "-m", "portal.local.leash", str(os.getpid()), *waiting, *command]


def main() -> None:
    owner, arguments = int(sys.argv[1]), sys.argv[2:]
    end_with_parent(signal.SIGTERM)
    if arguments[0] == "--after":
        port, arguments = int(arguments[1]), arguments[2:]
        while not answers(port) and lives(owner):
            time.sleep(LOOK_SECONDS)
    # It may have died before the kernel was asked for a signal, and then none comes.
    if lives(owner):
        os.execv(arguments[0], arguments)  # noqa: S606  the command line is ours, see `leashed`


def end_with_parent(number: int) -> None:
    """Ask the kernel for a signal when the parent dies. Kept over exec. Linux only; nothing elsewhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def lives(pid: int) -> bool:
    """Whether the process runs. One that died and waits for its parent to notice does not."""
    if not Path("/proc/self/stat").exists():
        return True  # not Linux: there is no signal from the kernel either, and nothing to be late for
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
