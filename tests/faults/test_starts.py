"""Which second start of a release is an effect too many, and which one made good a failure."""

from typing import Any, cast
from uuid import UUID

import pytest

from deployments.models import Task
from tests.faults.starts import Start, repeated

ROLLOUT, PROGRESS = UUID(int=1), UUID(int=2)


def start(at: float, task: str, *, release: str = "new", restarts: int = 0, target: str = "t") -> Start:
    token = f"{task} {at}"
    return Start(at, target, release, token, task, 1, restarts, pid="7", alone=True)


def tasks(**states: str) -> dict[str, Task]:
    return {
        name: Task(rollout_id=ROLLOUT, progress_id=PROGRESS, kind="activate", state=state)
        for name, state in states.items()
    }


def told(starts: list[Start], known: dict[str, Task], **more: Any) -> list[str]:
    failed_at = cast("dict[UUID, list[float]]", more.get("failed_at", {}))
    return list(repeated(starts, known, failed_at, more.get("by_itself", set())))


@pytest.mark.parametrize("state", ["succeeded", "accepted", "cancelled"])
def test_a_second_task_that_starts_it_again_is_told(state: str) -> None:
    (sentence,) = told([start(1, "a"), start(5, "b")], tasks(a=state, b="succeeded"))
    assert "twice" in sentence
    assert "task a" in sentence


@pytest.mark.parametrize("state", ["failed", "expired"])
def test_a_second_task_may_start_again_what_failed_or_ran_out_of_time(state: str) -> None:
    assert told([start(1, "a"), start(5, "b")], tasks(a=state, b="succeeded")) == []


def test_what_fell_ill_in_between_may_be_started_again() -> None:
    both = [start(1, "a"), start(5, "b")]
    known = tasks(a="succeeded", b="succeeded")
    assert told(both, known, failed_at={PROGRESS: [3.0]}) == []
    assert told(both, known, failed_at={PROGRESS: [6.0]}) != []


def test_a_restart_is_a_start_too() -> None:
    both = [start(1, "a"), start(2, "a", restarts=1)]
    assert "restart 1" in "".join(told(both, tasks(a="succeeded")))
    assert told(both, tasks(a="expired")) != [], "the task was the same"
    assert told(both, tasks(a="succeeded"), by_itself={"a 1"}) == []


def test_other_releases_and_targets_are_other_effects() -> None:
    known = tasks(a="succeeded", b="succeeded")
    assert told([start(1, "a"), start(2, "b", release="old")], known) == []
    assert told([start(1, "a"), start(2, "b", target="u")], known) == []


def test_the_way_back_to_what_ran_before_is_another_effect() -> None:
    known = tasks(a="succeeded", b="succeeded", c="succeeded")
    known["b"].kind = known["c"].kind = "revert"
    assert told([start(1, "a"), start(2, "b")], known) == []
    assert "twice" in told([start(1, "a"), start(2, "b"), start(3, "c")], known)[0]


def test_one_token_starts_one_process() -> None:
    assert "twice" in told([start(1, "a"), start(1, "a")], tasks(a="failed"))[0]
