"""What `torture` judges by: no case is dropped, and no earlier fault excuses a later wait."""

import math

from tests.faults.measures import Run, Wait, spread, waits

NEVER = 240.0


def one(struck: list[float], looks: list[float], *, end: float = math.inf, start: float = 0.0) -> list[Wait]:
    return waits(struck, struck, [Run("r", start, end)], {"r": looks}, NEVER)


def test_a_wait_counts_from_the_last_fault_before_the_look() -> None:
    assert one([10.0, 14.0], [5.0, 15.0]) == [Wait(5.0, 1.0), Wait(1.0, 1.0)]


def test_a_fault_after_the_look_excuses_nothing() -> None:
    assert one([10.0], [45.0]) == [Wait(35.0, 35.0)]
    assert one([10.0, 50.0], [45.0, 51.0]) == [Wait(35.0, 35.0), Wait(1.0, 1.0)]


def test_a_rollout_that_is_never_looked_at_again_is_no_dropped_case() -> None:
    assert one([10.0, 20.0], [5.0]) == [Wait(NEVER, NEVER)] * 2
    assert one([10.0], []) == [Wait(NEVER, NEVER)]


def test_a_rollout_that_a_person_ended_waited_until_then() -> None:
    assert one([10.0], [5.0], end=42.0) == [Wait(32.0, 32.0)]


def test_only_what_ran_at_the_fault_is_a_case() -> None:
    assert one([10.0], [15.0], start=11.0) == []
    assert one([10.0], [15.0], end=9.0) == []
    assert spread([]) == "no such case"


def test_the_slowest_is_told() -> None:
    assert "most 31.00 s, of 200" in spread([1.0] * 199 + [31.0])
