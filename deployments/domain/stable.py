"""Which release to go back to, and why: a pure choice over the history of a service in an environment."""

from collections.abc import Sequence
from uuid import UUID

import msgspec


class Past(msgspec.Struct, frozen=True, kw_only=True):
    """An earlier rollout."""

    release: UUID
    version: str
    succeeded: bool
    rolled_back: bool = False
    """Whether a later rollback has left it."""
    hold: str | None = None
    """Why its release is on hold; None: it is not."""


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    release: UUID | None
    why: str
    """One or two sentences: why this one, or why none and what to do."""


def free(history: Sequence[Past], leaving: UUID) -> list[UUID]:
    """Every release that may be gone back to when somebody names it, newest first, each once."""
    found = [
        past.release
        for past in history
        if past.release != leaving and past.succeeded and not past.rolled_back and past.hold is None
    ]
    return list(dict.fromkeys(found))


def choose(history: Sequence[Past], leaving: UUID) -> Choice:
    """Choose from `history`, newest first, what to go back to from the release `leaving`.

    The last stable release is that of the newest rollout that succeeded with another release and was
    not rolled back itself. One on hold is not passed over in silence: a person decides then.
    """
    passed: list[str] = []
    found: Past | None = None
    others: list[str] = []
    for past in history:
        if past.release == leaving:
            continue
        if not past.succeeded:
            passed.append(f"{past.version} did not succeed")
        elif past.rolled_back:
            passed.append(f"{past.version} was rolled back")
        elif found is None:
            found = past
        elif past.hold is None and past.version != found.version and past.version not in others:
            others.append(past.version)
    if found is None:
        because = f" Passed over: {', '.join(dict.fromkeys(passed[:5]))}." if passed else ""
        return Choice(
            release=None,
            why="No earlier rollout here succeeded with another release, so there is nothing to go back to."
            f"{because} Roll out a release that works instead.",
        )
    if found.hold is not None:
        elsewhere = f", or name an older one: {', '.join(others[:3])}" if others else ""
        return Choice(
            release=None,
            why=f"The last stable release, {found.version}, is on hold: {found.hold.rstrip('.')}. "
            f"Lift its hold{elsewhere}.",
        )
    newer = f", passing over: {', '.join(dict.fromkeys(passed[:5]))}" if passed else ""
    return Choice(
        release=found.release,
        why=f"{found.version} is the release of the newest rollout here that succeeded and stayed{newer}.",
    )
