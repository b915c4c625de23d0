"""Secrets reach the process and nothing else: not a file, a log, a frame or a message."""

import os
import signal
from pathlib import Path

import pytest

from deployments.agent.secrets import values_within
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, alive, get, release, tar, web_release

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


async def test_after_the_agents_restart_the_bare_secret_is_blackened_too(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    plane.secrets["shop/db"] = {"password": VALUE}
    program = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print("
        "'password', os.environ['DATABASE_URL'].split(':')[2].split('@')[0], flush=True))\n"
        "while True: time.sleep(0.05)\n"
    )
    env = {"DATABASE_URL": ENV["DATABASE_URL"]}
    spec = release(plane.add(tar({"leaky.py": program})), ("python3", "-S", "-E", "leaky.py"), env=env)
    assert (await plane.do(plane.activate(spec))).status == "succeeded"
    await plane.until(lambda: plane.target().pid > 0)
    await agent.kill()
    await agent.start()
    await plane.until(lambda: plane.target().health == "healthy", "it is adopted")
    os.kill(plane.target().pid, signal.SIGUSR1)
    await plane.until(lambda: any("password" in chunk.text for chunk in plane.logs), "a log comes")
    assert any("password [secret]" in chunk.text for chunk in plane.logs)
    assert not any(VALUE in frame for frame in plane.frames)


@pytest.mark.parametrize(
    ("template", "value", "found"),
    [
        ("${secret:vault:a#b}", "hunter22", {"hunter22"}),
        ("u:${secret:vault:a#b}@h", "u:hunter22@h", {"u:hunter22@h", "hunter22"}),
        ("(${secret:vault:a#b}).*", "(a+b+c+d).*", {"(a+b+c+d).*", "a+b+c+d"}),
        ("${secret:vault:a#u}:${secret:vault:a#p}@h", "user:pass@h", {"user:pass@h", "user", "pass"}),
        (
            "${secret:vault:a#u}:${secret:vault:a#p}",
            "user:pass:word",
            {"user:pass:word", "user", "pass:word", "user:pass", "word"},
        ),
        ("${secret:vault:a#u}${secret:vault:a#p}@h", "userpass@h", {"userpass@h", "userpass"}),
        ("u:${secret:vault:a#b}@h", "changed since", {"changed since"}),
        ("plain", "plain", set()),
        ("x${secret:vault:a#b}", "xabc", {"xabc"}),
    ],
)
def test_secrets_are_cut_out_of_the_environment_of_what_runs(
    template: str, value: str, found: set[str]
) -> None:
    values = values_within({"A": template, "ABSENT": template}, {"A": value})
    assert set(values) == found
    assert list(values) == sorted(values, key=len, reverse=True)


async def test_what_is_not_a_secret_of_a_key_value_store_is_refused(
    plane: FakeControlPlane, agent: AgentProgram, port: int
) -> None:
    """As a wrapped look at a token would be, or a secret of version 1."""
    plane.secrets["shop/db"] = {"id": VALUE}
    plane.flat_secrets = True
    env = {"TOKEN": "${secret:vault:shop/db#id}"}
    report = await plane.do(plane.activate(web_release(plane, port, env=env)))
    assert (report.status, report.code) == ("failed", "secret_unavailable")
    assert "version 2" in report.message
    assert not any(VALUE in frame for frame in plane.frames)


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
