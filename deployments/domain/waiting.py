"""What a rollout waits for: no rollout that is not at its end is without such an answer."""

from datetime import datetime

import msgspec


class Waiting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    kind: str
    """`engine`, `queue`, `tasks`, `bake`, `retry`, `capacity`, `person`, `agent`, `fault`."""
    sentence: str
    subject: str = ""
    """What the wait is about; while kind and subject stay, it is one and the same wait."""
    who: str = "nobody needs to act"
    """Who can end the wait."""
    unblock: tuple[str, ...] = ()
    """Verbs of the API that end it: `resume`, `rollback`, `cancel`, ..."""
    since: datetime | None = None
    deadline: datetime | None = None
    """When the engine acts by itself."""

    def same_as(self, other: "Waiting | None") -> bool:
        """Whether it is the same wait going on; then it keeps its `since`."""
        return other is not None and (self.kind, self.subject) == (other.kind, other.subject)
