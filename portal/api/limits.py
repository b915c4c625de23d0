"""Bodies of requests, bounded on the way in: before Django has gathered them in a file.

Django spools a whole body to disk before any view runs. So the limits stand here, outside it: how large
a body may be, and that nobody unknown sends a large one.
"""

import asyncio
import contextlib
import errno
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from importlib import import_module
from typing import Any

import msgspec
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY
from django.db import close_old_connections

from deployments.errors import BadCredential, SlipwayError, StorageFull, TooLarge
from portal.accounts.tokens import find_api_token
from portal.api import agent_requests, parsers, problems

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UPLOAD_PATH = "/api/v1/artifacts"
AGENT_PATH = "/agent/v1/"
DRAINED_BYTES = 8 * 1024 * 1024
DRAIN_SECONDS = 5
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


def bounded(app: App) -> App:
    """Wrap an ASGI application: 413, 401 or 507 as problem details, before and while a body comes in."""

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            limit = await _limit(scope, headers)
            await app(scope, _counting(receive, limit), sending)
        except SlipwayError as error:
            if started:
                raise
            if b"expect" not in headers:
                await _drain(receive)
            await _refuse(error, send)
        except OSError as error:
            if started or error.errno not in NO_SPACE:
                raise
            await _refuse(StorageFull(), send)

    return application


async def _limit(scope: MutableMapping[str, Any], headers: dict[bytes, str]) -> int:
    """Bytes that the body may have; raises TooLarge, BadCredential."""
    length = headers.get(b"content-length", "")
    # Unknown counts as large.
    announced = int(length) if length.isdecimal() else (2**63 if b"transfer-encoding" in headers else 0)
    if scope["path"] == UPLOAD_PATH:
        if announced > parsers.MAX_BODY_BYTES and not await sync_to_async(_is_known)(headers):
            raise BadCredential("Sign in, or send an API token, before you send an artifact.")
        limit = settings.SLIPWAY.artifact_max_bytes
    elif scope["path"].startswith(AGENT_PATH):
        limit = agent_requests.MAX_BODY_BYTES
    else:
        limit = parsers.MAX_BODY_BYTES
    if length and announced > limit:
        raise _too_large(limit)
    return limit


def _is_known(headers: dict[bytes, str]) -> bool:
    """Whether the request carries a valid token or a session of somebody; the view decides what they may."""
    close_old_connections()
    try:
        scheme, _, secret = headers.get(b"authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            find_api_token(secret.strip())
            return True
        cookies = SimpleCookie(headers.get(b"cookie", ""))
        morsel = cookies.get(settings.SESSION_COOKIE_NAME)
        store = import_module(settings.SESSION_ENGINE).SessionStore
        return morsel is not None and SESSION_KEY in store(morsel.value)
    except (BadCredential, CookieError):
        return False
    finally:
        close_old_connections()


def _counting(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _too_large(limit)
        return message

    return counting


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The request's body is larger than the limit of {limit} bytes.")


async def _drain(receive: Receive) -> None:
    """Let a client that is sending already come to its end: many read no answer before that."""
    left = DRAINED_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return


async def _refuse(error: SlipwayError, send: Send) -> None:
    # The rest of the body is not read: the connection ends with this answer.
    headers = {**problems.headers(error), "Content-Type": problems.CONTENT_TYPE, "Connection": "close"}
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": msgspec.json.encode(problems.body(error))})
