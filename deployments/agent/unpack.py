"""Unpack an archive that nobody vouches for: no path, link or size may reach beyond the tree.

Regular files and directories are created as they come. Symbolic links are created last, so that nothing
is ever written through one, and then resolved on disk: a chain of links that ends outside is refused
however innocent each looks (compare CVE-2007-4559 and the filters of PEP 706, which Python 3.11 may lack).
"""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from deployments.agent import work
from deployments.agent.errors import TaskFailure
from deployments.agent.options import Limits

CHUNK = 256 * 1024
MAX_ZIP_DIRECTORY_BYTES = 32 * 1024 * 1024
MAX_NAME_BYTES = 1024


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file or link as it was unpacked. Size and times make a later comparison cheap."""

    path: str
    sha256: str = ""
    link: str = ""
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    mode: int = 0
    """Its permissions; 0 for a link, and in manifests of older agents."""


def unpack(archive: Path, destination: Path, limits: Limits) -> list[Entry]:
    """Unpack tar (plain, gzip, bzip2, xz) or zip into the new directory `destination`, read-only.

    Raises TaskFailure: unsafe_archive, archive_too_large, bad_archive; OSError for the disk. What was
    written by then is for the caller to remove.
    """
    destination.mkdir(mode=0o700)
    tree = _Tree(destination, limits)
    try:
        with archive.open("rb") as raw:
            kind = _kind(raw)
            if kind is None:
                _unzip(raw, tree)
            else:
                _untar(_Bounded(kind(raw), limits.unpacked_bytes), tree)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise _bad(str(error)) from None
    except (EOFError, struct.error, UnicodeError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _bad(str(error) or type(error).__name__) from None
    except OSError as error:
        if error.errno is None:  # what the decompressors raise for damaged data
            raise _bad(str(error)) from None
        raise
    return tree.finish()


def _bad(reason: str) -> TaskFailure:
    return TaskFailure(
        "bad_archive",
        f"The artifact cannot be unpacked ({reason}). It must be a tar (plain, gzip, bzip2, xz) or a zip; "
        "build it again.",
    )


def _unsafe(name: str, reason: str) -> TaskFailure:
    shown = name[:200].encode("ascii", "backslashreplace").decode()
    return TaskFailure(
        "unsafe_archive",
        f"The artifact was refused: '{shown}' {reason}. Build it without that entry.",
    )


def _too_large(what: str) -> TaskFailure:
    return TaskFailure(
        "archive_too_large",
        f"The artifact unpacks to more than {what}. Make it smaller or raise the agent's limit "
        "(--max-unpacked-bytes, --max-unpacked-files).",
    )


def _kind(raw: BinaryIO) -> Callable[[BinaryIO], BinaryIO] | None:
    """How to decompress a tar by its first bytes; None for a zip."""
    magic = raw.read(262)
    raw.seek(0)
    if magic.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return None
    if magic.startswith(b"\x1f\x8b"):
        return lambda source: gzip.GzipFile(fileobj=source, mode="rb")  # type: ignore[return-value]
    if magic.startswith(b"BZh"):
        return lambda source: bz2.BZ2File(source)  # type: ignore[return-value]
    if magic.startswith(b"\xfd7zXZ\x00"):
        return lambda source: lzma.LZMAFile(source)  # type: ignore[return-value]
    if magic[257:262] == b"ustar":
        return lambda source: source
    raise _bad("its format is not known")


class _Bounded:
    """A forward-only reader that counts what comes out of the decompressor.

    tarfile reads a long name or an extended header whole into memory, of whatever size it claims.
    """

    def __init__(self, source: BinaryIO, limit: int) -> None:
        self._source = source
        self._position = 0
        self._limit = limit
        # Headers and padding come on top of the files; a member costs 512 to 2048 bytes of them.
        self._allowed = limit + limit // 4 + 64 * 1024 * 1024

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > 4 * CHUNK:
            raise _bad("a header claims an absurd size")
        if self._position > self._allowed:
            raise _too_large(f"{self._limit} bytes")
        data = self._source.read(size)
        self._position += len(data)
        return data

    def seek(self, position: int, _whence: int = 0) -> int:
        if position < self._position:
            raise _bad("its entries are out of order")
        while self._position < position:
            if not self.read(min(CHUNK, position - self._position)):
                break
        return self._position


class _Tree:
    """What has been unpacked so far, and every rule about what may be."""

    def __init__(self, root: Path, limits: Limits) -> None:
        self.root = root
        self.limits = limits
        self.bytes_left = limits.unpacked_bytes
        self.members = 0
        self.directories: set[str] = {""}
        self.files: dict[str, Entry] = {}
        self.links: dict[str, str] = {}

    def count(self) -> None:
        self.members += 1
        if self.members > self.limits.unpacked_files:
            raise _too_large(f"{self.limits.unpacked_files} files")
        if work.stopping.is_set():
            raise TaskFailure("internal", "The agent is stopping.")

    def name(self, raw: str) -> str:
        """The relative path of an entry, empty for the root; raises unsafe_archive."""
        if raw.startswith("/"):
            raise _unsafe(raw, "is an absolute path")
        parts = [part for part in raw.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise _unsafe(raw, "points outside of the archive")
        try:
            encoded = raw.encode()
        except UnicodeEncodeError:
            raise _unsafe(raw, "has a name that is not UTF-8") from None
        if len(encoded) > MAX_NAME_BYTES or any(len(part.encode()) > 255 for part in parts):
            raise _unsafe(raw, "has too long a name")
        if "\0" in raw or "\\" in raw or "\n" in raw:
            raise _unsafe(raw, "has a character in its name that is not allowed")
        return "/".join(parts)

    def directory(self, path: str) -> None:
        if path in self.directories:
            return
        parent = posixpath.dirname(path)
        self.directory(parent)
        if path in self.files or path in self.links:
            raise _unsafe(path, "is a directory and something else at once")
        (self.root / path).mkdir(mode=0o700)
        self.directories.add(path)

    def file(self, path: str, size: int, executable: bool, read: Callable[[int], bytes]) -> None:
        """Write one file from `read`; `size` is what the archive claims, -1 when it cannot be trusted."""
        if size > self.bytes_left:
            raise _too_large(f"{self.limits.unpacked_bytes} bytes")
        self.make_room(path)
        digest = hashlib.sha256()
        written = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.root / path, flags, 0o700)
        try:
            while size < 0 or written < size:
                data = read(CHUNK if size < 0 else min(CHUNK, size - written))
                if not data:
                    break
                written += len(data)
                self.bytes_left -= len(data)
                if self.bytes_left < 0:
                    raise _too_large(f"{self.limits.unpacked_bytes} bytes")
                if work.stopping.is_set():
                    raise TaskFailure("internal", "The agent is stopping.")
                digest.update(data)
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fchmod(descriptor, 0o555 if executable else 0o444)
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if 0 <= size != written:
            raise _bad("it ends in the middle of a file")
        self.files[path] = Entry(
            path,
            digest.hexdigest(),
            "",
            found.st_size,
            found.st_mtime_ns,
            found.st_ctime_ns,
            stat.S_IMODE(found.st_mode),
        )

    def make_room(self, path: str) -> None:
        """Parents exist, and an earlier entry of the same name gives way, as tar has it."""
        if not path:
            raise _unsafe(".", "is the root of the archive and something else at once")
        self.directory(posixpath.dirname(path))
        if path in self.directories:
            raise _unsafe(path, "is a directory and something else at once")
        if self.files.pop(path, None) is not None:
            (self.root / path).unlink()
        self.links.pop(path, None)

    def link(self, path: str, to: str) -> None:
        if to.startswith("/") or not to or "\0" in to or "\n" in to:
            raise _unsafe(path, "is a link to an absolute path")
        inside = posixpath.normpath(posixpath.join(posixpath.dirname(path), to))
        if inside == ".." or inside.startswith("../"):
            raise _unsafe(path, "is a link that leads outside of the archive")
        if len(to.encode(errors="replace")) > MAX_NAME_BYTES:
            raise _unsafe(path, "is a link with too long a target")
        self.make_room(path)
        self.links[path] = to

    def hard_link(self, path: str, to: str) -> None:
        source = self.files.get(to)
        if source is None:
            raise _unsafe(path, "is a hard link to something that is no earlier file of the archive")
        if path == to:
            return
        self.make_room(path)
        (self.root / path).hardlink_to(self.root / to)
        found = (self.root / path).stat()
        # Both names share the inode, whose change time the new name has just moved.
        self.files[to] = msgspec.structs.replace(source, ctime_ns=found.st_ctime_ns)
        self.files[path] = msgspec.structs.replace(self.files[to], path=path)

    def finish(self) -> list[Entry]:
        """Create the links, prove that each stays inside, take write permission away."""
        for path, to in self.links.items():
            (self.root / path).symlink_to(to)
        inside = os.path.realpath(self.root)
        for path in self.links:
            real = os.path.realpath(self.root / path)
            if real != inside and not real.startswith(inside + "/"):
                raise _unsafe(path, "is a link that leads outside of the archive")
        for path in sorted(self.directories, reverse=True):
            (self.root / path).chmod(0o555)
        entries = [*self.files.values(), *(Entry(path, link=to) for path, to in self.links.items())]
        return sorted(entries, key=lambda entry: entry.path)


def _untar(source: _Bounded, tree: _Tree) -> None:
    with tarfile.open(fileobj=source, mode="r:", encoding="utf-8") as tar:  # type: ignore[call-overload]
        while (member := tar.next()) is not None:
            tar.members.clear()  # or it keeps a kilobyte for each
            tree.count()
            path = tree.name(member.name)
            if member.isdir():
                tree.directory(path)
            elif member.issym():
                tree.link(path, member.linkname)
            elif member.islnk():
                tree.hard_link(path, tree.name(member.linkname))
            elif member.issparse():
                raise _bad("it holds a sparse file; build it without --sparse")
            elif member.isreg():
                source.seek(member.offset_data)
                tree.file(path, member.size, bool(member.mode & 0o111), source.read)
            else:
                raise _unsafe(member.name, "is a device, a pipe or another special file")
    while source.read(CHUNK):
        pass  # padding; behind it lies the checksum of compressed data


def _unzip(raw: BinaryIO, tree: _Tree) -> None:
    _check_zip_directory(raw, tree.limits)
    with zipfile.ZipFile(raw) as archive:
        for info in archive.infolist():
            tree.count()
            path = tree.name(info.filename)
            mode = info.external_attr >> 16
            kind = stat.S_IFMT(mode)
            if info.flag_bits & 0x1:
                raise _bad("it is encrypted")
            if info.is_dir():
                tree.directory(path)
                continue
            if kind not in (0, stat.S_IFREG, stat.S_IFLNK):
                raise _unsafe(info.filename, "is a device, a pipe or another special file")
            with archive.open(info) as content:
                if kind == stat.S_IFLNK:
                    tree.link(path, content.read(MAX_NAME_BYTES + 1).decode())
                else:
                    tree.file(path, -1, bool(mode & 0o111), content.read)


def _check_zip_directory(raw: BinaryIO, limits: Limits) -> None:
    """zipfile reads the whole directory into memory; look at what its end record claims first."""
    length = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, length - 65_557))
    end = raw.read()
    raw.seek(0)
    at = end.rfind(b"PK\x05\x06")
    if at < 0 or len(end) - at < 22:
        raise _bad("its directory is missing")
    count, size = struct.unpack_from("<HI", end, at + 10)
    if size > MAX_ZIP_DIRECTORY_BYTES or (count != 0xFFFF and count > limits.unpacked_files):
        raise _too_large(f"{limits.unpacked_files} files")
