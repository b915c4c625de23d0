"""What the agent obeys, what it refuses, and that it does a task once, through crashes and repetitions."""

import asyncio
import os
import signal
import time

import msgspec
import pytest
from nacl.signing import SigningKey

from deployments import protocol
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, alive, eventually, get, release, tar, web_release


async def test_a_repeated_task_answers_with_its_recorded_result(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    activation = plane.activate(web_release(plane, port))
    first = await plane.do(activation)
    pid = plane.target().pid or first.target.pid  # type: ignore[union-attr]

    await plane.send(activation)
    await plane.until(lambda: len(plane.results(activation.task_id)) >= 2, "it answers again")

    assert plane.results(activation.task_id) == [first, first]
    assert alive(pid), "nothing was restarted"


async def test_a_task_repeated_while_it_runs_is_accepted_and_runs_once(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"big": bytes(400_000)}, compress=False), bytes_per_second=200_000)
    stage = plane.stage(release(ref, ("cat",)))
    for times in (1, 2, 3):
        await plane.send(stage)
        await plane.until(lambda: _accepted(plane, stage.task_id) >= times, "it is accepted again")  # noqa: B023
    await plane.result(stage.task_id)
    assert len(plane.results(stage.task_id)) == 1
    assert len(plane.artifacts[ref.digest].requests) == 1


