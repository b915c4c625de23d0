"""Services that crash, hang, outlive their agent, or die while it is away."""

import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from deployments import protocol
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, alive, eventually, get, release, tar, web_release


async def _running_pid(plane: FakeControlPlane, target: str = "t1") -> int:
    await plane.until(lambda: plane.target(target).pid > 0 and plane.target(target).health == "healthy")
    return plane.target(target).pid


async def test_a_killed_service_is_started_again_and_counted(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    pid = await _running_pid(plane)
    os.kill(pid, signal.SIGKILL)
    await plane.until(lambda: plane.target().status == "crashed", "the crash is reported")
    assert plane.target().health == "unhealthy"
    await plane.until(lambda: plane.target().restarts == 1 and plane.target().health == "healthy")
    assert plane.target().pid != pid
    assert await get(port) == "1"


async def test_a_service_that_keeps_crashing_is_started_ever_more_slowly(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    crashing = "#!/bin/sh\ndate +%s.%N\nexit 1\n"
    report = await plane.do(plane.activate(release(plane.add(tar({"run": crashing})), ("./run",))))
    assert report.code == "exited"
    log = agent.target_dir() / "service.log"
    await eventually(lambda: len(log.read_text().split()) >= 4, "it was started four times")
    starts = [float(line) for line in log.read_text().split()]
    pauses = [later - sooner for sooner, later in itertools.pairwise(starts)]
    for pause, ceiling in zip(pauses, (0.5, 1.0, 2.0), strict=False):
        assert pause >= ceiling / 2


async def test_a_restarted_agent_adopts_the_service_with_the_same_process(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    pid = await _running_pid(plane)
    started = plane.target().started_at

    for end in (agent.kill, agent.terminate):
        await end()
        assert alive(pid)
        beats = len(plane.heartbeats)
        await agent.start()
        await plane.until(lambda: len(plane.heartbeats) > beats)  # noqa: B023
        assert await _running_pid(plane) == pid
        assert (plane.target().status, plane.target().restarts) == ("running", 0)
        assert plane.target().started_at == started
    os.kill(pid, signal.SIGKILL)
    await plane.until(lambda: plane.target().restarts == 1 and plane.target().health == "healthy")


async def test_an_adopted_service_can_be_replaced(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port, "1")))
    pid = await _running_pid(plane)
    await agent.kill()
    await agent.start()
    assert (await plane.do(plane.activate(web_release(plane, port, "2")))).status == "succeeded"
    assert await get(port) == "2"
    assert not alive(pid)


async def test_an_agent_killed_before_it_wrote_down_the_process_still_finds_it(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    pid = await _running_pid(plane)
    await agent.kill()
    path = agent.target_dir() / "process.json"
    record = json.loads(path.read_text())
    del record["found"]
    path.write_text(json.dumps(record))

    await agent.start()

    assert await _running_pid(plane) == pid
    assert plane.target().restarts == 0


async def test_a_service_that_died_while_the_agent_was_away_is_started_again(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    pid = await _running_pid(plane)
    await agent.kill()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid), "it is gone")
    await agent.start()
    await plane.until(lambda: plane.target().restarts == 1 and plane.target().health == "healthy")
    assert await get(port) == "1"


async def test_another_process_with_the_old_id_is_not_adopted(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    pid = await _running_pid(plane)
    await agent.kill()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not alive(pid), "it is gone")
    stranger = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220
    path = agent.target_dir() / "process.json"
    record = json.loads(path.read_text())
    record["found"]["pid"] = stranger.pid
    path.write_text(json.dumps(record))
    try:
        await agent.start()
        assert await _running_pid(plane) != stranger.pid
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_service_that_ignores_the_request_to_stop_is_killed_after_its_deadline(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    stubborn = "#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do sleep 0.1; done\n"
    spec = release(
        plane.add(tar({"run": stubborn})),
        ("./run",),
        process=protocol.ProcessSpec(command=("./run",), stop_seconds=1),
    )
    await plane.do(plane.activate(spec))
    pid = await _running_pid(plane)
    begun = time.monotonic()
    assert (await plane.do(protocol.Deactivate(**plane.common()))).status == "succeeded"
    assert 0.9 <= time.monotonic() - begun < 3
    assert not alive(pid)


async def test_what_a_service_started_ends_with_it(plane: FakeControlPlane, agent: AgentProgram) -> None:
    parent = "#!/bin/sh\nsleep 1000 &\necho $! > $OUT\nexec sleep 1000\n"
    out = agent.state.parent / "child"
    spec = release(plane.add(tar({"run": parent})), ("./run",), env={"OUT": str(out)})
    await plane.do(plane.activate(spec))
    child = int(out.read_text())
    assert alive(child)
    await plane.do(protocol.Deactivate(**plane.common()))
    await eventually(lambda: not alive(child), "the child is gone too")


async def test_services_stop_with_the_agent_when_it_was_told_so(
    plane: FakeControlPlane, program: AgentProgram, port: int
) -> None:
    await program.start("--stop-services-on-exit")
    await plane.do(plane.activate(web_release(plane, port)))
    pid = await _running_pid(plane)
    assert await program.terminate() == 0
    assert not alive(pid)
    await program.start()
    await plane.until(lambda: plane.target().pid not in (0, pid), "they come back with the next agent")


async def test_one_agent_can_be_told_to_stop_twice(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    assert agent.process is not None
    agent.process.send_signal(signal.SIGTERM)
    agent.process.send_signal(signal.SIGINT)
    assert await agent.wait() == 0
    assert "Traceback" not in agent.log


async def test_a_dozen_targets_at_rest_fit_in_forty_megabytes(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"run": "#!/bin/sh\nexec sleep 1000\n"}))
    activations = [plane.activate(release(ref, ("./run",)), target=f"rest-{number}") for number in range(12)]
    for activation in activations:
        await plane.send(activation)
    for activation in activations:
        assert (await plane.result(activation.task_id)).status == "succeeded"
    beats = len(plane.heartbeats)
    await plane.until(lambda: len(plane.heartbeats) > beats + 2)
    status = _status(agent.pid)
    assert status["VmRSS"] <= 40 * 1024, f"{status['VmRSS']} kB resident"


def _status(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
