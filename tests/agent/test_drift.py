"""What somebody changes by hand on a target is seen within two heartbeats, and put right by an activation."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from deployments import protocol
from deployments.agent.agent import Agent, _inspect
from deployments.agent.identity import Identity
from deployments.agent.inspection import Inspection, fingerprint
from deployments.agent.options import Options
from deployments.agent.state import StateDir
from deployments.agent.store import TreeFound
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, alive, eventually, release, tar, web_release

HEARTBEAT_SECONDS = 1.5

FILES = {"main.toml": "level = 3\n", "deep/more.toml": "x"}


@pytest.fixture
async def running(plane: FakeControlPlane, program: AgentProgram, port: int) -> protocol.ReleaseSpec:
    """A release that runs and has been looked at."""
    plane.heartbeat_seconds = HEARTBEAT_SECONDS
    await program.start()
    spec = web_release(plane, port, files=FILES)
    assert (await plane.do(plane.activate(spec))).status == "succeeded"
    await plane.until(lambda: plane.target().tree_digest != "" and plane.target().health == "healthy")
    return spec


async def found(plane: FakeControlPlane, look: Callable[[protocol.TargetReport], bool], what: str) -> None:
    await plane.until(lambda: look(plane.target()), what, 2 * HEARTBEAT_SECONDS)


def edit(path: Path, text: str) -> None:
    """As an impatient root would."""
    path.resolve().parent.chmod(0o755)
    path.resolve().chmod(0o644)
    path.write_text(text)


def write(current: Path) -> None:
    edit(current / "VERSION", "2")


def write_as_if_nothing_happened(current: Path) -> None:
    served = (current / "VERSION").resolve()
    before = served.stat()
    edit(current / "VERSION", "2")
    os.utime(served, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(current: Path) -> None:
    served = (current / "VERSION").resolve()
    served.parent.chmod(0o755)
    served.unlink()
    served.write_text("2")


def point_elsewhere(current: Path) -> None:
    (current / "VERSION").unlink()
    (current / "VERSION").symlink_to("/etc/hostname")


def take_its_place(current: Path) -> None:
    (current / "VERSION").unlink()
    (current / "VERSION").mkdir()
    (current / "VERSION" / "inside").write_text("x")


def remove(current: Path) -> None:
    served = (current / "VERSION").resolve()
    served.parent.chmod(0o755)
    served.unlink()


def take_the_right_to_execute(current: Path) -> None:
    (current / "VERSION").chmod(0o444)


@pytest.mark.parametrize(
    "by_hand",
    [
        write,
        write_as_if_nothing_happened,
        replace,
        point_elsewhere,
        take_its_place,
        remove,
        take_the_right_to_execute,
    ],
    ids=lambda change: change.__name__,
)
async def test_a_hand_edited_file_is_found_and_put_right(
    plane: FakeControlPlane,
    program: AgentProgram,
    running: protocol.ReleaseSpec,
    by_hand: Callable[[Path], None],
) -> None:
    before = plane.target()
    current = program.target_dir() / "current"
    by_hand(current)
    await found(plane, lambda report: report.modified == ("VERSION",), "it is found")

    assert (await plane.do(plane.activate(running))).status == "succeeded"
    assert (current / "VERSION").read_text() == "1"
    assert (current / "VERSION").stat().st_mode & 0o777 == 0o555
    await found(plane, lambda report: report.tree_digest == before.tree_digest, "it is as it was")
    await found(plane, lambda report: report.modified == (), "in all parts")
    assert plane.target().pid != before.pid, "what runs was started anew"


async def test_a_file_added_to_the_tree_is_found_and_removed(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    before = plane.target().tree_digest
    tree = (program.target_dir() / "current" / "VERSION").resolve().parent
    tree.chmod(0o755)
    (tree / "sitecustomize.py").write_text("import evil")
    await found(plane, lambda report: report.modified == ("sitecustomize.py",), "it is found")
    assert plane.target().tree_digest not in ("", before)
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    await found(plane, lambda report: report.modified == (), "it is gone")
    assert not (tree / "sitecustomize.py").exists()


def remove_it(manifest: Path) -> None:
    manifest.unlink()


def write_nonsense(manifest: Path) -> None:
    manifest.write_bytes(b"{oops\n")


def write_no_text(manifest: Path) -> None:
    manifest.write_bytes(b'{"path":"\xff"}\n')


def put_a_directory_there(manifest: Path) -> None:
    manifest.unlink()
    manifest.mkdir()


@pytest.mark.parametrize(
    "by_hand",
    [remove_it, write_nonsense, write_no_text, put_a_directory_there],
    ids=lambda change: change.__name__,
)
async def test_a_manifest_that_cannot_be_read_is_drift_and_hides_nothing_for_good(
    plane: FakeControlPlane,
    program: AgentProgram,
    running: protocol.ReleaseSpec,
    by_hand: Callable[[Path], None],
) -> None:
    before = plane.target()
    current = program.target_dir() / "current"
    edit(current / "VERSION", "2")
    tree = (current / "VERSION").resolve().parent
    by_hand(tree.with_name(f"{tree.name}.manifest"))
    await found(plane, lambda report: report.modified == ("<manifest>",), "it is found")
    await program.kill()
    plane.heartbeats.clear()
    await program.start()
    await found(plane, lambda report: report.modified == ("<manifest>",), "it is found again")
    assert alive(before.pid), "what runs is left alone"
    assert (current / "VERSION").exists(), "and so are its files"
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    assert (current / "VERSION").read_text() == "1"
    await found(plane, lambda report: report.tree_digest == before.tree_digest, "it is as it was")
    await found(plane, lambda report: report.modified == (), "in all parts")


async def test_a_specification_that_is_no_text_is_found_and_put_right(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    (program.target_dir() / "current" / "release.json").write_bytes(b'{"release_id":"\xff"}')
    await found(plane, lambda report: report.modified == ("release.json",), "it is found")
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    await found(plane, lambda report: report.modified == (), "it is right again")


def test_a_folder_whose_files_cannot_be_looked_at_does_not_end_the_look(tmp_path: Path) -> None:
    """Its files' paths are longer than the system takes; a folder without permission fails alike."""
    before = fingerprint(tmp_path)
    folder, length = os.open(tmp_path, os.O_RDONLY), len(str(tmp_path))
    while length + 201 < 4096:
        os.mkdir("d" * 200, dir_fd=folder)
        inner = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder, length = inner, length + 201
    os.close(os.open("f" * 250, os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    assert fingerprint(tmp_path) != before


def test_a_target_that_cannot_be_looked_at_does_not_hide_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Seen:
        def __init__(self, target_id: str, fault: Exception | None) -> None:
            self.target_id = target_id
            self.fault = fault

        def inspect(self, spec: protocol.ReleaseSpec, trees: dict[str, TreeFound]) -> Inspection:
            if self.fault:
                raise self.fault
            return Inspection(current="r1")

    looked, _ = _inspect([(Seen("t1", PermissionError("no")), None), (Seen("t2", None), None)])  # type: ignore[list-item]
    assert looked == [None, Inspection(current="r1")]
    assert "target t1 cannot be looked at" in caplog.text


async def test_names_that_are_no_text_are_told_as_far_as_they_are(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    current = program.target_dir() / "current"
    tree = (current / "VERSION").resolve().parent
    tree.chmod(0o755)
    (tree / os.fsdecode(b"caf\xe9.txt")).touch()
    current.unlink()
    current.symlink_to(os.fsdecode(b"releases/\xff"))
    await found(plane, lambda report: report.modified == ("caf\ufffd.txt",), "the file is found")
    await found(plane, lambda report: report.current == "\ufffd", "the link is found")
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    await found(plane, lambda report: report.modified == (), "it is as it was")
    assert program.current() == running.release_id


async def test_a_target_whose_state_cannot_be_sent_does_not_silence_the_others(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.open()
    options = Options(server="http://127.0.0.1:9", state_dir=tmp_path)
    key = SigningKey.generate()
    agent = Agent(options, state, Identity("a", options.server, key, key.verify_key))
    for name in ("t1", "t2"):
        agent._target(name)
    agent._targets["t1"].supervisor.inspection = Inspection(current="\udcff")
    agent._link.up = True
    agent._heartbeat(["t1", "t2"])
    (sent,) = agent._link._waiting.values()
    assert isinstance(sent, protocol.Heartbeat)
    assert [report.target_id for report in sent.targets] == ["t2"]
    state.close()

    # Nor does a message that slipped through end the sending of all others.
    class Connection:
        def __init__(self) -> None:
            self.frames: asyncio.Queue[str] = asyncio.Queue()

        async def send(self, frame: str) -> None:
            await self.frames.put(frame)

    agent._link.send(protocol.LogChunk(target_id="t1", text="\udcff"))
    agent._link.send(protocol.LogChunk(target_id="t2", text="well"))
    connection = Connection()
    writer = asyncio.create_task(agent._link._write(connection))  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        frames = [await connection.frames.get() for _ in range(2)]
    writer.cancel()
    assert '"number":1' in frames[0]
    assert "well" in frames[1]


async def test_a_hand_edited_configuration_is_found_and_put_right(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    before = plane.target()
    config = program.target_dir() / "current" / "config"
    (config / "deep" / "more.toml").write_text("y")
    (config / "main.toml").unlink()
    await found(
        plane, lambda report: report.modified == ("config/deep/more.toml", "config/main.toml"), "it is found"
    )
    assert plane.target().files_digest not in ("", before.files_digest)
    assert plane.target().tree_digest == before.tree_digest
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    assert (config / "main.toml").read_text() == FILES["main.toml"]
    await found(plane, lambda report: report.files_digest == before.files_digest, "it is as it was")


async def test_a_changed_specification_is_found(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    path = program.target_dir() / "current" / "release.json"
    path.write_bytes(path.read_bytes().replace(b'"VERSION":"1"', b'"VERSION":"9"'))
    await found(plane, lambda report: report.modified == ("release.json",), "it is found")
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    await found(plane, lambda report: report.modified == (), "it is right again")


async def test_a_hand_switched_release_is_found_and_switched_back(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec, port: int
) -> None:
    other = web_release(plane, port, "2")
    await plane.do(plane.stage(other))
    link = program.target_dir() / "current"
    for to, told in ((f"releases/{other.release_id}", other.release_id), ("/srv/mine", "/srv/mine")):
        link.unlink()
        link.symlink_to(to)
        await found(plane, lambda report: report.current == told, f"it leads to {told}")  # noqa: B023
    link.unlink()
    await found(plane, lambda report: report.current == "no link", "there is none")
    link.mkdir()
    assert (await plane.do(plane.activate(running))).status == "succeeded"
    assert program.current() == running.release_id
    await found(plane, lambda report: report.current == running.release_id, "it is right again")


async def test_a_hand_killed_process_is_found_although_it_is_healed_at_once(
    plane: FakeControlPlane, running: protocol.ReleaseSpec
) -> None:
    pid = plane.target().pid
    os.kill(pid, signal.SIGKILL)
    await found(plane, lambda report: report.ended == "was ended by SIGKILL", "it is told")
    await found(plane, lambda report: report.restarts == 1 and report.pid not in (0, pid), "it runs again")
    assert plane.target().ended_at > 0


async def test_how_a_service_ended_outlives_the_agent(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    os.kill(plane.target().pid, signal.SIGTERM)
    await plane.until(lambda: plane.target().restarts == 1 and plane.target().status == "running")
    told = plane.target()
    await program.kill()
    beats = len(plane.heartbeats)
    await program.start()
    await plane.until(lambda: len(plane.heartbeats) > beats)
    assert (plane.target().ended, plane.target().ended_at) == (told.ended, told.ended_at)
    assert told.ended == "ended with exit code 0"


async def test_what_was_changed_while_the_agent_was_away_is_found(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    await program.kill()
    edit(program.target_dir() / "current" / "VERSION", "2")
    await program.start()
    await found(plane, lambda report: report.modified == ("VERSION",), "it is found")


async def test_what_a_service_writes_beside_its_files_is_its_own_business(
    plane: FakeControlPlane, program: AgentProgram, running: protocol.ReleaseSpec
) -> None:
    release_directory = program.target_dir() / "current"
    (release_directory / "cache.db").write_text("mine")
    (release_directory / "config" / "state.json").write_text("mine")
    tree = (release_directory / "VERSION").resolve().parent
    tree.chmod(0o755)
    (tree / "__pycache__").mkdir()
    (tree / "__pycache__" / "server.cpython-311.pyc").write_text("compiled")
    beats = len(plane.heartbeats)
    await plane.until(lambda: len(plane.heartbeats) >= beats + 3)
    assert plane.target().modified == ()


async def test_an_edit_of_a_shared_tree_is_told_of_each_target_that_runs_it(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    plane.heartbeat_seconds = HEARTBEAT_SECONDS
    plane.targets = {"t1": "shop-1", "t2": "shop-2"}
    await program.start()
    ref = plane.add(tar({"run": "#!/bin/sh\nexec sleep 1000\n"}))
    for target in plane.targets:
        assert (await plane.do(plane.activate(release(ref, ("./run",)), target=target))).status == "succeeded"
    await plane.until(lambda: all(plane.target(one).tree_digest for one in plane.targets))
    edit(program.target_dir() / "current" / "run", "#!/bin/sh\nexec sleep 2000\n")
    await plane.until(
        lambda: all(plane.target(one).modified == ("run",) for one in plane.targets),
        "both are told of",
        2 * HEARTBEAT_SECONDS,
    )
    pids = [plane.target(one).pid for one in plane.targets]
    await eventually(lambda: all(alive(pid) for pid in pids), "both go on")
