"""A client for each person, and what a problem has to say."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import Client

from tests.fixtures import Person

API = "/api/v1"


class Api:
    """The REST API as one person uses it, signed in by session or, for a service account, by token."""

    def __init__(self, person: Person | None) -> None:
        self.client = Client(enforce_csrf_checks=False)
        self.headers: dict[str, str] = {}
        if person is not None and person.secret:
            self.headers["Authorization"] = f"Bearer {person.secret}"
        elif person is not None:
            self.client.force_login(person.user, backend="django.contrib.auth.backends.ModelBackend")

    def get(self, path: str, headers: Mapping[str, str] | None = None, **query: Any) -> HttpResponse:
        return self.client.get(API + path, query, headers={**self.headers, **(headers or {})})

    def post(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> HttpResponse:
        return self._send(self.client.post, path, body, headers)

    def patch(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> HttpResponse:
        return self._send(self.client.patch, path, body, headers)

    def delete(self, path: str) -> HttpResponse:
        return self.client.delete(API + path, headers=self.headers)

    def upload(
        self,
        content: bytes,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/gzip",
    ) -> HttpResponse:
        return self.client.post(
            f"{API}/artifacts",
            content,
            content_type=content_type,
            headers={**self.headers, **(headers or {})},
        )

    def _send(self, send: Any, path: str, body: Any, headers: Mapping[str, str] | None) -> HttpResponse:
        return send(
            API + path,
            body if body is not None else {},
            content_type="application/json",
            headers={**self.headers, **(headers or {})},
        )


ApiFor = Callable[[Person | None], Api]


@pytest.fixture
def api(db: None) -> ApiFor:
    return Api


def problem(response: HttpResponse, status: int, code: str) -> dict[str, Any]:
    """Check that `response` is this problem, told properly, and return it."""
    assert response.status_code == status, response.content
    assert response.headers["Content-Type"] == "application/problem+json"
    body = response.json()
    assert body["type"] == f"/problems/{code}", body
    assert body["status"] == status
    assert body["title"]
    assert len(body["detail"]) > 10
    return body


def created(response: HttpResponse) -> dict[str, Any]:
    assert response.status_code == 201, response.content
    return response.json()


def results(response: HttpResponse) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.content
    return response.json()["results"]
