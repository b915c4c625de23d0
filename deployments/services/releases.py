"""What can be deployed: artifacts, configurations, and releases that pair one of each for ever."""

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Max, Q

from deployments import access, events
from deployments.artifacts import store
from deployments.domain import canonical, config, secret_paths
from deployments.domain.actor import Actor
from deployments.errors import AlreadyExists, Invalid
from deployments.models import Artifact, ArtifactUpload, ConfigSnapshot, Environment, Release, Service
from deployments.services.rows import check_fields, insert

VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
MESSAGE_LENGTH = 500
FILENAME_LENGTH = 255


def upload_artifact(
    *,
    actor: Actor,
    chunks: Iterable[bytes],
    digest: str | None = None,
    filename: str = "",
    media_type: str = "application/gzip",
) -> Artifact:
    """Keep the bytes and return their artifact; bytes that are known already return the one there is.

    The bytes are received before the transaction starts: an upload takes as long as the line does.
    Raises DigestMismatch, TooLarge, StorageFull, Invalid; then nothing is kept.
    """
    access.require(actor, "artifact.upload")
    check_fields(Artifact(filename=_base_name(filename), media_type=media_type), ["filename", "media_type"])
    stored = store.put(chunks, digest=digest, max_bytes=settings.SLIPWAY.artifact_max_bytes)
    return register_artifact(actor=actor, stored=stored, filename=filename, media_type=media_type)


@transaction.atomic
def register_artifact(*, actor: Actor, stored: store.Stored, filename: str, media_type: str) -> Artifact:
    """Give stored bytes their row."""
    access.require(actor, "artifact.upload")
    artifact = Artifact(
        digest=stored.digest,
        size_bytes=stored.size_bytes,
        filename=_base_name(filename),
        media_type=media_type,
        uploaded_by_id=actor.user_id,
    )
    known = Artifact.objects.filter(digest=stored.digest)
    found = known.first()
    if found is None:
        try:
            found = insert(artifact, exists="")
        except AlreadyExists:
            found = known.get()
    if actor.user_id is not None:
        ArtifactUpload.objects.get_or_create(artifact=found, user_id=actor.user_id)
    after = {"size_bytes": found.size_bytes, "filename": artifact.filename, "known": found.pk != artifact.pk}
    events.record(actor=actor, changes=[events.done("artifact.upload", found, after=after)])
    return found


@transaction.atomic
def create_config(
    *,
    actor: Actor,
    service_id: UUID,
    base: Mapping[str, Any],
    overlays: Mapping[str, Any] | None = None,
) -> ConfigSnapshot:
    """Keep a configuration as the service's next number; the same content again returns the one there is.

    Raises Invalid naming the place of the first thing that is wrong.
    """
    service = access.get(actor, "config.create", Service.objects.select_related("team"), id=service_id)
    body = {"base": base, "overlays": overlays if overlays is not None else {}}
    digest = _digest(body)
    config.validate(body["base"], body["overlays"])
    _check_environments(body["overlays"])
    _check_secrets(service, body["base"], body["overlays"])
    # Under the service's lock: numbers have no gaps, and the same content is never kept twice.
    Service.objects.select_for_update(no_key=True).get(pk=service.pk)
    if known := service.configs.filter(digest=digest).first():
        return known
    number = (service.configs.aggregate(last=Max("number"))["last"] or 0) + 1
    snapshot = ConfigSnapshot(
        service=service, number=number, digest=digest, created_by=actor.name[:150], **body
    )
    insert(snapshot, exists=f"Service {service} has this configuration already.")
    after = {"number": number, "digest": digest}
    events.record(actor=actor, changes=[events.done("config.create", snapshot, after=after)])
    return snapshot


