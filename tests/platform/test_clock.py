"""The clock: one kind of work that fails does not keep the others from being done."""

import pytest
from django.db import OperationalError

from deployments.clock import Work


def test_work_that_fails_is_told_and_done_again_when_it_is_due(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def broken() -> None:
        calls.append(1)
        raise ValueError("a row that nobody expected")

    work = Work(broken, 0.0)
    work.do_when_due()
    work.do_when_due()
    assert len(calls) == 2
    assert "work of the clock failed" in caplog.text
    assert "a row that nobody expected" in caplog.text


def test_work_is_not_done_before_it_is_due() -> None:
    calls: list[int] = []
    work = Work(lambda: calls.append(1), 3600.0)
    work.do_when_due()
    work.do_when_due()
    assert len(calls) == 1


def test_a_database_that_is_away_is_the_clocks_business() -> None:
    def away() -> None:
        raise OperationalError("server closed the connection")

    with pytest.raises(OperationalError):
        Work(away, 0.0).do_when_due()
