"""Idempotency-Key: a POST that is repeated answers as it did the first time, and does nothing.

The answer is kept in the transaction of the command itself: either both are there or neither is. What was
refused changed nothing and is not kept; the same key may be tried again.
"""

import functools
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import connection, transaction
from django.utils import timezone
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.errors import IdempotencyMismatch, Invalid
from deployments.models import IdempotencyKey
from deployments.models.requests import KEPT
from portal.api.problems import RequestInProgress

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEPT_HEADERS = ("ETag", "Location")

Handler = Callable[..., Response]


def idempotent(*, secret_fields: tuple[str, ...] = ()) -> Callable[[Handler], Handler]:
    """Make a POST handler honour the header. `secret_fields` are shown once: null in a replay."""

    def decorate(handler: Handler) -> Handler:
        @functools.wraps(handler)
        def wrapper(view: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
            content = hashlib.sha256(request._request.body).hexdigest()
            return run(request, content, lambda: handler(view, request, *args, **kwargs), secret_fields)

        wrapper.is_idempotent = True  # type: ignore[attr-defined]
        return wrapper

    return decorate


def run(
    request: Request, content: str, execute: Callable[[], Response], secret_fields: tuple[str, ...] = ()
) -> Response:
    """Execute once for the request's key. `content` stands for the body.

    Raises IdempotencyMismatch for a key used with another request, RequestInProgress while the first one
    is at work.
    """
    key = request.headers.get(HEADER)
    if key is None:
        return execute()
    if not KEY.fullmatch(key):
        raise Invalid(**{HEADER: "must be 1 to 255 visible ASCII characters, for example a UUID"})
    digest = _digest(request, content)
    with transaction.atomic():
        _lock(request.user.pk, key)
        kept = IdempotencyKey.objects.filter(user=request.user.pk, key=key).first()
        if kept is not None and kept.created_at > timezone.now() - KEPT:
            return _replay(kept, digest)
        if kept is not None:
            kept.delete()
        response = execute()
        _keep(request, key, digest, response, secret_fields)
        return response


def _lock(user_id: UUID | None, key: str) -> None:
    """Hold the key until the transaction ends; raises RequestInProgress where another request does."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_try_advisory_xact_lock(hashtextextended(%s, 0))", [f"idempotency {user_id} {key}"]
        )
        row = cursor.fetchone()
    if not (row and row[0]):
        raise RequestInProgress


def _replay(kept: IdempotencyKey, digest: str) -> Response:
    if kept.request_digest != digest:
        raise IdempotencyMismatch
    body = json.loads(kept.body) if kept.body else None
    return Response(body, status=kept.status, headers={**kept.headers, REPLAYED: "true"})


def _keep(
    request: Request, key: str, digest: str, response: Response, secret_fields: tuple[str, ...]
) -> None:
    shown = response.data
    if secret_fields and isinstance(shown, dict):
        shown = {**shown, **dict.fromkeys(secret_fields)}
    IdempotencyKey.objects.create(
        user=request.user,  # type: ignore[misc]  # the permission class lets nobody else in
        key=key,
        request_digest=digest,
        status=response.status_code,
        body=JSONRenderer().render(shown).decode() if shown is not None else "",
        headers={name: response[name] for name in KEPT_HEADERS if name in response},
    )


def _digest(request: Request, content: str) -> str:
    text = f"{request.method}\n{request.get_full_path()}\n{content}"
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
