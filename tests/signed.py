"""Requests as an agent signs them."""

import time
from typing import Any

import nacl.signing
from django.http import HttpResponse
from django.test import Client

from deployments import protocol
from deployments.models import Agent


def authorization(
    agent_id: str, key: nacl.signing.SigningKey, method: str, path: str, at: float | None = None
) -> str:
    timestamp = str(int(at if at is not None else time.time()))
    signature = key.sign(protocol.request_bytes(method, path, timestamp, agent_id)).signature
    return protocol.authorization_header(agent_id, timestamp, signature)


class AgentClient:
    """An agent's HTTP, with its own key."""

    def __init__(self, agent: Agent, key: nacl.signing.SigningKey) -> None:
        self.agent, self.key = agent, key
        self.client = Client(enforce_csrf_checks=True)

    def get(self, path: str, headers: dict[str, str] | None = None) -> HttpResponse:
        signed = {"Authorization": authorization(str(self.agent.pk), self.key, "GET", path)}
        return self.client.get(path, headers={**signed, **(headers or {})})

    def post(self, path: str, body: Any = None) -> HttpResponse:
        signed = {"Authorization": authorization(str(self.agent.pk), self.key, "POST", path)}
        return self.client.post(path, body or {}, content_type="application/json", headers=signed)
