"""Artifacts on disk: a cache of verified archives by digest, and one read-only tree unpacked from each.

All targets of the agent share the tree of an artifact, so that a release that goes to hundreds of them is
fetched once and unpacked once. A manifest beside the tree says what was unpacked; whoever edits a file of
an active release by hand is found out by it, and the next staging puts the tree right.
"""

import asyncio
import hashlib
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from deployments import protocol
from deployments.agent.download import download
from deployments.agent.errors import TaskFailure
from deployments.agent.identity import Identity
from deployments.agent.options import Limits
from deployments.agent.state import StateDir, digest_hex, remove_tree, sync_directory, write_atomic
from deployments.agent.unpack import Entry, unpack
from deployments.agent.work import on_disk, on_network

log = logging.getLogger("slipway.agent.store")

MAX_REPORTED_FILES = 10


class Store:
    """Ensures artifacts, one worker for each digest however many targets ask."""

    def __init__(self, state: StateDir, identity: Identity, limits: Limits) -> None:
        self._state = state
        self._identity = identity
        self._limits = limits
        self._busy: dict[str, asyncio.Task[Path]] = {}
        self._pins: Counter[str] = Counter()
        self._hashed: set[str] = set()
        self.in_use: Counter[str] = Counter()
        """How many staged releases need each digest (in hex); kept by `releases`."""

    def clean(self) -> None:
        """Remove what a killed agent left half done; partial downloads stay, to be continued."""
        for entry in [
            path
            for folder in (self._state.trees, self._state.cache, self._state.partial)
            for path in folder.glob(".*")
        ]:
            remove_tree(entry)
        for entry in self._state.trees.iterdir():
            if entry.is_dir() and not self._manifest(entry.name).exists():
                remove_tree(entry)

    def tree(self, hexdigest: str) -> Path:
        return self._state.trees / hexdigest

    def _manifest(self, hexdigest: str) -> Path:
        return self._state.trees / f"{hexdigest}.manifest"

    @asynccontextmanager
    async def pinned(self, ref: protocol.ArtifactRef) -> AsyncIterator[Path]:
        """The tree of the artifact, fetched and unpacked where it is missing; not evicted meanwhile.

        Raises TaskFailure or OSError.
        """
        name = digest_hex(ref.digest)
        self._pins[name] += 1
        try:
            yield await self._ensure(name, ref)
        finally:
            self._pins[name] -= 1
            if not self._pins[name]:
                del self._pins[name]

    async def _ensure(self, name: str, ref: protocol.ArtifactRef) -> Path:
        task = self._busy.get(name)
        if task is None:
            task = self._busy[name] = asyncio.create_task(self._provide(name, ref), name=f"fetch {name[:12]}")
            task.add_done_callback(lambda _: self._busy.pop(name, None))
        # One target's cancellation must not take the artifact from the others.
        return await asyncio.shield(task)

    async def _provide(self, name: str, ref: protocol.ArtifactRef) -> Path:
        if await on_disk(self._intact, name):
            return self.tree(name)
        archive = self._state.cache / name
        if not await on_disk(self._cached, archive, ref):
            if ref.size_bytes > self._limits.artifact_bytes:
                raise TaskFailure(
                    "archive_too_large",
                    f"The artifact has {ref.size_bytes} bytes and this agent takes at most "
                    f"{self._limits.artifact_bytes}. Raise its limit with --max-artifact-bytes.",
                )
            partial = self._state.partial / name
            await on_network(download, self._identity, ref, partial)
            await on_disk(partial.replace, archive)
        await on_disk(self._unpack, name, archive)
        await self.evict()
        return self.tree(name)

    def _cached(self, archive: Path, ref: protocol.ArtifactRef) -> bool:
        """Whether the archive is there with the right bytes; a damaged one is removed."""
        if not archive.exists():
            return False
        with archive.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == archive.name
        if not whole or archive.stat().st_size != ref.size_bytes:
            log.warning("The cached artifact %s was damaged; fetching it again", archive.name)
            archive.unlink()
            return False
        os.utime(archive)  # least recently used goes first
        return True

    def _unpack(self, name: str, archive: Path) -> None:
        temporary = self._state.trees / f".{name}.new"
        remove_tree(temporary)
        try:
            entries = unpack(archive, temporary, self._limits)
            manifest = b"\n".join(msgspec.json.encode(entry) for entry in entries)
            write_atomic(self._manifest(name), manifest)
        except BaseException:
            remove_tree(temporary)
            raise
        tree = self.tree(name)
        if tree.exists():  # somebody changed it: what still runs keeps its open files
            old = self._state.trees / f".{name}.old"
            remove_tree(old)
            tree.rename(old)
            temporary.rename(tree)
            remove_tree(old)
        else:
            temporary.rename(tree)
        sync_directory(self._state.trees)
        self._hashed.add(name)

    def _intact(self, name: str) -> bool:
        """Whether the tree is there as it was unpacked; contents are read once in the agent's life."""
        if not self.tree(name).is_dir() or not self._manifest(name).exists():
            return False
        changed = self.changed_files(name, thorough=name not in self._hashed)
        if changed:
            log.warning("Files of %s were changed on the target: %s", name, ", ".join(changed))
            return False
        self._hashed.add(name)
        return True

    def changed_files(self, name: str, *, thorough: bool = False) -> tuple[str, ...]:
        """Paths in the tree that differ from what was unpacked, at most MAX_REPORTED_FILES.

        Contents are read where size or times differ, and everywhere when `thorough`.
        """
        tree = self.tree(name)
        changed: list[str] = []
        known: set[str] = set()
        try:
            lines = self._manifest(name).read_bytes().splitlines()
        except OSError:
            return ()
        for line in lines:
            entry = msgspec.json.decode(line, type=Entry)
            known.add(entry.path)
            if _differs(tree / entry.path, entry, thorough):
                changed.append(entry.path)
        changed.extend(sorted(_present(tree) - known))
        return tuple(changed[:MAX_REPORTED_FILES])

    def tree_digest(self, name: str) -> str:
        """One digest over the paths and contents that were unpacked."""
        digest = hashlib.sha256()
        for line in self._manifest(name).read_bytes().splitlines():
            entry = msgspec.json.decode(line, type=Entry)
            digest.update(f"{entry.path}\0{entry.sha256 or entry.link}\n".encode())
        return f"sha256:{digest.hexdigest()}"

    def _needed(self, name: str) -> bool:
        return bool(self.in_use[name] or self._pins[name] or name in self._busy)

    async def evict(self) -> None:
        """Drop trees that no release needs, then the least recently used archives beyond the limit.

        Deciding and renaming away happen on the loop, where nobody can pin in between; deleting does not.
        """
        trees, archives = await on_disk(self._inventory)
        gone: list[Path] = []
        for tree in trees:
            if not self._needed(tree.name):
                self._hashed.discard(tree.name)
                self._manifest(tree.name).unlink(missing_ok=True)
                gone.append(tree.rename(tree.with_name(f".{tree.name}.gone")))
        total = sum(size for _, size, _ in archives)
        for _, size, path in archives:
            if total <= self._limits.cache_bytes:
                break
            if not self._needed(path.name):
                gone.append(path.rename(path.with_name(f".{path.name}.gone")))
                total -= size
        for path in gone:
            await on_disk(remove_tree, path)

    def _inventory(self) -> tuple[list[Path], list[tuple[int, int, Path]]]:
        """All trees; all archives, whole and partial, with time of last use and size, oldest first."""
        trees = [path for path in self._state.trees.iterdir() if len(path.name) == 64]
        archives = []
        for path in [*self._state.cache.iterdir(), *self._state.partial.iterdir()]:
            if not path.name.startswith("."):
                found = path.stat()
                archives.append((found.st_mtime_ns, found.st_size, path))
        return trees, sorted(archives)


def _differs(path: Path, entry: Entry, thorough: bool) -> bool:
    try:
        if entry.link:
            return str(path.readlink()) != entry.link
        found = path.lstat()
        if path.is_symlink() or found.st_size != entry.size:
            return True
        same_times = (found.st_mtime_ns, found.st_ctime_ns) == (entry.mtime_ns, entry.ctime_ns)
        if same_times and not thorough:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256
    except OSError:
        return True


def _present(tree: Path) -> set[str]:
    """Relative paths of all files and links; what interpreters cache beside their sources is not counted."""
    found: set[str] = set()
    prefix = len(str(tree)) + 1
    for directory, names, files in os.walk(tree):
        names[:] = [name for name in names if name != "__pycache__"]
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]  # noqa: PTH114, PTH118
        found.update(os.path.join(directory, name)[prefix:] for name in [*files, *links])  # noqa: PTH118
    return found
