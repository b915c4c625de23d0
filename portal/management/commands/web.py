"""`manage.py web`: pages, REST and both kinds of socket, served by uvicorn."""

from typing import Any

import uvicorn
from django.core.management.base import BaseCommand, CommandParser

from deployments import protocol


class Command(BaseCommand):
    help = "Serve pages, REST and websockets."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
        parser.add_argument("--port", type=int, default=8000, help="port (default %(default)s)")
        parser.add_argument("--processes", type=int, default=1, help="processes (default %(default)s)")

    def handle(self, *_args: Any, **options: Any) -> None:
        uvicorn.run(
            "portal.asgi:application",
            host=options["host"],
            port=options["port"],
            workers=options["processes"],
            # The faster of uvicorn's websocket implementations, and the one that is maintained.
            ws="websockets-sansio",
            # Compression would be done for each socket, where the fan-out encodes once for all of them.
            ws_per_message_deflate=False,
            # Room to answer a frame that is too large, and not uvicorn's 16 MiB for whoever connects.
            ws_max_size=2 * protocol.MAX_FRAME_BYTES,
            # Within the minute after which proxies end a silent connection. Agents say heartbeats and ask for
            # themselves; for ten thousand of them each ping costs as much as a heartbeat.
            ws_ping_interval=45.0,
            # The application listens to the database from its start to its end.
            lifespan="on",
            log_config=None,
            access_log=False,
            # A peer that no longer reads must not hold up the end.
            timeout_graceful_shutdown=2,
        )
