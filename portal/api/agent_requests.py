"""Which agent asks: every request carries the agent's own signature over what it asks and when."""

import base64
import binascii
import re
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponseBase
from django.views.decorators.csrf import csrf_exempt
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from deployments import protocol
from deployments.domain.actor import Actor, ActorKind
from deployments.errors import BadCredential, Invalid, SlipwayError
from deployments.models import Agent
from portal.api.parsers import check_length, read_json
from portal.api.problems import MethodNotAllowed, problem

MAX_BODY_BYTES = 64 * 1024
ACCEPTED_SECONDS = 60
HEADER = re.compile(
    r"Slipway-Agent id=([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}),ts=(\d{1,12}),sig=([A-Za-z0-9+/=]+)"
)

View = Callable[..., HttpResponseBase]


def endpoint(method: str) -> Callable[[View], View]:
    """A view of the agents' own API: one method, small bodies, errors as problem details, no session."""

    def decorate(view: View) -> View:
        @csrf_exempt  # no cookie counts here
        @wraps(view)
        def wrapper(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            try:
                if request.method != method:
                    raise MethodNotAllowed
                check_length(request, MAX_BODY_BYTES)
                return view(request, *args, **kwargs)
            except SlipwayError as error:
                return problem(error)

        return wrapper

    return decorate


def agent_of_request(request: HttpRequest) -> Agent:
    """The agent that signed this request within the last minute; raises BadCredential."""
    match = HEADER.fullmatch(request.headers.get("Authorization", ""))
    if match is None:
        raise BadCredential("The request is not signed by an agent.")
    agent_id, timestamp, signature = match.groups()
    apart = time.time() - int(timestamp)
    if abs(apart) > ACCEPTED_SECONDS:
        raise BadCredential(
            f"The request's time lies {abs(apart):.0f} s {'before' if apart > 0 else 'after'} the server's; "
            f"{ACCEPTED_SECONDS} s are accepted. Set the agent's clock."
        )
    agent = Agent.objects.filter(pk=agent_id, revoked_at__isnull=True).first()
    text = protocol.request_bytes(str(request.method), request.path, timestamp, agent_id)
    if agent is None or not _verifies(bytes(agent.public_key), text, signature):
        raise BadCredential(
            "The agent is unknown or revoked, or the signature is not its own. Enrol it again."
        )
    return agent


def actor_of_agent(agent: Agent, request: HttpRequest) -> Actor:
    return Actor(
        kind=ActorKind.AGENT,
        id=str(agent.pk),
        name=agent.name,
        request_id=getattr(request, "request_id", ""),
        address=str(request.META.get("REMOTE_ADDR", "")),
    )


class Enrolment(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent says to be let in."""

    join_token: str
    public_key: str
    """Base64."""
    name: str = ""
    hostname: str = ""
    version: str = ""

    @classmethod
    def of(cls, request: HttpRequest) -> "Enrolment":
        """Raises Malformed, Invalid."""
        try:
            return msgspec.convert(read_json(request.body), cls)
        except msgspec.ValidationError as error:
            raise Invalid(f"The enrolment cannot be read: {error}") from None

    def key(self) -> bytes:
        """The public key's 32 bytes; raises Invalid."""
        try:
            return bytes(VerifyKey(base64.b64decode(self.public_key, validate=True)))
        except (binascii.Error, ValueError):
            raise Invalid(public_key="must be an Ed25519 public key, 32 bytes in base64") from None


def _verifies(public_key: bytes, text: bytes, signature: str) -> bool:
    try:
        VerifyKey(public_key).verify(text, base64.b64decode(signature, validate=True))
    except (BadSignatureError, ValueError, binascii.Error):
        return False
    return True
