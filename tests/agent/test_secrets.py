"""Secrets reach the process and nothing else: not a file, a log, a frame or a message."""

import os
import signal
from pathlib import Path

from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, alive, get, web_release

VALUE = "tr0ub4dor-and-3-horses"
ENV = {
    "DATABASE_URL": "postgres://shop:${secret:vault:shop/db#password}@db/shop",
    "API_KEY": "${secret:vault:shop/db#password}",
}


def _files_with(root: Path, needle: str) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and needle.encode() in path.read_bytes()]


async def test_a_secret_is_in_the_environment_of_the_process_and_nowhere_else(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    plane.secrets["shop/db"] = {"password": VALUE}
    handed_out: set[str] = set()

    class Tokens(dict[str, str]):
        def __setitem__(self, token: str, path: str) -> None:
            handed_out.add(token)
            super().__setitem__(token, path)

    plane.wrapping_tokens = Tokens()
    activation = plane.activate(web_release(plane, port, env=ENV))

    assert (await plane.do(activation)).status == "succeeded"

    env = eval(await get(port, "/env"))
    assert env["DATABASE_URL"] == f"postgres://shop:{VALUE}@db/shop"
    assert env["API_KEY"] == VALUE
    assert plane.secret_requests == [activation.task_id]
    beats = len(plane.heartbeats)
    await plane.until(lambda: len(plane.heartbeats) > beats)
    assert len(handed_out) == 1
    for needle in (VALUE, *handed_out):
        assert _files_with(agent.state.parent, needle) == []
        assert not any(needle in frame for frame in plane.frames)


async def test_a_secret_that_the_service_prints_is_blackened_in_what_is_sent(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    plane.secrets["shop/db"] = {"password": VALUE}
    spec = web_release(plane, port, env={**ENV, "VERSION": "${secret:vault:shop/db#password}"})
    await plane.do(plane.activate(spec))
    await plane.until(lambda: any("starting [secret]" in chunk.text for chunk in plane.logs), "a log comes")
    assert not any(VALUE in frame for frame in plane.frames)


async def test_a_crash_restart_uses_the_value_in_memory(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    plane.secrets["shop/db"] = {"password": VALUE}
    await plane.do(plane.activate(web_release(plane, port, env=ENV)))
    await plane.until(lambda: plane.target().pid > 0)
    os.kill(plane.target().pid, signal.SIGKILL)
    await plane.until(lambda: plane.target().restarts == 1 and plane.target().health == "healthy")
    assert eval(await get(port, "/env"))["API_KEY"] == VALUE
    assert len(plane.secret_requests) == 1


async def test_a_crash_after_the_agents_restart_asks_again_with_the_task_of_the_activation(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    plane.secrets["shop/db"] = {"password": VALUE}
    activation = plane.activate(web_release(plane, port, env=ENV))
    await plane.do(activation)
    await agent.kill()
    await agent.start()
    await plane.until(lambda: plane.target().health == "healthy", "it is adopted")
    assert len(plane.secret_requests) == 1
    os.kill(plane.target().pid, signal.SIGKILL)
    await plane.until(lambda: plane.target().restarts == 1 and plane.target().health == "healthy")
    assert eval(await get(port, "/env"))["API_KEY"] == VALUE
    assert plane.secret_requests == [activation.task_id] * 2


async def test_secrets_that_cannot_be_had_leave_the_old_release_serving(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    good = web_release(plane, port)
    await plane.do(plane.activate(good))
    pid = plane.reports[-1].target.pid  # type: ignore[union-attr]
    plane.secrets["shop/db"] = {"password": VALUE}
    wrong_key = {"X": "${secret:vault:shop/db#no-such-key}"}
    wrong_path = {"X": "${secret:vault:shop/other#password}"}
    wrong_provider = {"X": "${secret:elsewhere:a#b}"}

    for env in (wrong_key, wrong_path, wrong_provider):
        report = await plane.do(plane.activate(web_release(plane, port, "2", env=env)))
        assert (report.status, report.code) == ("failed", "secret_unavailable")
        assert VALUE not in report.message
    plane.secrets_down = True
    report = await plane.do(plane.activate(web_release(plane, port, "2", env=ENV)))
    assert (report.status, report.code) == ("failed", "secret_unavailable")

    assert alive(pid)
    assert agent.current() == good.release_id
