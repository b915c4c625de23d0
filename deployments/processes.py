"""Names for processes, by which others on the same machine can tell whether one still runs.

A name outlives its process: it stands in the queue on what a process took and on a rollout's lease, and
whoever finds it there asks here. Of processes elsewhere nothing can be told, and their time has to run out.
"""

import functools
import socket
from pathlib import Path

MAX_HOST_LETTERS = 30


@functools.cache
def machine() -> str:
    """This machine, and the room in it whose process ids mean something to us.

    Containers may share a host's name, but not its process ids: without the namespace each would take the
    other's processes for dead.
    """
    try:
        room = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        room = 0
    return f"{socket.gethostname()[:MAX_HOST_LETTERS]}/{room}"


def name(pid: int) -> str:
    return f"{machine()}:{pid}"


def is_dead(named: str) -> bool:
    """Whether the process was one of this machine and has ended; False where that cannot be told."""
    where, _, pid = named.rpartition(":")
    return where == machine() and pid.isdecimal() and not is_running(int(pid))


def is_running(pid: int) -> bool:
    """A process that ended and that nobody has asked about (a zombie) runs no longer."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
