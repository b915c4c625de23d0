"""Bytes on their way to the target: verified, resumed, cached, shared, and refused when they are wrong."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments import protocol
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, alive, get, release, tar, web_release


def _cached(agent: AgentProgram) -> set[str]:
    return {entry.name for entry in (agent.state / "cache" / "sha256").iterdir()}


async def test_bytes_that_do_not_match_the_digest_are_refused_and_not_kept(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    data = tar({"run": "good"})
    ref = plane.add(data, served=bytes(len(data)))
    report = await plane.do(plane.stage(release(ref, ("./run",))))
    assert (report.status, report.code) == ("failed", "digest_mismatch")
    assert _cached(agent) == set()
    assert list((agent.state / "cache" / "partial").iterdir()) == []


async def test_more_bytes_than_announced_are_refused(plane: FakeControlPlane, agent: AgentProgram) -> None:
    data = tar({"run": "good"})
    ref = plane.add(data, served=data + b"more")
    report = await plane.do(plane.stage(release(ref, ("./run",))))
    assert (report.status, report.code) == ("failed", "size_mismatch")
    assert _cached(agent) == set()


async def test_an_interrupted_download_is_resumed_by_range(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    data = tar({"run": bytes(range(256)) * 2000}, compress=False)
    ref = plane.add(data, cut_at=len(data) // 3)
    report = await plane.do(plane.stage(release(ref, ("./run",))))
    assert report.status == "succeeded"
    third = len(data) // 3
    assert plane.artifacts[ref.digest].requests[:3] == ["", f"bytes={third}-", f"bytes={2 * third}-"]


async def test_a_server_without_ranges_is_asked_again_from_the_start(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"run": bytes(100_000)}, compress=False), cut_at=50_000, ranges=False)
    stage = plane.stage(release(ref, ("./run",)))
    await plane.send(stage)
    await plane.until(lambda: len(plane.artifacts[ref.digest].requests) == 2)
    plane.artifacts[ref.digest].cut_at = None
    assert (await plane.result(stage.task_id)).status == "succeeded"


async def test_a_download_that_brings_nothing_fails_after_some_tries(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"run": "x"}), cut_at=0)
    report = await plane.do(plane.stage(release(ref, ("./run",))), 30)
    assert (report.status, report.code) == ("failed", "download_failed")
    assert len(plane.artifacts[ref.digest].requests) == 5


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_an_artifact_that_is_withheld_fails_at_once(
    plane: FakeControlPlane, agent: AgentProgram, status: int
) -> None:
    ref = plane.add(tar({"run": "x"}), status=status)
    report = await plane.do(plane.stage(release(ref, ("./run",))))
    assert (report.status, report.code) == ("failed", "download_failed")
    assert len(plane.artifacts[ref.digest].requests) == 1


async def test_an_unsafe_archive_is_refused_through_the_whole_agent(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    report = await plane.do(plane.stage(release(plane.add(tar({"../../evil": "x"})), ("./run",))))
    assert (report.status, report.code) == ("failed", "unsafe_archive")
    assert "../../evil" in report.message
    assert not list(agent.state.rglob("evil"))
    assert list((agent.state / "trees").iterdir()) == []


async def test_an_artifact_above_the_limit_is_not_even_fetched(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    await program.start("--max-artifact-bytes", "100")
    ref = plane.add(tar({"run": "x" * 1000}, compress=False))
    report = await plane.do(plane.stage(release(ref, ("./run",))))
    assert (report.status, report.code) == ("failed", "archive_too_large")
    assert plane.artifacts[ref.digest].requests == []


async def test_a_cached_artifact_is_not_fetched_again(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    spec = web_release(plane, port)
    await plane.do(plane.stage(spec))
    await agent.kill()
    await agent.start()
    await plane.do(plane.stage(spec, target="other"))
    assert plane.artifacts[spec.artifact.digest].requests == [""]


async def test_a_damaged_cache_entry_is_fetched_again(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    first = web_release(plane, port, "1")
    await plane.do(plane.stage(first))
    await agent.kill()
    name = first.artifact.digest.removeprefix("sha256:")
    (agent.state / "cache" / "sha256" / name).write_bytes(b"damaged")
    (agent.state / "trees" / f"{name}.manifest").unlink()
    await agent.start()
    assert (await plane.do(plane.activate(first))).status == "succeeded"
    assert await get(port) == "1"
    assert plane.artifacts[first.artifact.digest].requests == ["", ""]


async def test_the_cache_stays_within_its_limit_but_keeps_what_is_staged(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    await program.start("--cache-bytes", "250000", "--keep-releases", "2")
    digests = []
    for number in range(5):
        ref = plane.add(tar({"run": bytes([number]) * 100_000}, compress=False))
        digests.append(ref.digest.removeprefix("sha256:"))
        assert (await plane.do(plane.stage(release(ref, ("./run",), str(number))))).status == "succeeded"
    assert _cached(program) == set(digests[-2:])


async def test_a_file_changed_by_hand_is_reported_and_put_right_by_the_next_activation(
    plane: FakeControlPlane, program: AgentProgram, port: int
) -> None:
    await program.start("--check-files-seconds", "0.1")
    spec = web_release(plane, port, files={"main.toml": "level = 3\n"})
    await plane.do(plane.activate(spec))
    await plane.until(lambda: plane.target().status == "running")
    assert plane.target().modified == ()
    current = program.target_dir() / "current"
    served = (current / "VERSION").resolve()
    served.chmod(0o644)
    served.write_text("2")
    (current / "config" / "main.toml").write_text("level = 9\n")

    await plane.until(lambda: plane.target().modified == ("VERSION", "config/main.toml"), "it is reported")

    assert (await plane.do(plane.activate(spec))).status == "succeeded"
    assert (current / "VERSION").read_text() == "1"
    assert (current / "config" / "main.toml").read_text() == "level = 3\n"
    await plane.until(lambda: plane.target().modified == (), "it is right again")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes for the agent's state."""
    where = tmp_path / "state"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(where)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system takes root")
    yield where
    subprocess.run(["umount", "-l", str(where)], check=True)


