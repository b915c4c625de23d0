from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.fleet import Fleet
from tests.faults.stack import Stack


@pytest.fixture
def stack(transactional_db: None, tmp_path: Path) -> Iterator[Stack]:
    """All processes up, nothing deployed."""
    running = Stack(tmp_path)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def _fleet(django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all tests: its start takes longer than most of them."""
    with django_db_blocker.unblock():
        running = Fleet(tmp_path_factory.mktemp("fleet"), services=4)
    try:
        with django_db_blocker.unblock(), running.here():
            running.start()
        yield running
    finally:
        with django_db_blocker.unblock(), running.here():
            running.stop()


@pytest.fixture
def fleet(_fleet: Fleet, django_db_blocker: Any) -> Iterator[Fleet]:
    """Everything runs; what a test has broken is mended afterwards."""
    with django_db_blocker.unblock(), _fleet.here():
        _fleet.mend()
        yield _fleet
        _fleet.mend()
