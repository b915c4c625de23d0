"""Bytes by digest: `sha256/ab/cdef...` in Django's default storage, streamed in and out.

What comes in is hashed while it is written to a file beside the store, made durable, and only then
moved to its name: a name in the store always holds all of its bytes.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec
from django.conf import settings
from django.core.files import File
from django.core.files.storage import FileSystemStorage, Storage, storages

from deployments.errors import DigestMismatch, Invalid, NotFound, StorageFull, TooLarge

CHUNK_BYTES = 1024 * 1024
ABANDONED_SECONDS = 24 * 3600
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Stored(msgspec.Struct, frozen=True):
    digest: str
    """`sha256:` and 64 hex digits."""
    size_bytes: int
    is_new: bool
    """False: the same bytes were there already."""


def put(chunks: Iterable[bytes], *, digest: str | None, max_bytes: int) -> Stored:
    """Keep the bytes; the same bytes again cost no space.

    Raises TooLarge above `max_bytes`, Invalid for an empty upload or a `digest` that is none,
    DigestMismatch where the bytes have another one, StorageFull. After an error nothing is left behind.
    """
    if digest is not None:
        check_digest(digest)
    with _incoming() as (file, path):
        found, size = _receive(chunks, file, max_bytes)
        if size == 0:
            raise Invalid("The artifact is empty. Send its bytes as the body of the request.")
        if digest is not None and found != digest:
            raise DigestMismatch(
                f"The {size} bytes received have the digest {found}, not {digest} as announced. "
                "Upload the artifact again."
            )
        return Stored(found, size, _keep(found, file, path))


def open_artifact(digest: str) -> File:
    """Open the bytes for reading, to be closed by the caller; raises NotFound where they are missing."""
    try:
        return _storage().open(name_of(digest), "rb")
    except FileNotFoundError:
        raise NotFound from None


def name_of(digest: str) -> str:
    """`sha256:abcdef...` -> `sha256/ab/cdef...`; raises Invalid."""
    algorithm, _, value = check_digest(digest).partition(":")
    return f"{algorithm}/{value[:2]}/{value[2:]}"


def check_digest(digest: str) -> str:
    """Return `digest` as it is, or raise Invalid."""
    if not DIGEST.fullmatch(digest):
        raise Invalid(digest=f"{digest[:100]!r} is not “sha256:” and 64 lower-case hex digits.")
    return digest


def _storage() -> Storage:
    return storages["default"]


def _receive(chunks: Iterable[bytes], file: IO[bytes], max_bytes: int) -> tuple[str, int]:
    """Write and hash; return the digest and the number of bytes."""
    hasher = hashlib.sha256()
    size = 0
    try:
        for chunk in chunks:
            size += len(chunk)
            if size > max_bytes:
                raise TooLarge(f"The artifact is larger than the limit of {max_bytes} bytes.")
            hasher.update(chunk)
            view = memoryview(chunk)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    except OSError as error:
        _raise_full(error)
        raise
    return f"sha256:{hasher.hexdigest()}", size


def _keep(digest: str, file: IO[bytes], path: Path) -> bool:
    """Give the received file its name; False when the name exists already."""
    storage = _storage()
    name = name_of(digest)
    if storage.exists(name):
        return False
    try:
        if isinstance(storage, FileSystemStorage):
            _move(path, Path(storage.path(name)))
        else:
            saved = storage.save(name, File(file))
            if saved != name:
                # Someone stored the same bytes in the meantime, and the storage dodged to another name.
                storage.delete(saved)
    except OSError as error:
        _raise_full(error)
        raise
    return True


def _move(path: Path, place: Path) -> None:
    """Rename, which is whole or not at all; what is there already has the same bytes.

    The storage's own way would copy where the rename fails, and could leave half a file under the name.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    path.replace(place)
    for directory in (place.parent, place.parent.parent):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _raise_full(error: OSError) -> None:
    if error.errno in NO_SPACE:
        raise StorageFull from error


@contextlib.contextmanager
def _incoming() -> Iterator[tuple[IO[bytes], Path]]:
    """A file on the store's own file system, gone afterwards unless the storage took it over."""
    directory = Path(settings.SLIPWAY.artifact_dir) / "incoming"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        path = directory / secrets.token_hex(16)
        file = path.open("x+b", buffering=0)
    except OSError as error:
        _raise_full(error)
        raise
    try:
        yield file, path
    finally:
        file.close()
        path.unlink(missing_ok=True)


def _sweep(directory: Path) -> None:
    """Remove what a process left that was killed in the middle of an upload."""
    for entry in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if time.time() - entry.stat().st_mtime > ABANDONED_SECONDS:
                entry.unlink()
