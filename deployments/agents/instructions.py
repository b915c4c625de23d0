"""Task rows to signed frames: each with the release as its target is to run it."""

import dataclasses
from collections.abc import Collection, Mapping
from datetime import datetime
from uuid import UUID

from deployments import protocol
from deployments.agents.signing import sign
from deployments.domain import config
from deployments.errors import Invalid
from deployments.models import Release, Task


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OpenTask:
    """A task with what its instruction needs to know of its target; the order is that of `outbox.TAKE`."""

    task_id: UUID
    agent_id: UUID
    rollout_id: UUID
    release_id: UUID | None
    kind: str
    attempt: int
    fence: int
    expires_at: datetime
    request_id: str
    target_id: UUID
    target_name: str
    variables: Mapping[str, object]
    region: str
    environment: str
    service: str

    def facts(self, version: str) -> dict[str, str]:
        """What the placeholders of the configuration mean on this target; see `Target.facts`."""
        return {f"target.{name}": str(value) for name, value in self.variables.items()} | {
            "target.name": self.target_name,
            "region": self.region,
            "service": self.service,
            "environment": self.environment,
            "version": version,
        }


def load_releases(ids: Collection[UUID]) -> dict[UUID, Release]:
    """The releases with artifact and configuration, in one statement."""
    return Release.objects.select_related("artifact", "config").in_bulk(list(ids))


def frame(task: OpenTask, releases: Mapping[UUID, Release]) -> str:
    """Return the signed frame for `task`.

    Raises Invalid when its configuration has no value here, or makes a frame that the agent would not
    take: it would end the connection that all its targets share, again at each attempt.
    """
    text = sign(_instruction(task, releases))
    if (size := len(text.encode())) > protocol.MAX_FRAME_BYTES:
        raise Invalid(
            f"The configuration of {task.target_name} is too large to send: {size} bytes of at most "
            f"{protocol.MAX_FRAME_BYTES}. Shorten its values, or put large files into the artifact."
        )
    return text


def _instruction(task: OpenTask, releases: Mapping[UUID, Release]) -> protocol.AnyInstruction:
    if task.release_id is None:
        return protocol.Deactivate(
            agent_id=str(task.agent_id),
            task_id=str(task.task_id),
            attempt=task.attempt,
            fence=task.fence,
            expires_at=task.expires_at.timestamp(),
            target_id=str(task.target_id),
            target_name=task.target_name,
            rollout_id=str(task.rollout_id),
            request_id=task.request_id,
        )
    kind = protocol.Stage if task.kind == Task.Kind.STAGE else protocol.Activate
    return kind(
        agent_id=str(task.agent_id),
        task_id=str(task.task_id),
        attempt=task.attempt,
        fence=task.fence,
        expires_at=task.expires_at.timestamp(),
        target_id=str(task.target_id),
        target_name=task.target_name,
        rollout_id=str(task.rollout_id),
        request_id=task.request_id,
        release=_release(task, releases[task.release_id]),
    )


def _release(task: OpenTask, release: Release) -> protocol.ReleaseSpec:
    snapshot, artifact = release.config, release.artifact
    resolved = config.resolve(
        snapshot.base,
        snapshot.overlays.get(task.environment, {}),
        task.facts(release.version),
        where=f"config {snapshot.number} on {task.target_name}",
    )
    return protocol.ReleaseSpec(
        release_id=str(release.id),
        service=task.service,
        version=release.version,
        artifact=protocol.ArtifactRef(
            digest=artifact.digest,
            size_bytes=artifact.size_bytes,
            path=f"/agent/v1/artifacts/{artifact.digest}",
        ),
        config_digest=snapshot.digest,
        env=resolved.env,
        files=resolved.files,
        runtime=resolved.runtime,
        process=resolved.process,
        health=resolved.health,
    )
