"""Who acts: a credential is turned into an Actor once, at the border, and passed on by keyword."""

import dataclasses
from enum import StrEnum
from uuid import UUID


class ActorKind(StrEnum):
    USER = "user"
    TOKEN = "token"  # noqa: S105  # a word, not a secret
    AGENT = "agent"
    SYSTEM = "system"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """`user_id` is the person (or service account) whose rights count; None for agents and the system."""

    kind: ActorKind
    id: str
    name: str
    user_id: UUID | None = None
    is_superuser: bool = False
    request_id: str = ""
    address: str = ""

    @classmethod
    def system(cls, name: str = "slipway", *, request_id: str = "") -> "Actor":
        """The control plane itself: the engine, the clock, a command run by hand on the server."""
        return cls(kind=ActorKind.SYSTEM, id=name, name=name, is_superuser=True, request_id=request_id)
