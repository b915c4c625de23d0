"""Browsers' sockets: a rollout's events, a target's output, and what the overview should look at again.

`/live/rollouts/ID/?after=N` and `/live/targets/ID/?after=N` send everything after number N and then what
comes; `/live/overview/` sends what changes from now on. Codes that end a socket: 4401 not signed in (any
more), 4403 no longer allowed, 4404 not found or not yours, 4408 too slow a reader, 1012 restart. After
1012, 4408 and a lost connection the browser comes back with its last number.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs
from uuid import UUID

from channels.consumer import AsyncConsumer

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound
from deployments.models import Rollout, Target
from portal.live.feeds import Feeds
from portal.live.outlet import NOT_FOUND, NOT_SIGNED_IN, Outlet
from portal.live.overview import Onlooker
from portal.live.process import WebProcess, current
from portal.live.viewers import OpenSocket, Viewer, teams_of, viewer_of

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class BrowserConsumer(AsyncConsumer):
    """Accepts, lets the subclass serve, and cleans up.

    Channels' own dispatch is left out: it makes a task for each message and visits a thread to close
    database connections, of which these sockets have none.
    """

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.scope, self.send_message = scope, send
        outlet = Outlet(send)
        try:
            viewer = viewer_of(scope)
            if viewer is None:
                outlet.close(NOT_SIGNED_IN)
                await _until_closed(receive)
            else:
                await self.serve(current(), viewer, outlet, receive)
        except OSError:
            return
        except asyncio.CancelledError:
            if not outlet.close_code:
                raise
        finally:
            outlet.abandon()

    async def serve(self, process: WebProcess, viewer: Viewer, outlet: Outlet, receive: Receive) -> None:
        raise NotImplementedError

    async def send_text(self, text: str) -> None:
        await self.send_message({"type": "websocket.send", "text": text})


class FeedConsumer(BrowserConsumer):
    """Serves one numbered stream of one object."""

    def find(self, actor: Actor, subject_id: UUID) -> Rollout | Target:
        """The object, where `actor` may watch it; raises NotFound, NotAllowed."""
        raise NotImplementedError

    def feeds(self, process: WebProcess) -> Feeds:
        raise NotImplementedError

    async def serve(self, process: WebProcess, viewer: Viewer, outlet: Outlet, receive: Receive) -> None:
        subject_id: UUID = self.scope["url_route"]["kwargs"]["subject_id"]
        try:
            subject = await process.database.run(self.find, viewer.actor, subject_id)
        except (NotFound, NotAllowed):
            outlet.close(NOT_FOUND)
            await _until_closed(receive)
            return
        feeds, opened = self.feeds(process), OpenSocket(viewer, outlet, subject)
        process.guard.sockets.add(opened)
        try:
            watcher = await feeds.join(subject_id, outlet, _after(self.scope), self.send_text)
            try:
                await _until_closed(receive)
            finally:
                feeds.leave(subject_id, watcher)
        finally:
            process.guard.sockets.discard(opened)


class RolloutConsumer(FeedConsumer):
    def find(self, actor: Actor, subject_id: UUID) -> Rollout:
        rollouts = Rollout.objects.select_related("service")
        return access.get(actor, "rollout.view", rollouts, pk=subject_id)

    def feeds(self, process: WebProcess) -> Feeds:
        return process.hub.rollouts


class TargetConsumer(FeedConsumer):
    def find(self, actor: Actor, subject_id: UUID) -> Target:
        return access.get(actor, "target.view", Target.objects.select_related("service"), pk=subject_id)

    def feeds(self, process: WebProcess) -> Feeds:
        return process.hub.targets


class OverviewConsumer(BrowserConsumer):
    async def serve(self, process: WebProcess, viewer: Viewer, outlet: Outlet, receive: Receive) -> None:
        onlooker = Onlooker(outlet, await process.database.run(teams_of, viewer.actor))

        def sees_now(teams: frozenset[UUID] | None) -> None:
            onlooker.teams = teams

        opened = OpenSocket(viewer, outlet, None, sees_now)
        process.guard.sockets.add(opened)
        process.hub.overview.onlookers.add(onlooker)
        try:
            await _until_closed(receive)
        finally:
            process.hub.overview.onlookers.discard(onlooker)
            process.guard.sockets.discard(opened)


class UnknownConsumer(AsyncConsumer):
    """A path that nothing answers on."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": NOT_FOUND})


async def _until_closed(receive: Receive) -> None:
    """Browsers have nothing to say here: what they send is not read, only that they are gone."""
    while (await receive())["type"] != "websocket.disconnect":
        pass


def _after(scope: dict[str, Any]) -> int:
    """The last number that the browser says it has; what is no number counts as none."""
    text = parse_qs(scope["query_string"].decode("latin-1")).get("after", ["0"])[0]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
