"""Errors to RFC 9457 problem details, in one place.

`type` is the path of a page that says what the problem means; it never changes. `errors` holds what is
wrong by field. What is missing and what is invisible give the same bytes.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.core.signals import got_request_exception
from django.db import OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from rest_framework import exceptions as rest
from rest_framework.response import Response

from deployments.errors import BadCredential, Conflict, Invalid, NotFound, SlipwayError, TooLarge

CONTENT_TYPE = "application/problem+json"
log = logging.getLogger("slipway.api")


class Malformed(SlipwayError):
    """The request cannot be read. Send JSON in UTF-8."""

    code = "malformed"
    status = 400


class CsrfFailed(SlipwayError):
    """The request came with a session but without its CSRF token. Send X-CSRFToken, or use an API token."""

    code = "csrf-failed"
    status = 403


class MethodNotAllowed(SlipwayError):
    """This address does not take this method. The Allow header names those that it takes."""

    code = "method-not-allowed"
    status = 405


class NotAcceptable(SlipwayError):
    """The answer is JSON, and the Accept header does not take that."""

    code = "not-acceptable"
    status = 406


class RequestInProgress(Conflict):
    """A request with this Idempotency-Key is at work now. Wait for its answer, then ask again."""

    code = "request-in-progress"


class LengthRequired(SlipwayError):
    """The request has a body of unknown length. Send Content-Length."""

    code = "length-required"
    status = 411


class UnsupportedMediaType(SlipwayError):
    """The body has a media type that this address does not take."""

    code = "unsupported-media-type"
    status = 415


class TooManyRequests(SlipwayError):
    """Too many requests. Wait as long as Retry-After says."""

    code = "too-many-requests"
    status = 429


class InternalError(SlipwayError):
    """Something went wrong here. It is in the server's log under the request id of this answer."""

    code = "internal-error"
    status = 500


class Busy(SlipwayError):
    """The database did not answer in time. Nothing was changed; try again in a moment."""

    code = "busy"
    status = 503


def handler(error: Exception, context: Mapping[str, Any]) -> Response:
    """REST framework's exception handler."""
    known = translate(error)
    request = context.get("request")
    if isinstance(known, InternalError):
        log.error("A request failed", exc_info=error)
        # What Django does for an error that nobody caught: the test client and reporters listen to it.
        got_request_exception.send(sender=handler, request=getattr(request, "_request", None))
    response = Response(body(known), status=known.status, content_type=CONTENT_TYPE, headers=headers(known))
    if (wait := getattr(error, "wait", None)) is not None:
        response["Retry-After"] = str(int(wait) + 1)
    return response


def problem(error: SlipwayError) -> HttpResponse:
    """The same answer from a view that is not REST framework's."""
    return JsonResponse(body(error), status=error.status, content_type=CONTENT_TYPE, headers=headers(error))


def body(error: SlipwayError) -> dict[str, Any]:
    return {
        "type": f"/problems/{error.code}",
        "title": title(type(error)),
        "status": error.status,
        "detail": error.message,
        **error.extra,
    }


def headers(error: SlipwayError) -> dict[str, str]:
    found = {"Cache-Control": "no-store"}
    if error.status == 401:
        found["WWW-Authenticate"] = 'Bearer realm="slipway"'
    if isinstance(error, Busy):
        found["Retry-After"] = "1"
    return found


def title(kind: type[SlipwayError]) -> str:
    """The first sentence of the class's docstring."""
    return (kind.__doc__ or "").strip().partition(". ")[0].rstrip(".")


def translate(error: Exception) -> SlipwayError:
    """Whatever was raised, as the domain error that says it."""
    match error:
        case SlipwayError():
            return error
        case rest.ValidationError():
            return Invalid(**dict(_flat(error.detail)))
        case rest.NotAuthenticated():
            return BadCredential("Sign in, or send an API token as “Authorization: Bearer …”.")
        case rest.AuthenticationFailed():
            return BadCredential(str(error.detail))
        case rest.PermissionDenied() if "CSRF" in str(error.detail):
            return CsrfFailed()
        case Http404() | rest.NotFound() | PermissionDenied() | rest.PermissionDenied():
            return NotFound()
        case rest.MethodNotAllowed():
            return MethodNotAllowed()
        case rest.NotAcceptable():
            return NotAcceptable()
        case rest.UnsupportedMediaType():
            return UnsupportedMediaType(str(error.detail))
        case rest.Throttled():
            return TooManyRequests()
        case rest.ParseError():
            return Malformed(str(error.detail))
        case RequestDataTooBig():
            return TooLarge()
        case OperationalError():
            log.warning("The database did not answer: %s", error)
            return Busy()
    return InternalError()


def _flat(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (`a.b.0`, text) for every message of a nested validation error."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            at_top = name == "non_field_errors"
            yield from _flat(inner, path if at_top else f"{path}.{name}".lstrip("."))
    elif isinstance(detail, Sequence) and not isinstance(detail, str):
        if all(isinstance(item, str) for item in detail):
            yield path or "body", " ".join(map(str, detail))
        else:
            for index, inner in enumerate(detail):
                yield from _flat(inner, f"{path}.{index}".lstrip("."))
    else:
        yield path or "body", str(detail)


def kinds() -> dict[str, type[SlipwayError]]:
    """Every problem by its code."""
    found: dict[str, type[SlipwayError]] = {}
    waiting = [SlipwayError]
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        found.setdefault(kind.code, kind)
    return dict(sorted(found.items()))


def index(request: HttpRequest) -> HttpResponse:
    """All problems, or the one that the path names."""
    return render(request, "api/problems.html", {"problems": [_described(kind) for kind in kinds().values()]})


def page(request: HttpRequest, code: str) -> HttpResponse:
    kind = kinds().get(code)
    if kind is None:
        raise Http404
    return render(request, "api/problems.html", {"problems": [_described(kind)], "one": True})


def _described(kind: type[SlipwayError]) -> dict[str, Any]:
    return {"code": kind.code, "status": kind.status, "meaning": (kind.__doc__ or "").strip()}