async def test_the_recorded_result_survives_a_restart(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    activation = plane.activate(web_release(plane, port))
    first = await plane.do(activation)
    await agent.kill()
    await agent.start()
    await plane.send(activation)
    await plane.until(lambda: len(plane.results(activation.task_id)) >= 2, "it answers again")
    assert plane.results(activation.task_id)[1] == first


async def test_a_lower_fence_is_refused_also_after_a_restart(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    spec = web_release(plane, port)
    await plane.do(plane.stage(spec, fence=500))
    for _ in range(2):
        report = await plane.do(plane.stage(spec, fence=499))
        assert (report.status, report.code) == ("refused", "stale_fence")
        await agent.kill()
        await agent.start()
    assert (await plane.do(plane.stage(spec, fence=500))).status == "succeeded"
    assert (await plane.do(plane.stage(spec, "other", fence=3))).status == "succeeded", (
        "fences are per target"
    )


async def test_an_expired_instruction_is_refused(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    report = await plane.do(plane.stage(web_release(plane, port), expires_at=time.time() - 1))
    assert (report.status, report.code) == ("refused", "expired")
    assert not plane.accepted(report.task_id)


async def test_an_instruction_for_another_agent_is_refused(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    report = await plane.do(plane.stage(web_release(plane, port), agent_id="somebody-else"))
    assert (report.status, report.code) == ("refused", "wrong_agent")


async def test_a_wrong_signature_is_refused_and_counted_and_ends_nothing(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    stage = plane.stage(web_release(plane, port))
    await plane.send(stage, key=SigningKey.generate())
    await plane.until(lambda: any(beat.refused == 1 for beat in plane.heartbeats), "a heartbeat counts it")
    assert not plane.accepted(stage.task_id)
    assert "bad_signature" in agent.log
    assert (await plane.do(stage)).status == "succeeded", "the same task, rightly signed"


@pytest.mark.parametrize("name", ["../t2", "a/b", "", ".hidden", "x" * 200])
async def test_a_target_id_cannot_name_another_directory(
    plane: FakeControlPlane, agent: AgentProgram, port: int, name: str
) -> None:
    report = await plane.do(plane.stage(web_release(plane, port), target=name))
    assert (report.status, report.code) == ("refused", "malformed")


async def test_an_unreadable_message_is_ignored_and_the_connection_stays(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    assert plane.connection is not None
    await plane.connection.send('{"type": "from-the-future"}')
    await plane.connection.send("not json")
    assert (await plane.do(plane.stage(web_release(plane, port)))).status == "succeeded"
    assert len(plane.hellos) == 1


async def test_an_agent_killed_while_staging_resumes_when_the_task_comes_again(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"big": bytes(range(256)) * 2000}, compress=False), bytes_per_second=500_000)
    artifact = plane.artifacts[ref.digest]
    stage = plane.stage(release(ref, ("cat",)))
    await plane.send(stage)
    partial = agent.state / "cache" / "partial" / ref.digest.removeprefix("sha256:")
    await eventually(lambda: partial.exists() and partial.stat().st_size > 0, "the download has begun")
    await agent.kill()

    await agent.start()
    assert plane.hellos[-1].open_tasks == (stage.task_id,)
    artifact.bytes_per_second = 0
    report = await plane.do(stage)

    assert report.status == "succeeded"
    assert artifact.requests[0] == ""
    assert artifact.requests[1].startswith("bytes="), "it goes on where it was"
    await plane.until(lambda: bool(plane.reports))


async def test_an_agent_killed_while_it_waits_for_health_resumes_without_another_restart(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    marker = agent.state.parent / "well"
    health = protocol.HealthSpec(kind="exec", command=("test", "-e", str(marker)), interval_ms=50)
    activation = plane.activate(web_release(plane, port, health=health))
    await plane.send(activation)
    await plane.until(lambda: plane.target().pid > 0, "the service has started")
    pid = plane.target().pid
    await agent.kill()

    await agent.start()
    marker.touch()
    report = await plane.do(activation)

    assert report.status == "succeeded"
    assert report.target is not None
    assert report.target.pid == pid
    assert plane.results(activation.task_id) == [report]


async def test_an_agent_killed_while_it_stops_the_old_release_comes_to_the_new_one(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    stubborn = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 0.1; done\n"
    old = release(
        plane.add(tar({"run": stubborn})), ("./run",), process=protocol.ProcessSpec(command=("./run",))
    )
    await plane.do(plane.activate(old))
    activation = plane.activate(web_release(plane, port, "2"))
    await plane.send(activation)
    await plane.until(lambda: plane.accepted(activation.task_id))
    await eventually(lambda: bool(list(agent.target_dir().glob(".process.json.*"))), "the switch has begun")
    await agent.kill()

    await agent.start()
    assert agent.current() == old.release_id
    again = msgspec.structs.replace(activation, release=activation.release)
    for entry in (agent.target_dir() / "process.json",):
        record = msgspec.json.decode(entry.read_bytes())
        assert record["release_id"] == old.release_id
    await plane.until(lambda: plane.target().pid > 0)
    os.killpg(plane.target().pid, signal.SIGKILL)
    assert (await plane.do(again)).status == "succeeded"
    assert await get(port) == "2"


async def test_a_task_resumed_too_late_is_refused_and_not_left_open(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"big": bytes(300_000)}, compress=False), bytes_per_second=100_000)
    stage = plane.stage(release(ref, ("cat",)))
    await plane.send(stage)
    await plane.until(lambda: plane.accepted(stage.task_id))
    await agent.kill()
    await agent.start()
    report = await plane.do(msgspec.structs.replace(stage, expires_at=time.time() - 1))
    assert (report.status, report.code) == ("refused", "expired")
    await plane.drop()
    await plane.until(lambda: len(plane.hellos) >= 3)
    assert plane.hellos[-1].open_tasks == ()


async def test_a_result_is_sent_again_after_each_reconnect_until_it_is_acknowledged(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    plane.ack = False
    stage = plane.stage(web_release(plane, port))
    await plane.do(stage)
    await plane.drop()
    await plane.until(lambda: len(plane.results(stage.task_id)) >= 2, "it is sent again")
    assert plane.hellos[-1].open_tasks == (stage.task_id,)
    plane.ack = True
    await plane.drop()
    await plane.until(lambda: len(plane.results(stage.task_id)) >= 3, "and again")
    beats = len(plane.heartbeats)
    await plane.until(lambda: len(plane.heartbeats) > beats + 1)
    await plane.drop()
    await plane.until(lambda: len(plane.hellos) >= 4)
    assert plane.hellos[-1].open_tasks == ()
    assert len(plane.results(stage.task_id)) == 3


async def test_work_goes_on_while_the_connection_is_down(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    marker = agent.state.parent / "well"
    health = protocol.HealthSpec(kind="exec", command=("test", "-e", str(marker)), interval_ms=50)
    activation = plane.activate(web_release(plane, port, health=health))
    await plane.send(activation)
    await plane.until(lambda: plane.target().pid > 0, "the service has started")
    where = plane.port
    await plane.drop()
    await plane.stop()
    marker.touch()
    await asyncio.sleep(0)
    await plane.start(where)
    assert (await plane.result(activation.task_id)).status == "succeeded"


async def test_an_unknown_agent_keeps_trying_slowly_and_says_what_to_do(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    plane.close_with = 4401
    program.spawn()
    await eventually(lambda: "Enrol it again" in program.log, "it says what to do")
    await program.terminate()
    assert len(plane.hellos) == 1


def _accepted(plane: FakeControlPlane, task_id: str) -> int:
    return sum(report.task_id == task_id and report.status == "accepted" for report in plane.reports)
