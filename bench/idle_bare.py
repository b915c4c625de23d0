"""The least that Channels can do for connected agents: greet them by the protocol, count what comes."""

# Channels has no annotations.
# mypy: disable-error-code="no-untyped-call"

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")

import django

django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402

from deployments import protocol  # noqa: E402

HEARTBEAT_SECONDS = 10
CHALLENGE = protocol.encode(protocol.Challenge(nonce="bench"))
WELCOME = protocol.encode(protocol.Welcome(heartbeat_seconds=HEARTBEAT_SECONDS))


class Counter(AsyncWebsocketConsumer):
    frames = 0

    async def connect(self) -> None:
        await self.accept()
        await self.send(CHALLENGE)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        self.frames += 1
        if self.frames == 1:
            await self.send(WELCOME)


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await Counter.as_asgi()(scope, receive, send)
