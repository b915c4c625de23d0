"""The sockets' own way to the database: a few threads, each with a connection that stays open.

The event loop never waits for PostgreSQL, and the sockets do not stand in line behind pages: Django's
own `sync_to_async` runs everything in one thread.
"""

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import structlog
from django.db import InterfaceError, OperationalError, connections

P = ParamSpec("P")
T = TypeVar("T")

logger = structlog.get_logger(__name__)

THREADS = 4


class Database:
    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="live-db")

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in one of the threads. It may be called twice, when its connection was lost."""
        call = functools.partial(_with_connection, functools.partial(function, *args, **kwargs))
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def close(self) -> None:
        """Finish what is under way and close the connections."""
        for _ in range(THREADS):
            self._threads.submit(connections.close_all)
        self._threads.shutdown(wait=True)


def _with_connection(call: Callable[[], T]) -> T:
    try:
        return call()
    except (OperationalError, InterfaceError) as error:
        connections.close_all()
        if not _was_lost(error):
            raise
        logger.warning("live.database_lost", error=str(error))
        return call()


def _was_lost(error: Exception) -> bool:
    """Whether the server went away, and not only refused this statement (a lock, a timeout)."""
    cause = error.__cause__
    state = getattr(cause, "sqlstate", None)
    return state is None or state.startswith(("08", "57P"))
