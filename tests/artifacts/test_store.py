import dataclasses
import errno
import hashlib
import os
import time
from pathlib import Path

import pytest
from django.core.files.storage import InMemoryStorage, storages

from deployments.artifacts import store
from deployments.errors import DigestMismatch, Invalid, NotFound, StorageFull, TooLarge

MIB = 1024 * 1024


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put(content: bytes, digest: str | None = None, max_bytes: int = MIB) -> store.Stored:
    return store.put([content], digest=digest, max_bytes=max_bytes)


def read(digest: str) -> bytes:
    with store.open_artifact(digest) as file:
        return file.read()


@pytest.fixture(autouse=True)
def root(tmp_path, settings):
    """A store of its own for each test."""
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {
            "BACKEND": "django.core.files.storage.FileSystemStorage",
            "OPTIONS": {"location": tmp_path},
        },
    }
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, artifact_dir=tmp_path)
    return tmp_path


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_bytes_lie_under_their_digest(root):
    stored = put(b"hello")
    value = stored.digest.removeprefix("sha256:")
    assert stored == store.Stored(digest_of(b"hello"), 5, True)
    assert files(root) == [f"sha256/{value[:2]}/{value[2:]}"]
    assert read(stored.digest) == b"hello"


def test_the_same_bytes_again_are_not_stored_twice(root):
    put(b"hello")
    assert put(b"hello", digest_of(b"hello")).is_new is False
    assert len(files(root)) == 1


def test_chunks_are_taken_as_they_come(root):
    content = os.urandom(3 * MIB + 17)
    chunks = (content[start : start + 1000] for start in range(0, len(content), 1000))
    stored = store.put(chunks, digest=digest_of(content), max_bytes=len(content))
    assert read(stored.digest) == content


@pytest.mark.parametrize(
    ("content", "digest", "error"),
    [
        (b"truncat", digest_of(b"truncated"), DigestMismatch),
        (b"x" * (MIB + 1), None, TooLarge),
        (b"", None, Invalid),
        (b"x", "sha256:short", Invalid),
        (b"x", "md5:" + "0" * 64, Invalid),
        (b"x", "sha256:" + "A" * 64, Invalid),
    ],
)
def test_what_is_refused_leaves_nothing_behind(root, content, digest, error):
    with pytest.raises(error):
        put(content, digest)
    assert files(root) == []


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind(root, monkeypatch, call, number):
    def full(*args):
        raise OSError(number, os.strerror(number))

    if call == "mkdir":
        (root / "incoming").mkdir()
    monkeypatch.setattr(os, call, full)
    with pytest.raises(StorageFull, match="make room and upload again"):
        put(b"hello")
    monkeypatch.undo()
    assert files(root) == []


def test_a_disk_that_really_is_full_leaves_nothing_behind(root):
    """`/dev/full` says ENOSPC to every write, as a full disk does."""

    class Full:
        def write(self, data):
            with Path("/dev/full").open("wb", buffering=0) as device:
                return device.write(data)

        def fileno(self):
            raise AssertionError("nothing was written")

    with pytest.raises(StorageFull):
        store._receive([b"hello"], Full(), MIB)


def test_an_error_of_the_sender_leaves_nothing_behind(root):
    def chunks():
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.put(chunks(), digest=None, max_bytes=MIB)
    assert files(root) == []


def test_a_write_that_takes_only_part_is_continued(root):
    written: list[bytes] = []

    class Slow:
        def write(self, data):
            written.append(bytes(data[:2]))
            return 2 if len(data) > 2 else len(data)

        def fileno(self):
            return os.open(root, os.O_RDONLY)

    digest, size = store._receive([b"hello"], Slow(), MIB)
    assert (b"".join(written), digest, size) == (b"hello", digest_of(b"hello"), 5)


def test_what_a_killed_process_left_is_removed_after_a_day(root):
    old, young = root / "incoming" / "old", root / "incoming" / "young"
    old.parent.mkdir()
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - store.ABANDONED_SECONDS - 1,) * 2)
    put(b"hello")
    assert not old.exists()
    assert young.exists()


def test_missing_bytes_are_not_found(root):
    with pytest.raises(NotFound):
        store.open_artifact(digest_of(b"never"))


def test_the_store_stands_behind_djangos_storage(settings):
    """Another storage follows by configuration alone."""
    settings.STORAGES = {
        **settings.STORAGES,
        "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    }
    assert isinstance(storages["default"], InMemoryStorage)
    assert put(b"hello").is_new
    assert read(digest_of(b"hello")) == b"hello"
    assert not put(b"hello").is_new
