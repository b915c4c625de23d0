"""Many agents, rollouts and deaths at the smallest size: what must hold at any size, and no figures."""

import pytest

from bench import idle, liveness, scale
from deployments.models import Rollout

SERVICES, TARGETS = 3, 2


@pytest.fixture
def quick_heartbeats(environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HEARTBEAT_SECONDS", "1")


def test_all_rollouts_succeed_at_once_and_from_a_queue(environment: None) -> None:
    with scale.stage(SERVICES, targets=TARGETS) as stage:
        at_once = stage.run(SERVICES)
        scale.set_limit(stage.services[0], 1)
        queued = stage.run(SERVICES)
    assert at_once.tasks == queued.tasks == SERVICES * TARGETS * 2
    assert len(at_once.waits) == SERVICES
    assert min(at_once.waits) > 0
    assert at_once.ticks >= SERVICES
    assert at_once.cpu["worker"] > 0
    assert set(Rollout.objects.values_list("state", flat=True)) == {"succeeded"}


def test_no_heartbeat_of_idle_agents_is_missed(quick_heartbeats: None) -> None:
    found = idle.observe(scale.TARGETS, 3, rollouts=1)
    assert found.agents == scale.TARGETS
    assert found.sent > 0
    assert (found.missed, found.lost) == (0, 0)
    assert found.idle.share["web"] > 0


def test_dead_agents_become_unknown(quick_heartbeats: None) -> None:
    seconds = liveness.dead_agents(4)
    assert len(seconds) == 4
    assert max(seconds) < liveness.PATIENCE_SECONDS


def test_the_rollouts_of_a_killed_worker_go_on(environment: None) -> None:
    seconds = liveness.killed_workers(1, rollouts=SERVICES)
    assert seconds
    assert max(seconds) < liveness.PATIENCE_SECONDS
    assert set(Rollout.objects.values_list("state", flat=True)) == {"succeeded"}
