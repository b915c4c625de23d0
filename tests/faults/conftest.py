from collections.abc import Iterator
from pathlib import Path

import pytest

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
