"""Blocking HTTP with timeouts and bounds, on urllib: proxies by the usual variables, redirects refused."""

import functools
import http.client
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

TIMEOUT_SECONDS = 15.0
MAX_ANSWER_BYTES = 1024 * 1024


class Unreachable(Exception):
    """No usable answer: refused, timed out, or broken off. Worth another try."""


class _Plain(urllib.request.HTTPErrorProcessor):
    """Hands back every status as it is: a redirect would carry the Authorization header to another host."""

    def http_response(
        self, request: urllib.request.Request, response: http.client.HTTPResponse
    ) -> http.client.HTTPResponse:
        return response

    https_response = http_response


@functools.cache
def _opener() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(_Plain)


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    def problem(self) -> str:
        """The sentence of an RFC 9457 problem, or what can be said without one."""
        try:
            problem = msgspec.json.decode(self.body, type=dict[str, object])
        except msgspec.DecodeError:
            problem = {}
        for name in ("detail", "title"):
            if isinstance(problem.get(name), str) and problem[name]:
                return str(problem[name])
        return f"the server answered {self.status}"


def open_stream(
    method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
) -> http.client.HTTPResponse:
    """Send a request and return the open answer, whatever its status; raises Unreachable."""
    request = urllib.request.Request(url, data=body, headers=dict(headers), method=method)  # noqa: S310
    try:
        answer: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_SECONDS)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise Unreachable(text or type(error).__name__) from None
    return answer


def call(method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
    """One request with a small answer; raises Unreachable."""
    with open_stream(method, url, headers, body) as answer:
        try:
            content = answer.read(MAX_ANSWER_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the answer broke off ({type(error).__name__})") from None
        return Answer(answer.status, content)
