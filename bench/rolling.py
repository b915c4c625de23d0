"""A rolling update of local targets in ten batches: Slipway, ansible-core, pyinfra and a bare program."""

import argparse
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import artifact, plane, slipway
from bench.database import database
from bench.figures import Row, ratio, timed
from bench.peers import ansible, layout, plain, pyinfra

TOOLS = plane.CHECKOUT / ".venv-bench"
MEMORY = Path("/dev/shm")
ROOM_BYTES_A_TARGET = 25_000_000
TIMES_ANSIBLE, TIMES_PYINFRA, TIMES_PLAIN = 20.0, 4.0, 1.3
"""Asked: at least so much quicker than the two tools, at most so much slower than the bare program."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How often each contender runs; 0 leaves it out."""

    targets: int
    rounds: int
    updates: int = 1
    """Of Slipway, in each round."""
    pyinfra: int = 1
    ansible: int = 1
    whole: bool = True
    """Otherwise the two tools update one batch of the ten, and its time is multiplied by ten."""


@dataclass
class Times:
    """Seconds of each run, by contender."""

    slipway: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    shared: list[float] = field(default_factory=list)
    pyinfra: list[float] = field(default_factory=list)
    ansible: list[float] = field(default_factory=list)
    steps: str = ""
    """Where the time of Slipway's last update went."""


QUICK = (
    Effort(targets=100, rounds=3, pyinfra=3),
    Effort(targets=500, rounds=1, updates=3, whole=False),
)
FULL = (
    Effort(targets=100, rounds=3, pyinfra=3, ansible=3),
    Effort(targets=500, rounds=3),
)


def measure(efforts: tuple[Effort, ...] = QUICK) -> list[Row]:
    with (
        database(),
        tempfile.TemporaryDirectory(prefix="slipway-rolling-") as folder,
        plane.control_plane(Path(folder)) as url,
    ):
        return [row for effort in efforts for row in rows(effort, compare(effort, url, Path(folder)))]


def compare(effort: Effort, url: str, folder: Path) -> Times:
    """Run the contenders in turn, so that what else the machine does falls on all of them."""
    times = Times()
    archive = artifact.build(folder / "peers.tar.gz", layout.AFTER)
    for number in range(max(effort.rounds, effort.pyinfra, effort.ansible)):
        if number < effort.rounds:
            with slipway.fleet(effort.targets, url, folder) as fleet:
                times.slipway += [fleet.update() for _ in range(effort.updates)]
                times.steps = fleet.steps
            times.plain.append(_peer(plain.run, effort, archive))
            times.shared.append(_peer(lambda job: plain.run(job, shared=True), effort, archive))
        if number < effort.pyinfra:
            times.pyinfra.append(_tool(lambda job: pyinfra.run(job, TOOLS), effort, archive))
        if number < effort.ansible:
            times.ansible.append(_tool(lambda job: ansible.run(job, TOOLS), effort, archive))
    return times


def _tool(update: Callable[[layout.Job], float], effort: Effort, archive: Path) -> float:
    if effort.whole:
        return _peer(update, effort, archive)
    return 10 * _peer(update, effort, archive, parts=1, targets=max(1, effort.targets // 10))


def _peer(
    update: Callable[[layout.Job], float],
    effort: Effort,
    archive: Path,
    *,
    parts: int = 10,
    targets: int | None = None,
) -> float:
    """Prepare, update, check what came out, clean up; returns the seconds of the update."""
    count = targets or effort.targets
    with tempfile.TemporaryDirectory(prefix="slipway-peer-", dir=_fastest_place(count)) as folder:
        job = layout.Job(Path(folder) / "targets", count, archive, parts)
        job.root.mkdir()
        layout.prepare(job)
        try:
            os.sync()  # what the one before wrote is not for this one to wait for
            seconds = update(job)
            layout.check(job)
        finally:
            layout.clean(job)
        return seconds


def _fastest_place(targets: int) -> Path | None:
    """Memory, where there is room: how quickly a disk takes 70,000 files is not what is compared here.

    The peers alone profit. Slipway's agent, its journal and PostgreSQL stay on the disk.
    """
    if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > targets * ROOM_BYTES_A_TARGET:
        return MEMORY
    return None


def rows(effort: Effort, times: Times) -> list[Row]:
    count = f"{effort.targets} targets"
    scaled = "" if effort.whole else "one batch of ten, times ten"
    ours = statistics.median(times.slipway)
    found = [
        timed(f"{count}: Slipway", times.slipway, "s", note=f"one agent, unpacks once; {times.steps}"),
        timed(f"{count}: plain asyncio program", times.plain, "s", note="unpacks for each target"),
        timed(f"{count}: the same, unpacking once", times.shared, "s", note="as Slipway's agent does"),
    ]
    if times.pyinfra:
        found.append(timed(f"{count}: pyinfra", times.pyinfra, "s", note=scaled))
    if times.ansible:
        found.append(timed(f"{count}: ansible-core", times.ansible, "s", note=scaled))
        to_ansible = statistics.median(times.ansible) / ours
        found.append(ratio(f"{count}: Ansible to Slipway", to_ansible, least=TIMES_ANSIBLE))
    if times.pyinfra:
        to_pyinfra = statistics.median(times.pyinfra) / ours
        found.append(ratio(f"{count}: pyinfra to Slipway", to_pyinfra, least=TIMES_PYINFRA))
    to_plain, to_shared = ours / statistics.median(times.plain), ours / statistics.median(times.shared)
    found.append(ratio(f"{count}: Slipway to the plain program", to_plain, most=TIMES_PLAIN))
    found.append(
        ratio(f"{count}: Slipway to the one that unpacks once", to_shared, note="what control costs")
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="run everything whole; takes over an hour")
    parser.add_argument("--targets", type=int, help="only this many targets")
    parser.add_argument("--rounds", type=int, default=3, help="with --targets")
    parser.add_argument("--no-tools", action="store_true", help="with --targets: without Ansible and pyinfra")
    options = parser.parse_args()
    efforts = FULL if options.full else QUICK
    if options.targets:
        tools = 0 if options.no_tools else 1
        efforts = (Effort(targets=options.targets, rounds=options.rounds, pyinfra=tools, ansible=tools),)
    for row in measure(efforts):
        print(f"{row.what}: {row.median}, {row.spread} {row.asked} {row.met} {row.note}", flush=True)


if __name__ == "__main__":
    main()
