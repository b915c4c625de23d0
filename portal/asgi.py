"""Pages, REST and both kinds of socket in one ASGI application.

    uvicorn portal.asgi:application --ws websockets-sansio --ws-per-message-deflate false \\
        --ws-max-size 524288 --ws-ping-interval 45 --timeout-graceful-shutdown 2

Compression is off because it would be done once for each socket, where the fan-out encodes once for all;
a frame may have twice `protocol.MAX_FRAME_BYTES`, which leaves room to answer one that is too large, where
uvicorn would take 16 MiB of anybody; the shutdown has a limit because a peer that no longer reads would
hold it up.
"""

import gc
import os
from collections.abc import Awaitable, Callable
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
os.environ.setdefault("SLIPWAY_PROCESS", "web")
django = get_asgi_application()

# After Django is set up: these import models.
from django.urls import get_resolver  # noqa: E402

from portal.api.limits import bounded  # noqa: E402
from portal.live import process  # noqa: E402
from portal.live.routing import websockets  # noqa: E402

pages = bounded(django)  # type: ignore[arg-type]  # ASGI's types differ in name only

COLLECT_AFTER = 50_000, 20, 20
"""Objects and collections, where Python has 700, 10, 10: nearly all that a message leaves goes by itself."""

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    match scope["type"]:
        case "http":
            await pages(scope, receive, send)  # type: ignore[arg-type]  # ASGI's types differ in name only
        case "websocket":
            await websockets(scope, receive, send)
        case "lifespan":
            await lifespan(receive, send)


def settle() -> None:
    """Load what the first request would, and take all of it out of the garbage collector's sight.

    It would look through some 400,000 objects that never go, every few requests, for 60 ms; and with each
    second's lot of heartbeats through what ten thousand connections hold, a third of all that they cost.
    """
    _ = get_resolver().url_patterns
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def lifespan(receive: Receive, send: Send) -> None:
    """Start listening before the first socket comes, and stop after the last has gone."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            process.current()
            settle()
            await send({"type": "lifespan.startup.complete"})
        else:
            await process.stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
