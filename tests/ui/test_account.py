"""Log in, log out and the theme."""

import pytest
from django.test import Client

from tests.fixtures import PASSWORD, Login, Person


def test_logging_in_leads_back_to_the_page_that_was_asked_for(client: Client, owner: Person) -> None:
    response = client.post(
        "/login/?next=/agents/", {"username": "owner", "password": PASSWORD, "next": "/agents/"}
    )
    assert response["Location"] == "/agents/"


def test_a_wrong_password_is_refused_without_saying_which_was_wrong(client: Client, owner: Person) -> None:
    known = client.post("/login/", {"username": "owner", "password": "wrong"})
    unknown = client.post("/login/", {"username": "nobody", "password": "wrong"})
    assert known.status_code == unknown.status_code == 401
    assert "do not match" in known.content.decode()
    assert "do not match" in unknown.content.decode()


def test_logging_in_never_leads_to_another_host(client: Client, owner: Person) -> None:
    response = client.post(
        "/login/", {"username": "owner", "password": PASSWORD, "next": "https://evil.example/"}
    )
    assert response["Location"] == "/"


def test_logging_out_needs_a_post(login: Login, owner: Person) -> None:
    client = login(owner)
    assert client.get("/logout/").status_code == 405
    assert client.post("/logout/").status_code == 302
    assert client.get("/").status_code == 302


@pytest.mark.parametrize("theme", ["light", "dark", "system"])
def test_the_theme_is_rendered_by_the_server(client: Client, db: None, theme: str) -> None:
    response = client.post("/theme/", {"theme": theme, "next": "/login/"})
    assert response["Location"] == "/login/"
    assert f'data-theme="{theme}"' in client.get("/login/").content.decode()


def test_an_unknown_theme_and_a_foreign_address_are_ignored(client: Client, db: None) -> None:
    response = client.post("/theme/", {"theme": '"><script>', "next": "//evil.example/"})
    assert response["Location"] == "/"
    assert "slipway_theme" not in response.cookies
    client.cookies["slipway_theme"] = "purple"
    assert 'data-theme="system"' in client.get("/login/").content.decode()
