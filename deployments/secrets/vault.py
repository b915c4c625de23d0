"""HashiCorp Vault and its open fork OpenBao: response-wrapped reads of a KV version 2 engine.

Slipway signs in by AppRole and keeps its own token until shortly before it ends. What it gets for a
secret is a wrapping token (https://developer.hashicorp.com/vault/docs/concepts/response-wrapping):
it can be traded once, and an attempt to trade it twice shows.
"""

import threading
import time
from typing import Any, ClassVar

import hvac
import requests
from django.conf import settings
from hvac import exceptions as refusals

from deployments.domain.config import is_secret_path
from deployments.errors import SecretUnavailable

WRAP_SECONDS = 120
TIMEOUT_SECONDS = 5
RENEW_BEFORE_SECONDS = 30


class _SignInRefused(Exception):
    """The AppRole is not accepted."""


class Vault:
    name: ClassVar[str] = "vault"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._token = ""
        self._good_until = 0.0
        """On the monotonic clock."""

    def lease(self, path: str) -> str:
        env = settings.SLIPWAY
        if not is_secret_path(path):
            # The HTTP client resolves `..`: asked for as it is, it would lead out of the mount.
            raise SecretUnavailable(f"{path!r} is not the path of a secret. Correct the configuration.")
        if not env.vault_addr:
            raise SecretUnavailable(
                f"The secret {path} cannot be read: no secret server is configured. "
                "Set SLIPWAY_VAULT_ADDR and its AppRole."
            )
        try:
            try:
                return self._wrapped(path, self._signed_in())
            except (refusals.Forbidden, refusals.Unauthorized):
                # Our token may have been revoked or have ended early: once more with a new one.
                return self._wrapped(path, self._signed_in(anew=True))
        except _SignInRefused:
            raise SecretUnavailable(
                f"The secret {path} cannot be read: the secret server does not accept Slipway's AppRole. "
                "Check SLIPWAY_VAULT_ROLE_ID and SLIPWAY_VAULT_SECRET_ID."
            ) from None
        except (refusals.Forbidden, refusals.Unauthorized):
            raise SecretUnavailable(
                f"The secret server does not let Slipway read {path}. Add it to the policy of its AppRole."
            ) from None
        except refusals.InvalidPath:
            raise SecretUnavailable(
                f"There is no secret {path} under {env.vault_mount}/. Write it there, or correct the path."
            ) from None
        except refusals.VaultDown:
            raise SecretUnavailable(
                f"The secret {path} cannot be read: the secret server is sealed. Unseal it, then try again."
            ) from None
        except refusals.VaultError as error:
            raise SecretUnavailable(
                f"The secret {path} cannot be read: the secret server answered {type(error).__name__}."
            ) from None
        except requests.RequestException as error:
            raise SecretUnavailable(
                f"The secret {path} cannot be read: the secret server at {env.vault_addr} does not answer "
                f"({type(error).__name__})."
            ) from None

    def _wrapped(self, path: str, token: str) -> str:
        asked = f"{settings.SLIPWAY.vault_mount}/data/{path}"
        answer = self._client(token).read(  # type: ignore[no-untyped-call]
            asked, wrap_ttl=f"{WRAP_SECONDS}s"
        )
        wrapping: Any = (answer or {}).get("wrap_info") or {}
        if not wrapping.get("token"):
            raise refusals.InvalidPath
        if wrapping.get("creation_path") != asked:
            raise SecretUnavailable(
                f"The secret {path} cannot be read: the secret server wrapped something else. "
                "Check SLIPWAY_VAULT_MOUNT."
            )
        return str(wrapping["token"])

    def _signed_in(self, *, anew: bool = False) -> str:
        """Our own token; a new one where there is none or it ends soon."""
        with self._lock:
            if anew or time.monotonic() >= self._good_until:
                env = settings.SLIPWAY
                try:
                    answer = self._client().auth.approle.login(
                        role_id=env.vault_role_id, secret_id=env.vault_secret_id, use_token=False
                    )
                except (refusals.InvalidRequest, refusals.Forbidden, refusals.Unauthorized):
                    raise _SignInRefused from None
                self._token = str(answer["auth"]["client_token"])
                seconds = int(answer["auth"]["lease_duration"]) or 3600
                self._good_until = time.monotonic() + max(seconds - RENEW_BEFORE_SECONDS, seconds / 2)
            return self._token

    def _client(self, token: str = "") -> hvac.Client:
        return hvac.Client(  # type: ignore[no-untyped-call]
            url=settings.SLIPWAY.vault_addr,
            token=token,
            timeout=TIMEOUT_SECONDS,
            # A redirect would carry the token to another host.
            allow_redirects=False,
        )
