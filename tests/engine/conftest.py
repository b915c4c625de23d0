import pytest

from tests.engine.driver import Driver
from tests.fixtures import Person, World


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)