async def test_a_full_disk_fails_the_staging_and_leaves_what_serves_as_it_was(
    small_disk: Path, plane: FakeControlPlane, program: AgentProgram, port: int
) -> None:
    await program.start()
    good = web_release(plane, port)
    await plane.do(plane.activate(good))
    pid = plane.reports[-1].target.pid  # type: ignore[union-attr]
    fits_only_packed = plane.add(tar({"run": bytes(4_000_000)}))
    fits_nowhere = plane.add(tar({"run": bytes(4_000_000)}, compress=False))

    for ref in (fits_only_packed, fits_nowhere):
        for make in (plane.stage, plane.activate):
            report = await plane.do(make(release(ref, ("./run",), "2")))
            assert (report.status, report.code) == ("failed", "disk_full")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(3_000_000))
    report = await plane.do(plane.activate(web_release(plane, port, "3")))
    assert (report.status, report.code) == ("failed", "disk_full")

    assert alive(pid)
    assert await get(port) == "1"
    assert program.current() == good.release_id
    filler.unlink()
    assert not list((small_disk / "trees").glob(".*"))
    assert (await plane.do(plane.activate(web_release(plane, port, "4")))).status == "succeeded"
    assert await get(port) == "4"


async def test_results_on_a_full_disk_are_still_remembered_once_there_is_room(
    small_disk: Path, plane: FakeControlPlane, program: AgentProgram, port: int
) -> None:
    await program.start()
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"):
        filler.write_bytes(bytes(3_000_000))
    task = plane.stage(web_release(plane, port))
    assert (await plane.do(task)).code == "disk_full"
    filler.unlink()
    other = plane.stage(web_release(plane, port), target="t2")
    assert (await plane.do(other)).status == "succeeded"
    assert isinstance(other, protocol.Stage)
