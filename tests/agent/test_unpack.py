"""Archives from strangers: what is unpacked, and everything that is refused."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from deployments.agent.errors import TaskFailure
from deployments.agent.options import Limits
from deployments.agent.state import remove_tree
from deployments.agent.unpack import Entry, unpack
from tests.agent.programs import tar, tar_of

SMALL = Limits(unpacked_bytes=1_000_000, unpacked_files=50)


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


def unpacked(tmp_path: Path, data: bytes, limits: Limits = SMALL) -> tuple[Path, list[Entry]]:
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    return tmp_path / "tree", unpack(archive, tmp_path / "tree", limits)


def refusal(tmp_path: Path, data: bytes, limits: Limits = SMALL) -> TaskFailure:
    """The failure; and proof that nothing has come to lie outside of the tree."""
    (tmp_path / "outside").mkdir()
    with pytest.raises(TaskFailure) as caught:
        unpacked(tmp_path, data, limits)
    assert list((tmp_path / "outside").iterdir()) == []
    assert {entry.name for entry in tmp_path.iterdir()} <= {"archive", "tree", "outside"}
    return caught.value


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_usual_compression_is_unpacked_with_a_manifest(tmp_path: Path, mode: str) -> None:
    data = tar_of(
        (member("./bin", tarfile.DIRTYPE), b""),
        (member("./bin/run", mode=0o4755), b"#!/bin/sh\n"),
        (member("docs/read.me"), b"hello"),
        (member("latest", tarfile.SYMTYPE, "docs/read.me"), b""),
        (member("again", tarfile.LNKTYPE, "docs/read.me"), b""),
        mode=mode,
    )
    tree, entries = unpacked(tmp_path, data)
    assert [entry.path for entry in entries] == ["again", "bin/run", "docs/read.me", "latest"]
    assert (tree / "latest").read_text() == (tree / "again").read_text() == "hello"
    assert stat.S_IMODE((tree / "bin/run").stat().st_mode) == 0o555, "executable, not set-user-id"
    assert stat.S_IMODE((tree / "docs/read.me").stat().st_mode) == 0o444
    assert stat.S_IMODE((tree / "docs").stat().st_mode) == 0o555
    assert entries[2].sha256 == "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


def test_a_zip_is_unpacked_with_its_links(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        run = zipfile.ZipInfo("bin/run")
        run.external_attr = 0o100755 << 16
        archive.writestr(run, "#!/bin/sh\n")
        link = zipfile.ZipInfo("start")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "bin/run")
    tree, entries = unpacked(tmp_path, buffer.getvalue())
    assert [entry.path for entry in entries] == ["bin/run", "start"]
    assert (tree / "start").resolve() == tree / "bin" / "run"
    assert (tree / "bin/run").stat().st_mode & 0o111


def test_the_later_of_two_entries_with_one_name_wins(tmp_path: Path) -> None:
    tree, entries = unpacked(tmp_path, tar_of((member("a"), b"old"), (member("a"), b"new")))
    assert (tree / "a").read_text() == "new"
    assert len(entries) == 1


def test_an_unpacked_tree_can_be_removed_though_it_is_read_only(tmp_path: Path) -> None:
    tree, _ = unpacked(tmp_path, tar({"a/b/c": "x"}))
    remove_tree(tree)
    assert not tree.exists()


@pytest.mark.parametrize(
    "name", ["../outside/evil", "a/../../outside/evil", "/tmp/outside/evil", "a/..", "x\\..\\y", "n\nl"]
)
def test_a_name_that_leads_outside_is_refused(tmp_path: Path, name: str) -> None:
    failure = refusal(tmp_path, tar_of((member(name), b"evil")))
    assert failure.code == "unsafe_archive"


@pytest.mark.parametrize(
    "link", ["../outside", "/etc", "a/../../outside", "..", "", "../../../../../../etc/passwd"]
)
def test_a_link_that_leads_outside_is_refused(tmp_path: Path, link: str) -> None:
    failure = refusal(tmp_path, tar_of((member("link", tarfile.SYMTYPE, link), b"")))
    assert failure.code == "unsafe_archive"


def test_writing_through_a_link_is_refused(tmp_path: Path) -> None:
    data = tar_of((member("link", tarfile.SYMTYPE, "."), b""), (member("link/evil"), b"evil"))
    assert refusal(tmp_path, data).code == "unsafe_archive"


def test_a_chain_of_innocent_links_that_ends_outside_is_refused(tmp_path: Path) -> None:
    data = tar_of(
        (member("p/q", tarfile.DIRTYPE), b""),
        (member("p/q/up", tarfile.SYMTYPE, "../.."), b""),
        (member("p/q/out", tarfile.SYMTYPE, "up/../outside"), b""),
    )
    assert refusal(tmp_path, data).code == "unsafe_archive"


def test_a_hard_link_to_something_outside_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, tar_of((member("passwd", tarfile.LNKTYPE, "/etc/passwd"), b""))).code == (
        "unsafe_archive"
    )


def test_a_hard_link_to_a_link_is_refused(tmp_path: Path) -> None:
    data = tar_of((member("a", tarfile.SYMTYPE, "b"), b""), (member("c", tarfile.LNKTYPE, "a"), b""))
    assert refusal(tmp_path, data).code == "unsafe_archive"


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE], ids=["character", "block", "pipe"]
)
def test_a_device_or_pipe_is_refused(tmp_path: Path, kind: bytes) -> None:
    failure = refusal(tmp_path, tar_of((member("special", kind), b"")))
    assert (failure.code, "special" in failure.message) == ("unsafe_archive", True)


def test_a_file_that_swells_when_unpacked_is_refused(tmp_path: Path) -> None:
    data = tar({"bomb": bytes(20_000_000)})
    assert len(data) < 50_000
    failure = refusal(tmp_path, data)
    assert (failure.code, "--max-unpacked-bytes" in failure.message) == ("archive_too_large", True)


def test_many_files_that_swell_together_are_refused(tmp_path: Path) -> None:
    data = tar({f"part{number}": bytes(100_000) for number in range(11)})
    assert refusal(tmp_path, data).code == "archive_too_large"


def test_too_many_files_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, tar({f"f{number}": "" for number in range(51)})).code == "archive_too_large"


def test_a_zip_that_lies_about_its_sizes_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(20_000_000))
    data = bytearray(buffer.getvalue())
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = (10).to_bytes(4, "little")
    assert refusal(tmp_path, bytes(data)).code in ("archive_too_large", "bad_archive")


def test_a_header_of_absurd_size_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    info = member("name", tarfile.XHDTYPE)
    info.size = 5_000_000
    data = info.tobuf() + bytes(5_000_000)
    assert refusal(tmp_path, data, Limits()).code == "bad_archive"


@pytest.mark.parametrize("length", [0, 10, 300, 600])
def test_an_archive_that_ends_early_is_refused(tmp_path: Path, length: int) -> None:
    data = tar({"a": bytes(range(256)) * 100}, compress=False)[:length]
    assert refusal(tmp_path, data).code == "bad_archive"


def test_damaged_compressed_data_is_refused(tmp_path: Path) -> None:
    data = bytearray(tar({"a": bytes(range(256)) * 100}))
    data[len(data) // 2] ^= 0xFF
    assert refusal(tmp_path, bytes(data)).code == "bad_archive"


def test_something_else_than_an_archive_is_refused_with_what_it_should_be(tmp_path: Path) -> None:
    failure = refusal(tmp_path, b"\x7fELF" + bytes(500))
    assert (failure.code, "tar" in failure.message) == ("bad_archive", True)
