"""The first start, and every reason why an agent does not start."""

import asyncio
import stat
from pathlib import Path

from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, eventually


async def test_an_agent_enrols_once_and_keeps_its_identity(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    await program.start("--name", "rack-7")
    assert plane.enrolments[0]["name"] == "rack-7"
    assert plane.enrolments[0]["version"]
    assert await program.terminate() == 0

    await program.start(env={"SLIPWAY_AGENT_JOIN_TOKEN": ""})

    assert len(plane.enrolments) == 1
    assert plane.hellos[0].agent_id == plane.hellos[1].agent_id == plane.agent_id
    assert stat.S_IMODE(program.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((program.state / "agent.key").stat().st_mode) == 0o600
    assert len((program.state / "agent.key").read_bytes()) == 32
    assert plane.token not in (program.state / "agent.json").read_text()


async def test_the_join_token_may_come_from_a_file(
    plane: FakeControlPlane, program: AgentProgram, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text(plane.token + "\n")
    await program.start("--join-token-file", str(token), env={"SLIPWAY_AGENT_JOIN_TOKEN": ""})


async def test_a_used_token_ends_the_agent_with_the_servers_own_words(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    plane.token_used = True
    program.spawn()
    assert await program.wait() == 2
    assert "This join token was used already. Make a new one." in program.log
    assert "Traceback" not in program.log


async def test_without_a_token_the_agent_says_where_to_get_one(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    program.spawn(env={"SLIPWAY_AGENT_JOIN_TOKEN": ""})
    assert await program.wait() == 2
    assert "Make a join token in the control plane" in program.log


async def test_a_second_agent_does_not_share_the_state_directory(
    plane: FakeControlPlane, agent: AgentProgram, tmp_path: Path
) -> None:
    second = AgentProgram(plane, tmp_path)
    second.log_path = tmp_path / "second.log"
    second.spawn()
    assert await second.wait() == 2
    assert f"Another agent (process {agent.pid})" in second.log


async def test_a_server_that_is_no_url_is_refused(plane: FakeControlPlane, program: AgentProgram) -> None:
    program.spawn("--server", "slipway.example")
    assert await program.wait() == 2
    assert "must be an http or https URL" in program.log


async def test_an_unreachable_control_plane_is_tried_again_until_it_answers(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    where = plane.port
    await plane.stop()
    program.spawn()
    await eventually(lambda: "next try in" in program.log, "the first try has failed")
    await plane.start(where)
    await plane.until(lambda: plane.connection is not None, "it enrols and connects")


async def test_an_agent_that_waits_to_enrol_stops_when_told(
    plane: FakeControlPlane, program: AgentProgram
) -> None:
    await plane.stop()
    program.spawn()
    await eventually(lambda: "next try in" in program.log, "the first try has failed")
    assert await program.terminate() == 0


async def test_the_agent_dials_again_after_the_connection_breaks(
    plane: FakeControlPlane, agent: AgentProgram
) -> None:
    for expected in (2, 3):
        await plane.drop()
        await plane.until(lambda: len(plane.hellos) == expected and plane.connection is not None)  # noqa: B023
    await asyncio.sleep(0)
    assert "dialling again" in agent.log
