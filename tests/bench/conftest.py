"""What every measurement needs, on the database of a test."""

import pytest

from tests.live.web import database_url


@pytest.fixture
def environment(transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `bench.database` sets, on the database of this test."""
    monkeypatch.setenv("DATABASE_URL", database_url())
    monkeypatch.delenv("SLIPWAY_PROCESS", raising=False)
