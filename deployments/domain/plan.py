"""The frozen decision of what a rollout will do, and the digest that names it.

An approval binds to `plan_digest`: whatever a person said yes to is in here, and nothing that
changes by itself (no time, no name of the requester).
"""

from typing import Any

import msgspec

from deployments.domain.canonical import digest


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    targets: tuple[str, ...]
    """Target ids, in order."""


class WavePlan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    batches: tuple[BatchPlan, ...]


class PlanBody(msgspec.Struct, frozen=True, kw_only=True):
    service: str
    environment: str
    release: str
    artifact_digest: str
    config_digest: str
    kind: str
    """`deploy`, `rollback` or `repair`."""
    strategy: str
    params: dict[str, Any]
    """The strategy's parameters with every default filled in."""
    waves: tuple[WavePlan, ...]

    @property
    def digest(self) -> str:
        """`sha256:` and 64 hex digits over the canonical JSON of the whole body."""
        return digest(msgspec.to_builtins(self))
