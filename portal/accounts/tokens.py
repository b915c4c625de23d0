"""API tokens: made, found, withdrawn. Their text is shown once and kept nowhere."""

import hashlib
import secrets
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from deployments import events
from deployments.domain.actor import Actor
from deployments.errors import BadCredential, Invalid, NotFound
from deployments.services.rows import insert
from portal.accounts.models import ApiToken, User

PREFIX = "slw_"
MAX_DAYS = 366
USE_NOTED_EVERY = timedelta(minutes=1)


@transaction.atomic
def create_api_token(*, actor: Actor, user_id: UUID, name: str, ttl_days: int = 90) -> tuple[ApiToken, str]:
    """Return the token's row and its text. People make tokens for themselves, administrators for anybody."""
    _require_own(actor, user_id)
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None:
        raise Invalid(user="There is no active account with this id.")
    if not 1 <= ttl_days <= MAX_DAYS:
        raise Invalid(ttl_days=f"must lie between 1 and {MAX_DAYS} days")
    secret = PREFIX + secrets.token_urlsafe(32)
    expires_at = timezone.now() + timedelta(days=ttl_days)
    token = ApiToken(user=user, name=name, digest=_digest(secret), expires_at=expires_at)
    insert(token, exists="Try again.")
    after = {"user": user.username, "name": name, "expires_at": expires_at}
    events.record(actor=actor, changes=[events.done("api_token.create", token, after=after)])
    return token, secret


@transaction.atomic
def revoke_api_token(*, actor: Actor, token_id: UUID, reason: str = "") -> ApiToken:
    token = ApiToken.objects.select_for_update().filter(pk=token_id).first()
    if token is None:
        raise NotFound
    _require_own(actor, token.user_id)
    if token.revoked_at is None:
        token.revoked_at = timezone.now()
        token.save(update_fields=["revoked_at"])
        change = events.done("api_token.revoke", token, after={"revoked_at": token.revoked_at}, reason=reason)
        events.record(actor=actor, changes=[change])
    return token


def find_api_token(secret: str) -> ApiToken:
    """Return the valid token with this text and note its use; raises BadCredential."""
    now = timezone.now()
    token = ApiToken.objects.select_related("user").filter(digest=_digest(secret)).first()
    if token is None or not token.is_valid(now):
        raise BadCredential("The API token is unknown, expired or revoked. Create a new one.")
    # At most once a minute: reading must not cost a write each.
    stale = Q(last_used_at__isnull=True) | Q(last_used_at__lt=now - USE_NOTED_EVERY)
    if token.last_used_at is None or token.last_used_at < now - USE_NOTED_EVERY:
        ApiToken.objects.filter(stale, pk=token.pk).update(last_used_at=now)
    return token


def _require_own(actor: Actor, user_id: UUID) -> None:
    """Another person's tokens do not exist for anybody but administrators."""
    if actor.user_id != user_id and not actor.is_superuser:
        raise NotFound


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
