"""Values as people read them, and the estimate of what remains."""

from datetime import UTC, datetime, timedelta

import pytest

from deployments.models import Batch
from deployments.reads.rollouts import estimate
from portal.ui import format as say

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (64, "1 min 4 s"),
        (3600, "1 h"),
        (3840, "1 h 4 min"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: int, text: str) -> None:
    assert say.duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "just now"), (-1, "just now"), (61, "1 min ago"), (-61, "in 1 min"), (7200, "2 h ago")],
)
def test_an_age_says_how_long_ago(seconds: int, text: str) -> None:
    assert say.age(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(("number", "text"), [(1, "1 B"), (4_512_331, "4.5 MB"), (2_000_000_000, "2.0 GB")])
def test_a_size_is_decimal(number: int, text: str) -> None:
    assert say.size(number) == text


def batch(state: str, started: int | None = None, took: int | None = None) -> Batch:
    began = NOW - timedelta(seconds=started) if started is not None else None
    ended = began + timedelta(seconds=took) if began and took is not None else None
    return Batch(state=state, started_at=began, finished_at=ended)


def test_nothing_is_estimated_before_the_first_batch_has_finished() -> None:
    assert estimate([batch("running", 5), batch("pending")], NOW) is None


def test_the_estimate_takes_what_finished_batches_took() -> None:
    batches = [batch("succeeded", 60, 20), batch("running", 5), batch("pending")]
    assert estimate(batches, NOW) == timedelta(seconds=15 + 20)


def test_a_batch_that_takes_longer_than_the_others_counts_as_nearly_done() -> None:
    assert estimate([batch("succeeded", 90, 20), batch("running", 50)], NOW) == timedelta()
