"""What `invariants.limits` tells of a history: too many targets out of service, or two batches at once."""

from collections import defaultdict
from datetime import UTC, datetime, timedelta

from deployments.models import Event
from tests.faults.invariants import limits

BATCHES = {"a": "1", "b": "1", "c": "2", "d": "2"}
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class History:
    """Moves, those of one `moment` at the same time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._states = dict.fromkeys(BATCHES, "pending") | {"1": "pending", "2": "pending", "r": "pending"}
        self._seconds = 0
        self.moment(r="running")

    def moment(self, **states: str) -> "History":
        self._seconds += 1
        for name, after in states.items():
            subject = name.removeprefix("batch_")
            kind = "rollout" if name == "r" else "target" if name in BATCHES else "batch"
            moved = {"before": {"state": self._states[subject]}, "after": {"state": after}}
            self._states[subject] = after
            at = BEGAN + timedelta(seconds=self._seconds)
            data = {"id": subject, "name": subject, **moved}
            number = len(self.events) + 1
            self.events.append(Event(kind=f"{kind}.state", at=at, number=number, data=data))
        return self

    def told(self, limit: int = 0) -> str:
        return "".join(limits(BATCHES, limit, self.events, defaultdict(list)))


def first_done() -> History:
    history = History().moment(batch_1="running", a="activating", b="activating")
    return history.moment(a="healthy", b="healthy", batch_1="succeeded")


def test_one_batch_after_the_other_is_well() -> None:
    assert first_done().moment(batch_2="running", c="activating", d="activating").told() == ""


def test_two_batches_at_once_are_told() -> None:
    history = History().moment(batch_1="running", a="activating").moment(batch_2="running", c="activating")
    assert "several batches" in history.told()


def test_a_limit_is_a_limit_and_without_one_a_batch_is() -> None:
    history = History().moment(batch_1="running", a="activating", b="activating")
    assert history.told() == ""
    assert "the limit is 1" in history.told(limit=1)
    # What has failed serves nobody either.
    history = History().moment(batch_1="running", a="activating").moment(a="failed", batch_1="succeeded")
    history.moment(batch_2="running", c="activating", d="activating")
    assert "3 targets were out of service" in history.told()


def paused_and_resumed() -> History:
    history = first_done().moment(batch_2="running", c="activating")
    history.moment(a="failed", batch_1="failed", r="paused")
    return history.moment(r="running", batch_1="running", a="staged")


def test_only_what_was_reopened_may_be_at_work_beside_the_batch_that_is_due() -> None:
    assert paused_and_resumed().moment(a="activating").told() == ""
    done = paused_and_resumed().moment(a="activating").moment(a="healthy", batch_1="succeeded")
    assert "several batches" in done.moment(b="failed").moment(b="staged").moment(b="activating").told()


def test_a_resume_that_reopens_nothing_excuses_nothing() -> None:
    history = first_done().moment(r="paused").moment(r="running")
    history.moment(batch_2="running", c="activating").moment(b="failed").moment(b="staged")
    assert "several batches" in history.moment(b="activating").told()


def test_it_is_noted_since_when_a_target_is_out_of_service() -> None:
    noted: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    assert list(limits(BATCHES, 0, first_done().events, noted)) == []
    began = BEGAN.timestamp()
    assert noted["a"] == [(began + 2, True), (began + 3, False)]
