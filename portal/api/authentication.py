"""Who asks: an API token, or a session with its CSRF token."""

from typing import Any

from rest_framework import authentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from deployments.errors import BadCredential
from portal.accounts.models import ApiToken, User
from portal.accounts.tokens import find_api_token


class TokenAuthentication(authentication.BaseAuthentication):
    """`Authorization: Bearer slw_...`."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            token = find_api_token(secret.strip())
        except BadCredential as error:
            raise AuthenticationFailed(error.message) from None
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return 'Bearer realm="slipway"'


class SessionAuthentication(authentication.SessionAuthentication):
    """The session of the pages; every request that changes something carries X-CSRFToken."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        return super().authenticate(request)
