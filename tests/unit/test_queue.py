"""The order of the queue: limits hold, priorities count, no team and no rollout is left behind."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from deployments.domain.queue import AGING, Entry, Limits, line_up

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def entry(
    number: int,
    *,
    service: int = 0,
    environment: int = 1,
    team: int = 1,
    priority: int = 1,
    waited: float = 0,
    moving: bool = False,
    exempt: bool = False,
) -> Entry:
    return Entry(
        id=UUID(int=number),
        service=UUID(int=service or number),
        environment=UUID(int=environment),
        team=UUID(int=team),
        priority=priority,
        since=NOW - timedelta(seconds=waited) + timedelta(microseconds=number),
        moving=moving,
        exempt=exempt,
    )


def may_start(entries: list[Entry], **limits: object) -> list[int]:
    slots = line_up(entries, Limits(**{"all": 1000, **limits}), NOW)  # type: ignore[arg-type]
    return [number.int for number, slot in slots.items() if slot.free]


def test_a_turn_counts_those_that_wait_for_the_very_same() -> None:
    mine = [entry(1, service=7, moving=True), *(entry(number, service=7) for number in (2, 3))]
    others = [entry(number, service=8, team=2) for number in (10, 11, 12)]
    slots = line_up([*mine, *others], Limits(all=1000), NOW)
    assert [slots[UUID(int=number)].turn for number in (2, 3)] == [1, 2], "whoever else waits there"


def test_a_hotfix_jumps_ahead() -> None:
    waiting = [entry(1), entry(2), entry(3, priority=2), entry(4, priority=0)]
    assert may_start(waiting, all=1) == [3]
    assert may_start(waiting, all=3) == [3, 1, 2]


def test_one_rollout_of_a_service_moves_in_an_environment() -> None:
    entries = [entry(1, service=7, moving=True), entry(2, service=7), entry(3, service=7, environment=2)]
    assert may_start(entries) == [3]
    slot = line_up(entries, Limits(all=1000), NOW)[UUID(int=2)]
    assert (slot.blocked_by, slot.place, slot.waiting) == ("service", 1, 1)


def test_who_waits_for_a_full_environment_holds_up_nobody_else() -> None:
    entries = [entry(1, moving=True), entry(2), entry(3, environment=2)]
    assert may_start(entries, environments={UUID(int=1): 1}) == [3]


def test_the_team_with_the_fewest_goes_first() -> None:
    mine = [entry(number, team=1, waited=100) for number in range(1, 6)]
    others = [entry(number, team=2) for number in range(6, 8)]
    assert may_start([*mine, *others], all=4) == [1, 6, 2, 7]
    moving = [entry(20, team=1, moving=True), entry(21, team=1, moving=True)]
    assert may_start([*mine, *others, *moving], all=4) == [6, 7]


def test_a_limit_of_a_team_leaves_room_to_others() -> None:
    entries = [entry(1, moving=True), entry(2), entry(3, team=2)]
    assert may_start(entries, teams={UUID(int=1): 1}) == [3]


def test_a_way_back_waits_for_no_limit_but_for_its_own_service() -> None:
    entries = [entry(1, service=7, moving=True), entry(2, exempt=True), entry(3, service=7, exempt=True)]
    assert may_start([*entries, entry(4)], all=1, environments={UUID(int=1): 1}) == [2]


def test_what_has_waited_long_enough_goes_before_what_is_more_urgent() -> None:
    old = entry(1, priority=0, waited=2 * AGING.total_seconds() + 1)
    fresh = [entry(number, priority=2, team=number) for number in range(2, 6)]
    assert may_start([old, *fresh], all=1) == [1]


entries_of = st.lists(
    st.builds(
        entry,
        st.integers(1, 10**6),
        service=st.integers(1, 6),
        environment=st.integers(1, 3),
        team=st.integers(1, 3),
        priority=st.integers(0, 2),
        waited=st.floats(0, 10_000),
    ),
    max_size=30,
    unique_by=lambda one: one.id,
)


@given(entries=entries_of, total=st.integers(1, 8), environment=st.integers(1, 3), team=st.integers(1, 3))
def test_no_limit_is_passed_and_no_slot_is_left_empty(
    entries: list[Entry], total: int, environment: int, team: int
) -> None:
    limits = Limits(all=total, environments={UUID(int=1): environment}, teams={UUID(int=1): team})
    slots = line_up(entries, limits, NOW)
    started = [one for one in entries if slots[one.id].free]
    assert len(started) <= total
    assert sum(one.environment == UUID(int=1) for one in started) <= environment
    assert sum(one.team == UUID(int=1) for one in started) <= team
    assert max(Counter((one.service, one.environment) for one in started).values(), default=0) <= 1
    for one in entries:
        if not slots[one.id].free:
            assert slots[one.id].blocked_by, "who waits is told for what"
    if len(started) < total:
        assert "all" not in {slots[one.id].blocked_by for one in entries}
    for number in {one.environment for one in entries}:
        places = sorted(slots[one.id].place for one in entries if one.environment == number)
        assert places == list(range(1, len(places) + 1)), "nobody is lost, and each has a place of its own"


@given(entries=entries_of)
def test_one_after_another_everybody_gets_a_turn(entries: list[Entry]) -> None:
    """With one slot, and new hotfixes coming all the time, the oldest of the others still starts."""
    if not entries:
        return
    waiting, now = list(entries), NOW
    for round_ in range(40 * len(entries)):
        waiting.append(entry(10**7 + round_, priority=2, team=9, service=10**7 + round_))
        slots = line_up(waiting, Limits(all=1), now)
        (first,) = [one for one in waiting if slots[one.id].free]
        waiting.remove(first)
        now += timedelta(minutes=5)
        if not any(one.id.int <= 10**6 for one in waiting):
            return
    raise AssertionError(f"they starve: {waiting}")


def test_age_alone_counts_for_what_has_outgrown_the_highest_priority() -> None:
    """A team with much that moves elsewhere is not kept waiting by a team that asks all the time."""
    elsewhere = [entry(number, environment=2, moving=True) for number in (1, 2)]
    old = entry(3, priority=2, waited=2 * AGING.total_seconds())
    fresh = entry(4, team=2, priority=2)
    assert may_start([*elsewhere, old, fresh], environments={UUID(int=1): 1}) == [3]
