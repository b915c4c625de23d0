"""Configurations, filled in for one target."""

from typing import Any

import pytest

from deployments.domain import config
from deployments.errors import Invalid

BASE: dict[str, Any] = {"process": {"command": ["run"]}}


def resolve(**fields: Any) -> config.ResolvedConfig:
    return config.resolve(BASE | fields, {}, {"target.port": "9001", "version": "v" * 1000})


@pytest.mark.parametrize("port", [0, 65535, "8080", "${target.port}"])
def test_a_port_is_a_number(port: int | str) -> None:
    assert 0 <= resolve(health={"port": port}).health.port <= 65535


@pytest.mark.parametrize(
    "port", ["²", "8\N{ARABIC-INDIC DIGIT ZERO}", -1, 65536, "", "9" * 5000, "${version}"]
)
def test_another_port_is_refused(port: int | str) -> None:
    with pytest.raises(Invalid, match="a number from 0 to 65535"):
        resolve(health={"port": port})


def test_what_is_too_large_to_send_once_filled_in_is_refused() -> None:
    """What is written is short: the placeholders make it long."""
    assert len(resolve(env={"A": "${version}" * 97}).env["A"]) == 97_000
    with pytest.raises(Invalid, match=r"have 100[0-9]{3} bytes, filled in, of at most 98304"):
        resolve(env={"A": "${version}" * 50}, files={"a": "${version}" * 50})
    with pytest.raises(Invalid, match="Shorten them"):
        resolve(process={"command": ["run", "ü" * 50_000]})


@pytest.mark.parametrize("path", ["shop", "shop/orders/db", "a.b/_c/-d", "0"])
def test_a_plain_path_is_that_of_a_secret(path: str) -> None:
    assert config.is_secret_path(path)


@pytest.mark.parametrize(
    "path", ["", "..", "../a", "a/..", "a/../b", ".", "a/./b", "/a", "a/", "a//b", "a\n", "a b"]
)
def test_a_path_that_may_lead_elsewhere_is_not(path: str) -> None:
    assert not config.is_secret_path(path)
    assert list(config.secret_refs({"A": f"${{secret:vault:{path}#key}}"})) == []
