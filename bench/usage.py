"""What processes use, from /proc: seconds of CPU and resident memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Of the process with all its descendants, those included that have ended and were waited for."""
    ticks = 0
    for one in tree(pid):
        try:
            fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_PER_SECOND


def resident_kb(pid: int) -> int:
    """Resident memory of the process alone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ValueError(f"process {pid} has no memory")


def database_pid() -> int:
    """The server that Django is connected to; it has to run on this machine."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        (backend,) = cursor.fetchone()
    return int(Path(f"/proc/{backend}/stat").read_text().rpartition(")")[2].split()[1])


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU so far, by the name of the process; their difference is what a span of time cost."""

    seconds: dict[str, float]

    @classmethod
    def of(cls, pids: dict[str, int]) -> "Cpu":
        return cls({name: cpu_seconds(pid) for name, pid in pids.items()})

    def since(self, before: "Cpu") -> dict[str, float]:
        return {name: self.seconds[name] - before.seconds[name] for name in self.seconds}


def tree(pid: int) -> Iterator[int]:
    """The process and all that descend from it, parents first."""
    yield pid
    try:
        children = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for line in children:
        for child in line.split():
            yield from tree(int(child))
