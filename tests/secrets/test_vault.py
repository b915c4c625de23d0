"""Against a real secret server."""

import dataclasses
import logging

import pytest
from hvac import exceptions

from deployments.errors import SecretUnavailable
from deployments.secrets.vault import WRAP_SECONDS, Vault

pytestmark = pytest.mark.needs("openbao")
PATH = "shop/orders/db"


def test_a_lease_stands_for_the_secret_once(configured):
    token = Vault().lease(PATH)
    assert configured.unwrap(token) == {"password": "s3cret-of-the-database", "user": "orders"}
    with pytest.raises(exceptions.InvalidRequest):
        configured.unwrap(token)


def test_a_lease_lasts_two_minutes(configured):
    token = Vault().lease(PATH)
    info = configured.root.write("sys/wrapping/lookup", token=token)["data"]
    assert info["creation_ttl"] == WRAP_SECONDS == 120
    assert info["creation_path"] == f"secret/data/{PATH}"


def test_slipway_itself_never_has_the_value(configured, caplog):
    """Neither what is returned nor what is logged on the way holds it."""
    caplog.set_level(logging.DEBUG)
    vault = Vault()
    token = vault.lease(PATH)
    assert "s3cret" not in token
    assert "s3cret" not in caplog.text
    assert token not in caplog.text
    assert vault._token not in caplog.text


def test_the_sign_in_is_kept(configured, settings):
    vault = Vault()
    vault.lease(PATH)
    # A secret id that is wrong from now on is not asked for again.
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, vault_secret_id="wrong")
    vault.lease(PATH)


def test_a_revoked_sign_in_is_made_anew(configured):
    vault = Vault()
    vault.lease(PATH)
    configured.root.auth.token.revoke(vault._token)
    assert configured.unwrap(vault.lease(PATH))["user"] == "orders"


def test_an_ending_sign_in_is_made_anew_in_time(configured):
    vault = Vault()
    vault.lease(PATH)
    first = vault._token
    vault._good_until = 0
    vault.lease(PATH)
    assert vault._token != first


@pytest.mark.parametrize(
    "path",
    [
        "../../auth/token/lookup-self",
        "shop/../other/bills/db",
        "./shop",
        "/shop",
        "shop/",
        "shop//db",
        "",
        "a\n",
    ],
)
def test_only_a_plain_path_is_asked_for(configured, monkeypatch, path):
    monkeypatch.setattr(Vault, "_wrapped", lambda *_: pytest.fail("the secret server was asked"))
    assert "is not the path of a secret" in refusal(path)


def test_a_token_that_stands_for_something_else_is_not_handed_out(configured, monkeypatch):
    """Were a path to get through, Vault itself says what it wrapped."""
    monkeypatch.setattr("deployments.secrets.vault.is_secret_path", lambda _: True)
    assert "wrapped something else" in refusal("../../auth/token/lookup-self")


def refusal(path: str = PATH) -> str:
    with pytest.raises(SecretUnavailable) as refused:
        Vault().lease(path)
    return refused.value.message


def test_a_secret_that_is_not_there_is_said_so(configured):
    assert refusal("shop/orders/nothing").startswith("There is no secret shop/orders/nothing under secret/")


def test_a_secret_outside_the_policy_is_said_so(configured):
    assert "does not let Slipway read other/bills/db" in refusal("other/bills/db")


def test_wrong_credentials_are_said_so_without_naming_them(configured, settings):
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, vault_secret_id="wrong-secret-id")
    message = refusal()
    assert PATH in message
    assert "Check SLIPWAY_VAULT_ROLE_ID" in message
    assert "wrong-secret-id" not in message


def test_a_secret_server_that_does_not_answer_is_said_so(configured, settings):
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, vault_addr="http://127.0.0.1:9")
    message = refusal()
    assert PATH in message
    assert "http://127.0.0.1:9 does not answer" in message


def test_no_secret_server_is_said_so(settings):
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, vault_addr="")
    assert "Set SLIPWAY_VAULT_ADDR" in refusal()
