"""Every domain exception: one class per cause, its docstring the default message.

`code` is the stable name that the API publishes as the problem's `type`; `status` the HTTP status
that the borders map it to. A message says what to do, not only what is wrong.
"""

from typing import Any


class SlipwayError(Exception):
    """The request cannot be carried out."""

    code = "error"
    status = 400

    def __init__(self, message: str = "", **extra: Any) -> None:
        self.message = message or (self.__doc__ or "").strip()
        self.extra = extra
        super().__init__(self.message)


class NotFound(SlipwayError):
    """There is no such object, or it is not yours to see."""

    code = "not-found"
    status = 404

    def __init__(self) -> None:
        super().__init__()


class NotAllowed(SlipwayError):
    """You may see this but not do that."""

    code = "not-allowed"
    status = 403

    def __init__(self, verb: str, scope: str, granted_by: str) -> None:
        super().__init__(
            f"You need “{verb}” on {scope}. Ask {granted_by} to grant it.", verb=verb, scope=scope
        )


class Invalid(SlipwayError):
    """A value is not acceptable."""

    code = "invalid"
    status = 422

    def __init__(self, message: str = "", **fields: str) -> None:
        if fields and not message:
            message = " ".join(f"{name}: {text}" for name, text in fields.items())
        super().__init__(message, errors=fields)


class Conflict(SlipwayError):
    """The request contradicts what is there."""

    code = "conflict"
    status = 409


class AlreadyExists(Conflict):
    """An object with this name exists already."""

    code = "already-exists"


class RolloutActive(Conflict):
    """A rollout of this service to this environment is active. Wait for it, cancel it or roll it back."""

    code = "rollout-active"


class ReleaseOnHold(Conflict):
    """The release is on hold. Lift its hold first, or choose another release."""

    code = "release-on-hold"


class QueueFull(SlipwayError):
    """Too many rollouts wait in the queue. Cancel some that are not needed, or try again later."""

    code = "queue-full"
    status = 429


class MoveNotAllowed(Conflict):
    """The rollout's state does not permit this."""

    code = "move-not-allowed"


class StaleState(Conflict):
    """The object changed in the meantime. Read it again and decide anew."""

    code = "stale-state"


class StaleVersion(SlipwayError):
    """If-Match names an older version. Read the object again and decide anew."""

    code = "stale-version"
    status = 412


class IdempotencyMismatch(SlipwayError):
    """This Idempotency-Key was used with a different request. Use a new key."""

    code = "idempotency-mismatch"
    status = 422


class NothingToDeploy(SlipwayError):
    """The service has no targets in this environment. Register targets first."""

    code = "no-targets"
    status = 422


class TargetWithoutAgent(SlipwayError):
    """A target has no agent. Enrol an agent and assign the target to it."""

    code = "target-without-agent"
    status = 422


class NoStableRelease(Conflict):
    """There is no earlier stable release to go back to."""

    code = "no-stable-release"


class DigestMismatch(SlipwayError):
    """The bytes do not have the digest that was announced. Upload the artifact again."""

    code = "digest-mismatch"
    status = 422


class TooLarge(SlipwayError):
    """The upload is larger than the limit."""

    code = "too-large"
    status = 413


class RangeNotSatisfiable(SlipwayError):
    """The requested range lies outside the artifact."""

    code = "range-not-satisfiable"
    status = 416


class StorageFull(SlipwayError):
    """The artifact store has no space left. Nothing was kept; make room and upload again."""

    code = "storage-full"
    status = 507


class BadCredential(SlipwayError):
    """The credential is missing, unknown, expired or revoked."""

    code = "bad-credential"
    status = 401


class JoinTokenUsed(SlipwayError):
    """This join token was used or has expired. Create a new one and start the agent with it."""

    code = "join-token-used"
    status = 403


class LeaseLost(SlipwayError):
    """Another worker owns this rollout now; what this one decided is void."""

    code = "lease-lost"
    status = 409


class SecretUnavailable(SlipwayError):
    """The secret server did not hand out the secret."""

    code = "secret-unavailable"
    status = 502
