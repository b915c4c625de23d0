"""The measurement of pages still works, at the smallest size: each address is asked for, none is judged."""

from datetime import UTC, datetime

import pytest

from bench import pages
from portal.local.seed.make import make_all
from portal.local.seed.size import Size
from tests.live.web import database_url

SMALL = Size(
    services=30, rollouts=300, targets=12, history_days=30, seed=1, until=datetime(2026, 3, 1, tzinfo=UTC)
)


def test_every_address_answers_an_administrator_and_a_member(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url())
    monkeypatch.setattr(pages, "WARM_UP", 0)
    list(make_all(SMALL))
    rows = pages.rows(requests=1)
    assert len(rows) == len(pages.addresses(pages.people()[0])) > 30
    assert all("queries" in row.note for row in rows)
