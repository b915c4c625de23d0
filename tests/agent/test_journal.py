"""The journal through crashes: torn lines, compaction, bounds."""

import time
from pathlib import Path

import pytest

from deployments import protocol
from deployments.agent import journal as journal_module
from deployments.agent.journal import Journal


def instruction(number: int, fence: int = 1) -> protocol.Deactivate:
    return protocol.Deactivate(
        agent_id="a",
        task_id=f"task-{number}",
        attempt=1,
        fence=fence,
        expires_at=time.time() + 60,
        target_id="t1",
        target_name="t1",
    )


def result(number: int) -> protocol.TaskReport:
    return protocol.TaskReport(task_id=f"task-{number}", attempt=1, fence=1, status="succeeded")


def opened(path: Path) -> Journal:
    journal = Journal(path)
    journal.load()
    return journal


async def test_what_was_begun_ended_and_acknowledged_is_known_again(tmp_path: Path) -> None:
    journal = opened(tmp_path / "journal")
    for number in (1, 2, 3):
        await journal.begin(instruction(number, fence=number))
    await journal.end(result(1))
    await journal.end(result(2))
    journal.acknowledge(("task-1", 1))
    await journal.close()

    again = opened(tmp_path / "journal")

    assert again.open_tasks() == ("task-2", "task-3")
    assert again.unacknowledged() == [result(2)]
    assert again.find(("task-1", 1)).report == result(1)  # type: ignore[union-attr]
    assert again.find(("task-3", 1)).report is None  # type: ignore[union-attr]
    assert again.highest_fence("t1") == 3
    await again.close()


async def test_a_line_cut_off_by_a_crash_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = opened(path)
    await journal.begin(instruction(1))
    await journal.end(result(1))
    await journal.close()
    with path.open("ab") as file:
        file.write(b'{"kind":"begin","task_id":"task-2","att')
    again = opened(path)
    assert again.open_tasks() == ("task-1",)
    await again.begin(instruction(3))
    await again.close()
    assert opened(path).open_tasks() == ("task-1", "task-3")


async def test_the_journal_stays_bounded_but_forgets_no_open_task_and_no_fence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "MAX_RESULTS", 20)
    monkeypatch.setattr(journal_module, "COMPACT_BYTES", 10_000)
    path = tmp_path / "journal"
    journal = opened(path)
    await journal.begin(instruction(0, fence=77))
    for number in range(1, 300):
        await journal.begin(instruction(number))
        await journal.end(result(number))
        journal.acknowledge((f"task-{number}", 1))
    await journal.close()
    assert path.stat().st_size < 25_000
    again = opened(path)
    assert again.open_tasks() == ("task-0",)
    assert again.highest_fence("t1") == 77
    assert again.find(("task-299", 1)) is not None
    assert again.find(("task-1", 1)) is None
    await again.close()
