"""Each measurement still works, at the smallest size: real processes, and nothing is judged by its time."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench import artifact, dispatch, plane, queue, slipway
from bench.peers import ansible, layout, plain, pyinfra
from bench.rolling import TOOLS
from deployments.domain.states import TargetState
from deployments.models import RolloutTarget

TARGETS = 2
SMALL_BYTES = 200_000


@pytest.fixture
def url(environment: None, tmp_path: Path) -> Iterator[str]:
    with plane.control_plane(tmp_path) as started:
        yield started


@pytest.fixture
def job(tmp_path: Path) -> Iterator[layout.Job]:
    archive = artifact.build(tmp_path / "peers.tar.gz", layout.AFTER, SMALL_BYTES)
    made = layout.Job(tmp_path / "targets", TARGETS, archive)
    made.root.mkdir()
    layout.prepare(made)
    yield made
    layout.clean(made)


def test_slipway_updates_its_targets_and_a_simulated_agent_hands_over(url: str, tmp_path: Path) -> None:
    with slipway.fleet(TARGETS, url, tmp_path, artifact_bytes=SMALL_BYTES) as fleet:
        assert fleet.update("50%") > 0
    states = RolloutTarget.objects.values_list("state", flat=True)
    assert list(states) == [TargetState.HEALTHY] * TARGETS * 2

    handovers = asyncio.run(dispatch.run(url, 1, TARGETS, lambda: 0.0))
    assert len(handovers) == 1
    assert handovers[0].whole > 0


@pytest.mark.parametrize(
    ("broker", "settings", "command"),
    [
        (queue.slipway_broker, "portal.settings", "worker"),
        (queue.orm_broker, "bench.orm_settings", "qcluster"),
    ],
)
def test_a_worker_notes_when_jobs_start(
    environment: None, tmp_path: Path, broker: Callable[[], object], settings: str, command: str
) -> None:
    with plane.worker(tmp_path, settings=settings, command=command) as worker:
        samples = queue.starts(broker, 2, tmp_path / "starts", worker, warm_up=1)
    assert len(samples) == 2
    assert min(samples) > 0


@pytest.mark.parametrize("shared", [False, True])
def test_the_plain_program_leaves_every_target_on_the_new_version(job: layout.Job, shared: bool) -> None:
    plain.run(job, shared=shared)
    layout.check(job)


def test_a_target_that_was_left_behind_is_found(job: layout.Job) -> None:
    plain.run(job)
    (job.homes[1] / "current").unlink()
    (job.homes[1] / "current").symlink_to(f"releases/{layout.BEFORE}")
    with pytest.raises(AssertionError):
        layout.check(job)


@pytest.mark.skipif(not TOOLS.exists(), reason="the tools that `make bench` installs are not there")
@pytest.mark.parametrize("tool", [pyinfra.run, ansible.run])
def test_the_tools_leave_every_target_on_the_new_version(
    job: layout.Job, tool: Callable[[layout.Job, Path], float]
) -> None:
    tool(job, TOOLS)
    layout.check(job)
