"""The pages of the manual keep up with the program."""

import re
from pathlib import Path

import pytest

from deployments import access
from portal.api.problems import kinds
from tests.api.test_openapi import routes

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def api_page() -> str:
    return (DOCS / "api.md").read_text()


def test_every_address_is_described(api_page):
    named = set(re.findall(r"`(/[a-z-]+[^`\s]*)`", api_page))
    assert {path.removeprefix("/api/v1") for path in routes()} <= named


@pytest.mark.parametrize("code", list(kinds()))
def test_every_problem_stands_in_the_row_of_its_status(api_page, code):
    row = next(line for line in api_page.splitlines() if line.startswith("|") and f"`{code}`" in line)
    assert str(kinds()[code].status) in row.split("|")[1]


def test_every_permission_is_described():
    page = (DOCS / "permissions.md").read_text()
    verbs = set(access.VERBS) | access.ORGANISATION_VERBS | access.SIGNED_IN_VERBS
    assert set(re.findall(r"`([a-z]+\.[a-z]+)`", page)) == verbs


def test_the_table_of_roles_is_what_the_program_does():
    page = (DOCS / "permissions.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]
    described: dict[str, set[str]] = {}
    for row in rows:
        _, verbs, *marks, _ = row.split("|")
        holders = {
            role for role, mark in zip(("viewer", "deployer", "owner"), marks, strict=True) if "yes" in mark
        }
        described |= dict.fromkeys(re.findall(r"`([a-z.]+)`", verbs), holders)
    decided = {
        verb: {role for role, held in access.ROLES.items() if permission in held}
        for verb, permission in access.VERBS.items()
    }
    assert described == decided
