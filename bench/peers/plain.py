"""A plain asyncio program that does the work of the update and nothing else: the floor.

No control plane, no rows, no signatures, no journal, no report: if it is stopped in the middle, nobody
knows what runs where. `shared` unpacks once and links each release to that tree, as Slipway's agent does.
"""

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path

from bench.peers.layout import AFTER, Job, batch_script, config, health


def run(job: Job, *, shared: bool = False) -> float:
    """Seconds for the whole update."""
    began = time.perf_counter()
    asyncio.run(_update(job, shared=shared))
    return time.perf_counter() - began


async def _update(job: Job, *, shared: bool) -> None:
    at_once = asyncio.Semaphore(os.cpu_count() or 1)
    tree = job.root / "tree"
    if shared:
        await _unpack(job.archive, tree, at_once)
    for batch in job.batches:
        await asyncio.gather(*(_one(job, home, at_once, tree if shared else None) for home in batch))


async def _one(job: Job, home: Path, at_once: asyncio.Semaphore, tree: Path | None) -> None:
    release = home / "releases" / AFTER
    if tree is None:
        await _unpack(job.archive, release, at_once)
    else:
        await asyncio.to_thread(_link, tree, release)
    await asyncio.to_thread(_switch, home, release)
    await _call(batch_script(home))
    await _call(health(home))


async def _unpack(archive: Path, directory: Path, at_once: asyncio.Semaphore) -> None:
    await asyncio.to_thread(directory.mkdir, parents=True)
    async with at_once:
        await _call(("tar", "-xzf", str(archive), "-C", str(directory)))


def _link(tree: Path, release: Path) -> None:
    release.mkdir(parents=True)
    for entry in os.scandir(tree):
        (release / entry.name).symlink_to(entry.path)


def _switch(home: Path, release: Path) -> None:
    (release / "config").mkdir()
    (release / "config" / "app.json").write_text(config(home))
    new = home / ".current"
    new.symlink_to(f"releases/{AFTER}")
    new.replace(home / "current")


async def _call(command: Sequence[str]) -> None:
    child = await asyncio.create_subprocess_exec(*command)
    if await child.wait() != 0:
        raise RuntimeError(f"{command[0]} failed with {child.returncode}")
