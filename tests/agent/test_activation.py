"""A release on a target: staged beside what runs, switched to, checked, and switched back."""

import socket
from pathlib import Path

import msgspec
import pytest

from deployments import protocol
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import (
    SERVER,
    AgentProgram,
    alive,
    free_port,
    get,
    release,
    tar,
    web_release,
)


async def test_a_release_is_staged_activated_and_reported_healthy(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    spec = web_release(plane, port, "1")
    staged = await plane.do(plane.stage(spec))
    assert (staged.status, staged.code) == ("succeeded", "")
    assert await get(port) == ""
    assert not (agent.target_dir() / "current").exists()

    activated = await plane.do(plane.activate(spec))

    assert (activated.status, activated.message) == ("succeeded", "")
    assert activated.target is not None
    assert activated.target.health == "healthy"
    assert await get(port) == "1"
    assert agent.current() == spec.release_id
    await plane.until(lambda: plane.target().health == "healthy", "a heartbeat says so")
    found = plane.target()
    assert (found.status, found.release_id, found.restarts) == ("running", spec.release_id, 0)
    assert (found.artifact_digest, found.config_digest) == (spec.artifact.digest, spec.config_digest)
    assert alive(found.pid)
    assert found.started_at > 0


async def test_files_are_served_from_the_release_and_configuration_lies_beside_them(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    spec = web_release(plane, port, env={"GREETING": "hello"}, files={"app/main.toml": "level = 3\n"})
    assert (await plane.do(plane.activate(spec))).status == "succeeded"

    cwd = Path(await get(port, "/cwd"))
    assert (cwd / "config" / "app" / "main.toml").read_text() == "level = 3\n"
    assert (cwd / "VERSION").read_text() == "1"
    env = eval(await get(port, "/env"))
    assert env["GREETING"] == "hello"
    assert env["SLIPWAY_CONFIG_DIR"] == f"{cwd}/config"
    assert env["SLIPWAY_RELEASE_ID"] == spec.release_id
    assert "SLIPWAY_AGENT_JOIN_TOKEN" not in env


async def test_rollback_is_a_switch_to_what_is_staged(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    first, second = web_release(plane, port, "1"), web_release(plane, port, "2")
    await plane.do(plane.activate(first))
    old_pid = plane.reports[-1].target.pid  # type: ignore[union-attr]
    await plane.do(plane.activate(second))
    assert await get(port) == "2"
    assert not alive(old_pid)
    downloads = sum(count for path, count in plane.requests.items() if "/artifacts/" in path)

    assert (await plane.do(plane.activate(first))).status == "succeeded"

    assert await get(port) == "1"
    assert agent.current() == first.release_id
    assert sum(count for path, count in plane.requests.items() if "/artifacts/" in path) == downloads


async def test_deactivation_stops_the_service_and_leaves_the_target_empty(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    await plane.do(plane.activate(web_release(plane, port)))
    pid = plane.reports[-1].target.pid  # type: ignore[union-attr]

    report = await plane.do(protocol.Deactivate(**plane.common()))

    assert report.status == "succeeded"
    assert not alive(pid)
    assert not (agent.target_dir() / "current").is_symlink()
    await plane.until(lambda: plane.target().status == "empty", "the heartbeat says empty")


async def test_a_missing_command_is_found_before_the_old_release_is_stopped(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    good = web_release(plane, port)
    await plane.do(plane.activate(good))
    pid = plane.reports[-1].target.pid  # type: ignore[union-attr]
    bad = release(good.artifact, ("no-such-program",), "2")

    report = await plane.do(plane.activate(bad))

    assert (report.status, report.code) == ("failed", "start_failed")
    assert "no-such-program" in report.message
    assert alive(pid)
    assert agent.current() == good.release_id


async def test_a_file_that_is_not_executable_is_named(plane: FakeControlPlane, agent: AgentProgram) -> None:
    spec = release(plane.add(tar({"run": "x"}, executable=False)), ("./run",))
    report = await plane.do(plane.activate(spec))
    assert (report.code, "not executable" in report.message) == ("start_failed", True)


async def test_a_service_that_exits_fails_the_activation_with_its_code_and_last_lines(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    good = web_release(plane, port)
    await plane.do(plane.activate(good))
    bad = release(
        plane.add(tar({"run": "#!/bin/sh\necho cannot read settings\nexit 3\n"})),
        ("./run",),
        "2",
        health=protocol.HealthSpec(kind="tcp", port=port),
    )

    report = await plane.do(plane.activate(bad))

    assert (report.status, report.code) == ("failed", "exited")
    assert "exit code 3" in report.message
    assert report.log_tail == ("cannot read settings",)
    assert agent.current() == bad.release_id, "the control plane decides what to do about it"
    assert (await plane.do(plane.activate(good))).status == "succeeded"
    assert await get(port) == "1"


async def test_a_service_ended_by_a_signal_is_reported_with_its_name(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    spec = release(
        plane.add(tar({"run": "#!/bin/sh\nkill -SEGV $$\n"})), ("./run",), health=protocol.HealthSpec()
    )
    report = await plane.do(plane.activate(spec))
    assert (report.code, "SIGSEGV" in report.message) == ("exited", True)


async def test_a_port_in_use_is_named_as_the_cause(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        report = await plane.do(plane.activate(web_release(plane, port)))
    assert (report.code, "port is in use" in report.message) == ("start_failed", True)
    assert any("Address already in use" in line for line in report.log_tail)


async def test_a_service_that_answers_errors_is_unhealthy_and_stays_in_place(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    health = protocol.HealthSpec(kind="http", port=port, interval_ms=50, deadline_seconds=1)
    spec = web_release(plane, port, env={"STATUS": "503"}, health=health)

    report = await plane.do(plane.activate(spec))

    assert (report.status, report.code) == ("failed", "unhealthy")
    assert "answered 503" in report.message
    assert "listening" in report.log_tail
    assert agent.current() == spec.release_id
    await plane.until(lambda: plane.target().health == "unhealthy", "the heartbeat says so")
    assert plane.target().status == "running"


async def test_a_check_that_never_answers_hits_its_time_limit(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    silent = "import socket, os, time\ns = socket.create_server(('127.0.0.1', int(os.environ['PORT'])))\n"
    health = protocol.HealthSpec(kind="http", port=port, timeout_ms=200, interval_ms=50, deadline_seconds=3)
    spec = release(
        plane.add(tar({"run.py": silent + "time.sleep(600)\n"})),
        ("python3", "-S", "run.py"),
        env={"PORT": str(port)},
        health=health,
    )
    report = await plane.do(plane.activate(spec))
    assert (report.code, "no answer within 200 ms" in report.message) == ("unhealthy", True)


@pytest.mark.parametrize(
    "health",
    [
        protocol.HealthSpec(kind="tcp", interval_ms=50),
        protocol.HealthSpec(kind="exec", command=("grep", "-q", "1", "VERSION"), interval_ms=50),
        protocol.HealthSpec(kind="none"),
    ],
    ids=lambda health: health.kind,
)
async def test_every_kind_of_check_passes_a_good_service(
    plane: FakeControlPlane, agent: AgentProgram, port: int, health: protocol.HealthSpec
) -> None:
    health = msgspec.structs.replace(health, port=port)
    report = await plane.do(plane.activate(web_release(plane, port, health=health)))
    assert (report.status, report.message) == ("succeeded", "")
    await plane.until(lambda: plane.target().health == "healthy", "the heartbeat says so")


async def test_a_failing_health_command_is_named(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    health = protocol.HealthSpec(kind="exec", command=("false",), interval_ms=50, deadline_seconds=1)
    report = await plane.do(plane.activate(web_release(plane, port, health=health)))
    assert (report.code, "'false' ended with exit code 1" in report.message) == ("unhealthy", True)


async def test_health_changes_after_the_activation_are_reported(
    plane: FakeControlPlane, agent: AgentProgram, port: int, tmp_path: Path
) -> None:
    marker = tmp_path / "well"
    marker.touch()
    health = protocol.HealthSpec(
        kind="exec", command=("test", "-e", str(marker)), interval_ms=50, unhealthy_after=2
    )
    await plane.do(plane.activate(web_release(plane, port, health=health)))
    marker.unlink()
    await plane.until(lambda: plane.target().health == "unhealthy", "it becomes unhealthy")
    marker.touch()
    await plane.until(lambda: plane.target().health == "healthy", "it recovers")


async def test_an_unknown_runtime_is_refused_while_staging(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    report = await plane.do(plane.stage(web_release(plane, port, runtime="mainframe")))
    assert (report.status, report.code) == ("failed", "unsupported_runtime")
    assert "mainframe" in report.message


async def test_a_newer_fence_ends_what_is_under_way_at_once(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    """A rollback does not wait until the broken release has used up its time to become healthy."""
    good = web_release(plane, port, "1")
    await plane.do(plane.activate(good))
    never = protocol.HealthSpec(kind="tcp", port=1, interval_ms=50, deadline_seconds=60)
    broken = plane.activate(web_release(plane, port, "2", health=never))
    await plane.send(broken)
    await plane.until(lambda: agent.current() == broken.release.release_id, "the broken release is current")
    back = await plane.do(plane.activate(good))
    assert back.status == "succeeded"
    assert (await plane.result(broken.task_id)).status == "cancelled"
    assert agent.current() == good.release_id
    assert await get(port) == "1"


async def test_releases_beyond_the_last_three_are_removed_but_never_what_runs(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    running = web_release(plane, port, "0")
    await plane.do(plane.activate(running))
    staged = [web_release(plane, port, str(number)) for number in range(1, 6)]
    for spec in staged:
        await plane.do(plane.stage(spec))
    kept = {entry.name for entry in (agent.target_dir() / "releases").iterdir()}
    assert running.release_id in kept
    assert {spec.release_id for spec in staged[-2:]} <= kept
    assert len(kept) <= 4
    assert await get(port) == "0"
    trees = {entry.name for entry in (agent.state / "trees").iterdir() if entry.is_dir()}
    assert len(trees) == len(kept)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", ""])
async def test_a_configuration_file_cannot_be_written_elsewhere(
    plane: FakeControlPlane, agent: AgentProgram, port: int, name: str
) -> None:
    report = await plane.do(plane.stage(web_release(plane, port, files={name: "x"})))
    assert (report.status, report.code) == ("failed", "malformed")
    assert list((agent.target_dir() / "releases").iterdir()) == []


async def test_many_targets_are_served_at_once_and_the_artifact_is_fetched_once(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    ref = plane.add(tar({"server.py": SERVER}))
    instructions = []
    for number in range(12):
        port = free_port()
        spec = msgspec.structs.replace(web_release(plane, port), artifact=ref)
        instructions.append(plane.activate(spec, target=f"many-{number}"))
    for instruction in instructions:
        await plane.send(instruction)
    for instruction in instructions:
        assert (await plane.result(instruction.task_id)).status == "succeeded"
    assert len(plane.artifacts[ref.digest].requests) == 1


def _service_log(agent: AgentProgram, target: str = "t1") -> str:
    path = agent.target_dir(target) / "service.log"
    return path.read_text() if path.exists() else ""
