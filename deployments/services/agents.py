"""Agents: how one gets in, and how one is shut out."""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now
from django.utils import timezone

from deployments import access, events
from deployments.domain.actor import Actor, ActorKind
from deployments.domain.states import TASK_OPEN, TaskState
from deployments.errors import AlreadyExists, Invalid, JoinTokenUsed, NotFound
from deployments.models import Agent, JoinToken, Target, Task
from deployments.secrets.leases import leases_for
from deployments.services.rows import check_fields, insert

JOIN_TOKEN_PREFIX = "slj_"  # noqa: S105  # how one is recognised, not one
MIN_TTL_SECONDS = 60
MAX_TTL_SECONDS = 7 * 24 * 3600
PUBLIC_KEY_BYTES = 32


@transaction.atomic
def create_join_token(
    *, actor: Actor, agent_name: str, target_ids: Sequence[UUID] = (), ttl_seconds: int = 3600
) -> tuple[JoinToken, str]:
    """Return the token's row and its text, which is kept nowhere and shown once.

    Who enrols with it serves the targets. For the name of a revoked agent it lets that agent back in, with
    a new key.
    """
    access.require(actor, "agent.enrol")
    if not MIN_TTL_SECONDS <= ttl_seconds <= MAX_TTL_SECONDS:
        raise Invalid(ttl_seconds=f"must lie between {MIN_TTL_SECONDS} and {MAX_TTL_SECONDS} seconds")
    _refuse_taken(Agent.objects.filter(name=agent_name).first())
    wanted = {str(target_id) for target_id in target_ids}
    known = {str(pk) for pk in Target.objects.filter(pk__in=wanted).values_list("pk", flat=True)}
    if missing := sorted(wanted - known):
        raise Invalid(targets=f"There are no targets {', '.join(missing)}. Create them first.")
    secret = JOIN_TOKEN_PREFIX + secrets.token_urlsafe(32)
    token = JoinToken(
        digest=_digest(secret),
        agent_name=agent_name,
        expires_at=timezone.now() + timedelta(seconds=ttl_seconds),
        target_ids=sorted(known),
    )
    insert(token, exists="Try again.")
    after = {"agent_name": agent_name, "targets": sorted(known), "expires_at": token.expires_at}
    events.record(actor=actor, changes=[events.done("join_token.create", token, after=after)])
    return token, secret


@transaction.atomic
def enrol_agent(
    *,
    join_token: str,
    public_key: bytes,
    hostname: str = "",
    software: str = "",
    address: str = "",
    request_id: str = "",
) -> Agent:
    """Trade a join token, once, for an agent that holds `public_key` (Ed25519, 32 bytes).

    Raises JoinTokenUsed for a token that is unknown, used or expired: which of these is nobody's business.
    """
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise Invalid(public_key=f"must be {PUBLIC_KEY_BYTES} bytes in base64")
    token = (
        JoinToken.objects.select_for_update()
        .filter(digest=_digest(join_token), used_at__isnull=True, expires_at__gt=Now())
        .first()
    )
    if token is None:
        raise JoinTokenUsed
    agent = Agent.objects.select_for_update().filter(name=token.agent_name).first()
    _refuse_taken(agent)
    if agent is None:
        agent = Agent(name=token.agent_name)
        agent.public_key, agent.hostname, agent.software = public_key, hostname[:255], software[:64]
        insert(agent, exists=f"There is an agent “{token.agent_name}” already.")
    else:
        agent.public_key, agent.hostname, agent.software = public_key, hostname[:255], software[:64]
        agent.revoked_at = None
        check_fields(agent, ["hostname", "software"])
        agent.save(update_fields=["public_key", "hostname", "software", "revoked_at"])
    token.used_at, token.used_by = timezone.now(), agent
    token.save(update_fields=["used_at", "used_by"])
    Target.objects.filter(pk__in=token.target_ids).update(agent=agent)
    actor = Actor(
        kind=ActorKind.AGENT, id=str(agent.id), name=agent.name, request_id=request_id, address=address
    )
    after = {
        "join_token": token.id,
        "public_key": public_key.hex(),
        "hostname": agent.hostname,
        "software": agent.software,
        "targets": token.target_ids,
    }
    events.record(actor=actor, changes=[events.done("agent.enrol", agent, after=after)])
    return agent


@transaction.atomic
def revoke_agent(*, actor: Actor, agent_id: UUID, reason: str) -> Agent:
    """Refuse everything that the agent says or asks from now on; its targets keep running as they are."""
    agent = access.get(actor, "agent.view", Agent.objects.select_for_update(no_key=True), id=agent_id)
    access.require(actor, "agent.revoke", agent)
    if not reason.strip():
        raise Invalid(reason="Say why: it stands in the audit log.")
    if agent.revoked_at is None:
        agent.revoked_at = timezone.now()
        agent.save(update_fields=["revoked_at"])
        change = events.done("agent.revoke", agent, after={"revoked_at": agent.revoked_at}, reason=reason)
        events.record(actor=actor, changes=[change])
    return agent


def lease_secrets(*, actor: Actor, agent: Agent, task_id: UUID) -> dict[str, str]:
    """Path -> wrapping token for what the task's release refers to.

    Raises NotFound, SecretUnavailable, and Invalid for a secret that is not the service's own. An agent gets
    them for a task that it works on, and to start again what it was last told to run. The secret server is
    asked outside any transaction; without the audit entry nothing is handed out.
    """
    tasks = Task.objects.select_related(
        "release__config", "rollout__environment", "rollout__service__team", "target"
    )
    task = tasks.filter(pk=task_id, agent=agent).first()
    if task is None or not (task.state in TASK_OPEN or _is_what_runs(task)):
        raise NotFound
    leases = leases_for(task)
    if leases:
        change = events.done("secret.lease", task, after={"paths": sorted(leases), "target": task.target_id})
        with transaction.atomic():
            events.record(actor=actor, changes=[change])
    return leases


def _is_what_runs(task: Task) -> bool:
    """Whether this is the last switch of its target, to the release that the target is to run."""
    switches = Task.objects.filter(target=task.target_id, kind__in=(Task.Kind.ACTIVATE, Task.Kind.REVERT))
    last = switches.order_by("-id").values_list("pk", flat=True).first()
    return (
        last == task.pk
        and task.state == TaskState.SUCCEEDED
        and task.release_id is not None
        and task.target.release_id == task.release_id
        and task.target.agent_id == task.agent_id
    )


def _refuse_taken(agent: Agent | None) -> None:
    if agent is not None and agent.revoked_at is None:
        raise AlreadyExists(
            f"There is an agent “{agent.name}” already. Revoke it first to replace it, or take another name."
        )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
