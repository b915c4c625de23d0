"""`python -m portal.local.leash [--after PORT] COMMAND..`: COMMAND, which ends with whoever started it.

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

PR_SET_PDEATHSIG = 1
LOOK_SECONDS = 0.05


def main() -> None:
    parent = os.getppid()
    end_with_parent(signal.SIGTERM)
    arguments = sys.argv[1:]
    if arguments[0] == "--after":
        port, arguments = int(arguments[1]), arguments[2:]
        while not answers(port) and os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
    if os.getppid() == parent:
        os.execv(arguments[0], arguments)  # noqa: S606  the command line is ours, see `processes`


def end_with_parent(number: int) -> None:
    """Ask the kernel for a signal when the parent dies. Kept over exec. Linux only; nothing elsewhere."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
