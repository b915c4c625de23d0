"""The REST API as the demo uses it: a few calls, and errors in the words of the server."""

import time
from collections.abc import Iterator
from typing import Any

import httpx

Json = dict[str, Any]


class Refused(Exception):
    """The control plane answered with a problem; its detail is the message."""


class Api:
    def __init__(self, url: str, token: str) -> None:
        self._client = httpx.Client(
            base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=30
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Json:
        return self._answer(self._client.get(path, params=query))

    def post(self, path: str, body: Json) -> Json:
        return self._answer(self._client.post(path, json=body))

    def upload(self, data: bytes, *, digest: str, filename: str) -> Json:
        headers = {
            "Content-Type": "application/gzip",
            "X-Slipway-Digest": digest,
            "X-Slipway-Filename": filename,
        }
        return self._answer(self._client.post("/artifacts", content=data, headers=headers))

    def all(self, path: str, **query: Any) -> Iterator[Json]:
        """Every row of a list, page after page."""
        page = self.get(path, **query)
        yield from page["results"]
        while page["next"]:
            page = self._answer(self._client.get(page["next"]))
            yield from page["results"]

    def wait_until_up(self, deadline_seconds: float) -> bool:
        """Whether the portal answers within the time."""
        until = time.monotonic() + deadline_seconds
        while time.monotonic() < until:
            try:
                if self._client.get("/me").is_success:
                    return True
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        return False

    @staticmethod
    def _answer(response: httpx.Response) -> Json:
        if not response.is_success:
            try:
                problem = response.json()
            except ValueError:
                problem = {}
            raise Refused(problem.get("detail") or f"{response.request.url} answered {response.status_code}")
        answer: Json = response.json()
        return answer
