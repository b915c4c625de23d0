"""A few rollouts under random faults; `make torture N=1000` is the same at length."""

import pytest

from tests.faults.fleet import Fleet
from tests.faults.points import deaths_of_a_rollout
from tests.faults.torture import Torture

pytestmark = pytest.mark.timeout(300)


def test_whatever_breaks_every_rollout_ends_and_nothing_happens_twice(fleet: Fleet) -> None:
    torture = Torture(fleet, rollouts=4, seed=11, deaths=deaths_of_a_rollout(fleet))
    violations = torture.run()
    assert violations == [], torture.table(violations)
    assert torture.zombies == [], torture.table(violations)
    assert torture.late() == [], torture.table(violations)
    assert torture.chaos.struck, "something broke"
