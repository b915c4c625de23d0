"""The state directory: private, locked by one agent at a time, written atomically."""

import contextlib
import fcntl
import os
import re
import secrets
from pathlib import Path

from deployments.agent.errors import CannotStart, TaskFailure

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class StateDir:
    """Paths of everything that the agent keeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = root / "agent.key"
        self.identity = root / "agent.json"
        self.journal = root / "journal.jsonl"
        self.cache = root / "cache" / "sha256"
        self.partial = root / "cache" / "partial"
        self.trees = root / "trees"
        self.targets = root / "targets"
        self._lock = -1

    def open(self) -> None:
        """Create what is missing and take the lock; raises CannotStart."""
        try:
            for directory in (self.root, self.cache, self.partial, self.trees, self.targets):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            self._lock = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotStart(f"The state directory {self.root} cannot be used: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            self.close()
            raise CannotStart(
                f"Another agent (process {holder}) uses the state directory {self.root}. "
                "Give each agent a directory of its own."
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def safe_name(value: str, what: str) -> str:
    """`value`, when it can be the name of a directory; raises TaskFailure."""
    if not _SAFE_NAME.fullmatch(value):
        raise TaskFailure("malformed", f"The {what} in the instruction cannot be used as a file name.")
    return value


def digest_hex(digest: str) -> str:
    """The 64 hex digits of `sha256:...`; raises TaskFailure."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise TaskFailure("malformed", "The artifact's digest must be sha256: and 64 hex digits.")
    return match[1]


def write_atomic(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = True) -> None:
    """Replace `path` as one step; `durable` waits for the disk. Leaves nothing behind on failure."""
    temporary = prepare(path, data, mode=mode, durable=durable)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def prepare(path: Path, data: bytes, *, mode: int = 0o600, durable: bool = False) -> Path:
    """Write `data` beside `path` and return where; what may fail for want of space has then happened."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        if durable:
            os.fsync(descriptor)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return temporary


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Delete a directory, read-only ones inside it too; what cannot be deleted stays and is no error."""
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return
    for directory, names, files in os.walk(path):
        with contextlib.suppress(OSError):
            Path(directory).chmod(0o700)
        names[:] = [name for name in names if not (Path(directory) / name).is_symlink()]
        for name in files:
            with contextlib.suppress(OSError):
                (Path(directory) / name).unlink()
    for directory, names, _ in os.walk(path, topdown=False):
        for name in names:
            entry = Path(directory) / name
            with contextlib.suppress(OSError):
                entry.unlink() if entry.is_symlink() else entry.rmdir()
    with contextlib.suppress(OSError):
        path.rmdir()
