"""What lies on the disk of a target, for comparison with what was put there.

To look costs one `lstat` a file as long as nothing changes: a fingerprint over names, inodes, sizes and times
says whether contents must be read at all. The time of change (ctime) is part of it, which no tool sets back.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec


class Inspection(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of the active release of one target; see `protocol.TargetReport`."""

    modified: tuple[str, ...] = ()
    current: str = ""
    tree_digest: str = ""
    files_digest: str = ""


def legible(name: str) -> str:
    """A name from the disk, as it can be sent: what is not UTF-8 in it is replaced."""
    return name.encode(errors="surrogateescape").decode(errors="replace")


def content_of(path: Path) -> str:
    """The SHA-256 of a file, `-> TARGET` for a link, empty for what is missing or neither."""
    try:
        mode = path.lstat().st_mode
        if stat.S_ISLNK(mode):
            return f"-> {path.readlink()}"
        if not stat.S_ISREG(mode):
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def digest_of(contents: Mapping[str, str]) -> str:
    """One digest over paths and contents, as `content_of` names them; what is missing is left out."""
    digest = hashlib.sha256()
    for path in sorted(contents):
        if contents[path]:
            digest.update(f"{path}\0{contents[path]}\n".encode(errors="surrogateescape"))
    return f"sha256:{digest.hexdigest()}"


def fingerprint(tree: Path) -> bytes:
    """Of all files and links below `tree`, but for what interpreters cache beside their sources."""
    digest = hashlib.blake2b(digest_size=16)
    folders = [str(tree)]
    while folders:
        folder = folders.pop()
        digest.update(f"{folder}\n".encode(errors="surrogateescape"))
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            try:
                if not entry.is_dir(follow_symlinks=False):
                    _add(digest, entry.name, entry.stat(follow_symlinks=False))
                elif entry.name != "__pycache__":
                    folders.append(entry.path)
            except OSError:  # it went meanwhile, or its folder may be listed and not entered
                digest.update(f"{entry.name}\0missing\n".encode(errors="surrogateescape"))
    return digest.digest()


def fingerprint_of(paths: Iterable[Path]) -> bytes:
    """Of these files and links, whatever lies beside them."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            _add(digest, str(path), path.lstat())
        except OSError:
            digest.update(f"{path}\0missing\n".encode(errors="surrogateescape"))
    return digest.digest()


def _add(digest: hashlib.blake2b, name: str, found: os.stat_result) -> None:
    facts = (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    digest.update(f"{name}\0{facts}\n".encode(errors="surrogateescape"))
