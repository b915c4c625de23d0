"""Request id: one name for a request in the log, the audit trail, the answer and the caller's own log."""

import re
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.decorators import sync_and_async_middleware
from uuid_utils.compat import uuid7

# Long enough for a UUID or a trace id with its prefix; nothing that could break a header or a log line.
SANE = re.compile(r"[A-Za-z0-9._:/=+-]{8,128}")

GetResponse = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def request_id_middleware(get_response: GetResponse) -> GetResponse:
    """Take the caller's X-Request-ID where it is sane, make one where not; see `request.request_id`."""
    if iscoroutinefunction(get_response):

        async def async_middleware(request: HttpRequest) -> HttpResponseBase:
            with structlog.contextvars.bound_contextvars(request_id=_identify(request)):
                response = await cast("Awaitable[HttpResponseBase]", get_response(request))
            return _answer(request, response)

        return async_middleware

    def middleware(request: HttpRequest) -> HttpResponseBase:
        with structlog.contextvars.bound_contextvars(request_id=_identify(request)):
            response = cast("HttpResponseBase", get_response(request))
        return _answer(request, response)

    return middleware


def _identify(request: HttpRequest) -> str:
    given = request.headers.get("X-Request-ID", "")
    request_id = given if SANE.fullmatch(given) else str(uuid7())
    request.request_id = request_id  # type: ignore[attr-defined]
    return request_id


def _answer(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    response.headers["X-Request-ID"] = request.request_id  # type: ignore[attr-defined]
    return response