@transaction.atomic
def create_release(
    *,
    actor: Actor,
    service_id: UUID,
    version: str,
    artifact_digest: str,
    config_id: UUID,
    commit_sha: str = "",
    commit_message: str = "",
    branch: str = "",
    author: str = "",
    committed_at: datetime | None = None,
    repository_url: str = "",
    pull_request_url: str = "",
    build_url: str = "",
) -> Release:
    """Pair an artifact with a configuration under a version, for ever.

    The same version with the same pair returns the release there is, whatever its provenance says; with
    another pair it raises AlreadyExists. A commit message is kept up to its first 500 characters.
    """
    service = access.get(actor, "release.create", Service.objects.select_related("team"), id=service_id)
    if not VERSION.fullmatch(version):
        raise Invalid(
            version="must be 1 to 100 letters, digits, dots, hyphens, plus signs or underscores, "
            "and begin with a letter or digit"
        )
    artifact = _artifact(actor, service, artifact_digest)
    snapshot = service.configs.filter(pk=config_id).first()
    if snapshot is None:
        raise Invalid(config=f"Service {service} has no configuration with this id. Create it first.")
    if found := service.releases.filter(version=version).first():
        return _same(found, artifact, snapshot)
    release = Release(
        service=service,
        version=version,
        artifact=artifact,
        config=snapshot,
        created_by=actor.name[:150],
        commit_sha=commit_sha,
        commit_message=_shortened(commit_message),
        branch=branch,
        author=author,
        committed_at=committed_at,
        repository_url=repository_url,
        pull_request_url=pull_request_url,
        build_url=build_url,
    )
    try:
        insert(release, exists="")
    except AlreadyExists:
        return _same(service.releases.get(version=version), artifact, snapshot)
    after = {
        "version": version,
        "artifact": artifact.digest,
        "config": snapshot.digest,
        "commit_sha": commit_sha,
    }
    events.record(actor=actor, changes=[events.done("release.create", release, after=after)])
    return release


def _artifact(actor: Actor, service: Service, digest: str) -> Artifact:
    """What the actor may see, or a member of the service's team uploaded: usually its CI."""
    store.check_digest(digest)
    own = access.visible(actor, Artifact.objects.all()).values("pk")
    of_team = Q(uploads__user__memberships__team=service.team_id)
    artifact = Artifact.objects.filter(Q(pk__in=own) | of_team, digest=digest).first()
    if artifact is None:
        raise Invalid(
            artifact=f"There is no artifact {digest} that your team uploaded. "
            "POST its bytes to /api/v1/artifacts first, then create the release."
        )
    return artifact


def _same(release: Release, artifact: Artifact, snapshot: ConfigSnapshot) -> Release:
    if (release.artifact_id, release.config_id) == (artifact.pk, snapshot.pk):
        return release
    raise AlreadyExists(
        f"{release} exists with another artifact or configuration, and a release never changes. "
        "Take a new version."
    )


def _check_environments(overlays: Mapping[str, Any]) -> None:
    known = set(Environment.objects.values_list("name", flat=True))
    if unknown := sorted(set(overlays) - known):
        raise Invalid(
            overlays=f"There is no environment {', '.join(unknown)}. "
            f"Known: {', '.join(sorted(known)) or 'none yet'}."
        )


def _check_secrets(service: Service, base: Mapping[str, Any], overlays: Mapping[str, Any]) -> None:
    """Refuse secrets that are not the service's own, in the base and under each overlay.

    Where the place depends on the environment the base alone has none: it is checked when it is leased.
    """
    template = settings.SLIPWAY.vault_path_template
    names = {"team": service.team.name, "service": service.name}
    if not secret_paths.depends_on_environment(template):
        secret_paths.check(secret_paths.named_in(base, {}), secret_paths.prefix(template, **names), "base")
    for environment, overlay in overlays.items():
        allowed = secret_paths.prefix(template, **names, environment=environment)
        secret_paths.check(secret_paths.named_in(base, overlay), allowed, environment)


def _digest(body: Any) -> str:
    """The canonical digest; raises Invalid for what has none, or what PostgreSQL cannot keep."""
    try:
        text = canonical.canonical_json(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise Invalid(base=f"The configuration cannot be kept: {error}") from None
    if rb"\u0000" in text.replace(rb"\\", b""):
        raise Invalid(base="The configuration cannot be kept: it holds a NUL character")
    return canonical.digest_bytes(text)


def _base_name(filename: str) -> str:
    return filename.replace("\\", "/").rpartition("/")[2][-FILENAME_LENGTH:]


def _shortened(message: str) -> str:
    return message if len(message) <= MESSAGE_LENGTH else message[: MESSAGE_LENGTH - 1] + "…"
