"""Artifacts on disk: a cache of verified archives by digest, and one read-only tree unpacked from each.

All targets of the agent share the tree of an artifact, so that a release that goes to hundreds of them is
fetched once and unpacked once. A manifest beside the tree says what was unpacked; whoever edits a file of
an active release by hand is found out by it, and the next staging puts the tree right.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import stat
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from deployments import protocol
from deployments.agent.download import download
from deployments.agent.errors import TaskFailure
from deployments.agent.identity import Identity
from deployments.agent.inspection import content_of, digest_of, fingerprint, fingerprint_of, legible
from deployments.agent.options import Limits
from deployments.agent.state import StateDir, digest_hex, remove_tree, sync_directory, write_atomic
from deployments.agent.unpack import Entry, unpack
from deployments.agent.work import on_disk, on_network

log = logging.getLogger("slipway.agent.store")

MAX_REPORTED_FILES = 10
MANIFEST = "<manifest>"
"""Stands among changed files for a manifest that is gone or cannot be read: then nothing can be compared."""


class TreeFound(msgspec.Struct, frozen=True):
    """A tree as it was found on the disk."""

    fingerprint: bytes
    changed: tuple[str, ...]
    """Paths that differ from what was unpacked, at most MAX_REPORTED_FILES."""
    digest: str
    """Over paths and contents."""


class Store:
    """Ensures artifacts, one worker for each digest however many targets ask."""

    def __init__(self, state: StateDir, identity: Identity, limits: Limits) -> None:
        self._state = state
        self._identity = identity
        self._limits = limits
        self._busy: dict[str, asyncio.Task[Path]] = {}
        self._given_up: dict[str, threading.Event] = {}
        """Set for an artifact that is being fetched and that nobody waits for any more."""
        self._pins: Counter[str] = Counter()
        self._hashed: set[str] = set()
        self._inspected: dict[str, TreeFound] = {}
        self.unpacked = 0
        """Trees unpacked so far: what was seen of them before the last one may be of the past."""
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
                if name in self._given_up:
                    self._given_up[name].set()

    async def _ensure(self, name: str, ref: protocol.ArtifactRef) -> Path:
        task = self._busy.get(name)
        while task is not None and self._given_up[name].is_set():
            await asyncio.wait((task,))
            task = self._busy.get(name)
        if task is None:
            self._given_up[name] = threading.Event()
            task = self._busy[name] = asyncio.create_task(self._provide(name, ref), name=f"fetch {name[:12]}")
            task.add_done_callback(lambda done: self._provided(name, done))
        # One target's cancellation must not take the artifact from the others.
        return await asyncio.shield(task)

    def _provided(self, name: str, task: asyncio.Task[Path]) -> None:
        del self._busy[name], self._given_up[name]
        if not task.cancelled():
            task.exception()  # whoever still waits is told; with nobody left it is no news

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
            await on_network(download, self._identity, ref, partial, self._given_up[name])
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
            if self._manifest(name).is_dir():
                remove_tree(self._manifest(name))  # put there by hand; a file cannot take its place
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
        self.unpacked += 1

    def _intact(self, name: str) -> bool:
        """Whether the tree is there as it was unpacked; contents are read once in the agent's life."""
        if not self.tree(name).is_dir():
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
        return self._compare(name, thorough)[0]

    def inspect(self, name: str) -> TreeFound:
        """What is on the disk. Contents are read only where something changed since the last look."""
        seen = fingerprint(self.tree(name)) + fingerprint_of([self._manifest(name)])
        found = self._inspected.get(name)
        if found is None or found.fingerprint != seen:
            found = self._inspected[name] = TreeFound(seen, *self._compare(name, thorough=False))
        return found

    def _compare(self, name: str, thorough: bool) -> tuple[tuple[str, ...], str]:
        """The paths that differ, and the digest of what is there."""
        tree = self.tree(name)
        changed: list[str] = []
        contents: dict[str, str] = {}
        entries = self._unpacked(name)
        if entries is None:
            changed.append(MANIFEST)
        for entry in entries or ():
            contents[entry.path] = _content(tree / entry.path, entry, thorough)
            if contents[entry.path] != _expected(entry) or _mode_differs(tree / entry.path, entry):
                changed.append(entry.path)
        for path in sorted(_present(tree) - contents.keys()):
            contents[path] = content_of(tree / path)
            if entries is not None:  # or nobody knows what was there
                changed.append(path)
        shown = tuple(legible(path) for path in changed[:MAX_REPORTED_FILES])
        return shown, digest_of(contents)

    def _unpacked(self, name: str) -> list[Entry] | None:
        """What the manifest says; None when it is gone or cannot be read."""
        try:
            lines = self._manifest(name).read_bytes().splitlines()
            return [msgspec.json.decode(line, type=Entry) for line in lines]
        except (OSError, ValueError):  # of JSON that is none, or no UTF-8
            return None

    def is_busy(self, name: str) -> bool:
        """Whether the tree is being fetched or unpacked."""
        return name in self._busy

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
                self._inspected.pop(tree.name, None)
                remove_tree(self._manifest(tree.name))
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


def _expected(entry: Entry) -> str:
    return f"-> {entry.link}" if entry.link else entry.sha256


def _content(path: Path, entry: Entry, thorough: bool) -> str:
    """What `content_of` says, without reading a file whose size and times are those of the entry."""
    if not entry.link and not thorough:
        with contextlib.suppress(OSError):
            found = path.lstat()
            as_unpacked = (entry.size, entry.mtime_ns, entry.ctime_ns)
            if (found.st_size, found.st_mtime_ns, found.st_ctime_ns) == as_unpacked:
                return entry.sha256
    return content_of(path)


def _mode_differs(path: Path, entry: Entry) -> bool:
    """Whether it may be read or executed otherwise than as unpacked; who may write decides nothing yet."""
    if not entry.mode:
        return False
    try:
        found = path.lstat()
    except OSError:
        return True
    return bool((stat.S_IMODE(found.st_mode) ^ entry.mode) & ~0o222)


def _present(tree: Path) -> set[str]:
    """Relative paths of all files and links; what interpreters cache beside their sources is not counted."""
    found: set[str] = set()
    prefix = len(str(tree)) + 1
    for directory, names, files in os.walk(tree):
        names[:] = [name for name in names if name != "__pycache__"]
        links = [name for name in names if os.path.islink(os.path.join(directory, name))]  # noqa: PTH114, PTH118
        found.update(os.path.join(directory, name)[prefix:] for name in [*files, *links])  # noqa: PTH118
    return found
