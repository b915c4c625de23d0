"""The agent as a single file, run by a bare Python."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.agent.bundle import build
from tests.agent.fake import FakeControlPlane
from tests.agent.programs import AgentProgram, get, web_release


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("bundle"))


def _bare_python() -> str:
    """A Python without this project's packages: the one that the virtual environment was made from."""
    return str(Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}")


def test_the_same_input_gives_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    assert build(tmp_path / "again.pyz").read_bytes() == bundle.read_bytes()
    assert bundle.name == "slipway-agent.pyz"
    assert bundle.stat().st_mode & stat.S_IXUSR
    assert str(Path.cwd()).encode() not in bundle.read_bytes()


def test_it_runs_on_a_bare_python_and_unpacks_itself_once_and_privately(bundle: Path, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path)}
    for _ in range(2):
        command = [_bare_python(), "-I", str(bundle), "--help"]
        answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
        assert answer.returncode == 0, answer.stderr
        assert "--state-dir" in answer.stdout
    cached = list((tmp_path / "slipway-agent").iterdir())
    assert len(cached) == 1
    assert stat.S_IMODE(cached[0].stat().st_mode) == 0o700


def test_it_does_not_run_from_a_cache_that_others_can_write_to(bundle: Path, tmp_path: Path) -> None:
    shared = tmp_path / "slipway-agent"
    shared.mkdir()
    shared.chmod(0o777)
    env = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(tmp_path)}
    command = [_bare_python(), "-I", str(bundle), "--help"]
    answer = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert answer.returncode == 1
    assert "only you can write to" in answer.stderr


async def test_it_enrols_and_serves_like_the_installed_agent(
    bundle: Path, plane: FakeControlPlane, program: AgentProgram, port: int, tmp_path: Path
) -> None:
    shutil.copy(bundle, tmp_path / "slipway-agent.pyz")
    program.command = [_bare_python(), "-I", str(tmp_path / "slipway-agent.pyz")]
    await program.start(env={"XDG_CACHE_HOME": str(tmp_path)})
    assert (await plane.do(plane.activate(web_release(plane, port)))).status == "succeeded"
    assert await get(port) == "1"
