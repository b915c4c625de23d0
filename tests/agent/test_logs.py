"""What services print: followed, bounded, and never cut where it would hurt."""

from pathlib import Path

from deployments import protocol
from deployments.agent import logfile
from deployments.agent.logpump import BURST_BYTES, LogPump
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, eventually, release, tar


async def test_what_a_service_prints_is_streamed(plane: FakeControlPlane, agent: AgentProgram) -> None:
    script = "#!/bin/sh\necho one\necho two >&2\nexec sleep 1000\n"
    await plane.do(plane.activate(release(plane.add(tar({"run": script})), ("./run",))))
    await plane.until(lambda: "".join(chunk.text for chunk in plane.logs) == "one\ntwo\n", "both lines come")
    assert plane.logs[0].target_id == "t1"


async def test_a_flood_is_cut_counted_and_kept_within_its_file(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    await program.start("--max-log-file-bytes", "200000")
    script = "#!/bin/sh\nyes 0123456789012345678901234567890123456789 | head -50000\nexec sleep 1000\n"
    await plane.do(plane.activate(release(plane.add(tar({"run": script})), ("./run",))))
    log = program.target_dir() / "service.log"
    await eventually(
        lambda: log.with_name("service.log.1").exists() and log.stat().st_size < 200_000, "rotated"
    )
    await plane.until(lambda: bool(plane.logs))
    assert sum(len(chunk.text) for chunk in plane.logs) <= 3 * BURST_BYTES
    assert all(len(chunk.text.encode()) <= protocol.MAX_LOG_BYTES for chunk in plane.logs)
    assert log.with_name("service.log.1").stat().st_size <= 200_000


def test_more_than_the_rate_is_left_out_and_its_lines_are_counted(tmp_path: Path) -> None:
    now = [1.0]
    pump = LogPump(10**9, clock=lambda: now[0])
    path = tmp_path / "service.log"
    path.write_text("x" * 99 + "\n")
    assert [chunk.dropped for chunk in pump.collect("t1", path, ())] == [0]
    with path.open("a") as file:
        file.write(("x" * 99 + "\n") * 5000)
    sent = pump.collect("t1", path, ())
    lines_sent = sum(chunk.text.count("\n") for chunk in sent)
    assert sum(len(chunk.text) for chunk in sent) <= BURST_BYTES
    now[0] += 60
    with path.open("a") as file:
        file.write("last\n")
    last = pump.collect("t1", path, ())
    assert [chunk.text for chunk in last] == ["last\n"]
    assert lines_sent + last[0].dropped == 5000


def test_chunks_end_at_lines_and_an_unfinished_line_is_waited_for_once(tmp_path: Path) -> None:
    pump = LogPump(10**9)
    path = tmp_path / "service.log"
    path.write_text("one\ntw")
    assert [chunk.text for chunk in pump.collect("t1", path, ())] == ["one\n"]
    with path.open("a") as file:
        file.write("o\nPassword: ")
    assert [chunk.text for chunk in pump.collect("t1", path, ())] == ["two\n"]
    assert [chunk.text for chunk in pump.collect("t1", path, ())] == ["Password: "]


def test_binary_noise_and_endless_lines_stay_within_the_limit(tmp_path: Path) -> None:
    pump = LogPump(10**9)
    path = tmp_path / "service.log"
    path.write_bytes(b"\xff" * 40_000)
    chunks = pump.collect("t1", path, ())
    assert chunks
    assert all(len(chunk.text.encode()) <= protocol.MAX_LOG_BYTES for chunk in chunks)


def test_a_file_that_was_emptied_is_followed_from_its_beginning(tmp_path: Path) -> None:
    pump = LogPump(100)
    path = tmp_path / "service.log"
    path.write_text("x" * 200 + "\n")
    pump.collect("t1", path, ())
    assert pump.rotate("t1", path)
    path.write_text("new\n")
    assert [chunk.text for chunk in pump.collect("t1", path, ())] == ["new\n"]


def test_the_tail_has_twenty_lines_of_five_hundred_characters_from_this_start_only(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    path.write_text("of the release before\n" + "".join(f"{n} {'y' * 600}\n" for n in range(30)))
    tail = logfile.tail(path, len("of the release before\n"), ("29",))
    assert len(tail) == 20
    assert all(len(line) <= 500 for line in tail)
    assert tail[0].startswith("10 ")
    assert tail[-1].startswith("[secret]")
    assert logfile.tail(path, 0, ())[-1].startswith("29 ")
