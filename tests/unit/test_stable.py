"""The choice of what to go back to explains itself, and refuses with a way out."""

from uuid import UUID

from deployments.domain.stable import Past, choose


def past(version: str, *, succeeded: bool = True, rolled_back: bool = False, hold: str | None = None) -> Past:
    return Past(
        release=UUID(int=int(version.replace(".", ""))),
        version=version,
        succeeded=succeeded,
        rolled_back=rolled_back,
        hold=hold,
    )


LEAVING = UUID(int=20)


def test_the_newest_that_succeeded_with_another_release() -> None:
    choice = choose([past("2.0"), past("1.9", succeeded=False), past("1.8"), past("1.7")], LEAVING)
    assert choice.release == UUID(int=18)
    assert "1.8" in choice.why
    assert "1.9 did not succeed" in choice.why


def test_one_that_was_rolled_back_is_passed_over() -> None:
    choice = choose([past("1.9", rolled_back=True), past("1.8")], LEAVING)
    assert choice.release == UUID(int=18)
    assert "1.9 was rolled back" in choice.why


def test_without_history_it_says_what_to_do_instead() -> None:
    choice = choose([past("2.0"), past("1.9", succeeded=False)], LEAVING)
    assert choice.release is None
    assert "nothing to go back to" in choice.why
    assert "1.9 did not succeed" in choice.why
    assert choice.why.endswith("Roll out a release that works instead.")


def test_a_hold_is_not_passed_over_in_silence() -> None:
    choice = choose([past("1.9", hold="It loses orders."), past("1.8"), past("1.7")], LEAVING)
    assert choice.release is None
    assert "1.9, is on hold: It loses orders." in choice.why
    assert "Lift its hold, or name an older one: 1.8, 1.7." in choice.why
