"""The comparison of `bench.fanout`: the same events through Channels' groups, one `group_send` an event."""

import asyncio
import json
import os
from typing import Any
from uuid import UUID

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
get_asgi_application()

from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.layers import channel_layers, get_channel_layer  # noqa: E402
from channels.routing import URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.urls import path  # noqa: E402

from deployments import events  # noqa: E402
from portal.live import history  # noqa: E402
from portal.live.database import Database  # noqa: E402
from portal.live.relay import Relay  # noqa: E402

# A larger capacity than the default of 100: what does not fit is lost.
settings.CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 100_000}}
}
channel_layers.backends = {}
last: dict[UUID, int] = {}


class Consumer(AsyncWebsocketConsumer):
    async def connect(self) -> None:
        rollout_id: UUID = self.scope["url_route"]["kwargs"]["rollout_id"]
        last.setdefault(rollout_id, int(self.scope["query_string"].decode().partition("after=")[2]))
        await self.channel_layer.group_add(f"rollout-{rollout_id}", self.channel_name)
        await self.accept()

    async def rollout_event(self, message: dict[str, Any]) -> None:
        await self.send(text_data=json.dumps({"events": [message["event"]]}))


class Listener:
    def __init__(self) -> None:
        self.wake = asyncio.Event()
        self.database = Database()

    def notified(self, channel: str, payload: str) -> None:
        self.wake.set()

    def look_at_everything(self) -> None:
        self.wake.set()

    async def run(self) -> None:
        layer = get_channel_layer()
        assert layer is not None
        while True:
            await self.wake.wait()
            self.wake.clear()
            for rollout_id, found in (await self.database.run(history.events_after, dict(last))).items():
                for number, text in found:
                    last[rollout_id] = number
                    message = {"type": "rollout.event", "event": json.loads(text)}
                    await layer.group_send(f"rollout-{rollout_id}", message)


sockets = AuthMiddlewareStack(URLRouter([path("live/rollouts/<uuid:rollout_id>/", Consumer.as_asgi())]))
running: list[asyncio.Task[None]] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await sockets(scope, receive, send)
    elif scope["type"] == "lifespan":
        await receive()
        listener = Listener()
        running.append(asyncio.create_task(listener.run()))
        running.append(asyncio.create_task(Relay([events.CHANNEL], listener).run()))
        await send({"type": "lifespan.startup.complete"})
        await receive()
        for task in running:
            task.cancel()
        await send({"type": "lifespan.shutdown.complete"})
