"""Credential -> Actor, once, at the border."""

from django.http import HttpRequest
from rest_framework.request import Request

from deployments.domain.actor import Actor, ActorKind
from deployments.errors import BadCredential
from portal.accounts.models import ApiToken, User


def actor_of_request(request: HttpRequest | Request) -> Actor:
    """Who acts in this request: a token where it carries one, else the signed-in person.

    Takes Django's request or REST framework's; raises BadCredential for nobody.
    """
    user = request.user
    if not isinstance(user, User):
        raise BadCredential("Sign in, or send an API token as “Authorization: Bearer …”.")
    token = getattr(request, "auth", None)
    kind, pk, name = ActorKind.USER, user.pk, user.username
    if isinstance(token, ApiToken):
        kind, pk, name = ActorKind.TOKEN, token.pk, f"{user.username} ({token.name})"
    return Actor(
        kind=kind,
        id=str(pk),
        name=name,
        user_id=user.pk,
        is_superuser=user.is_superuser,
        request_id=getattr(request, "request_id", ""),
        address=str(request.META.get("REMOTE_ADDR", "")),
    )
