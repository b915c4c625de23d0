"""Where blocking work goes, so that the event loop never waits for a disk or a peer."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

FILE_THREADS = 4
NETWORK_THREADS = 8

stopping = threading.Event()
"""Set when the agent exits; long file work looks at it between chunks."""

_files = ThreadPoolExecutor(FILE_THREADS, thread_name_prefix="files")
_network = asyncio.Semaphore(NETWORK_THREADS)


async def on_disk(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run file work in the small pool; the caller's cancellation does not interrupt what has begun."""
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_files, lambda: context.run(function, *args, **kwargs))


async def on_network(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking request in a thread that does not hold up the agent's exit."""
    async with _network:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def finish(result: T | None, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result: T | None = None
            failure: BaseException | None = None
            try:
                result = context.run(function, *args, **kwargs)
            except BaseException as error:  # handed to the caller, whatever it is
                failure = error
            with contextlib.suppress(RuntimeError):  # the agent has exited meanwhile
                loop.call_soon_threadsafe(finish, result, failure)

        threading.Thread(target=run, name="network", daemon=True).start()
        return await done


async def uninterrupted(work: Coroutine[object, object, T]) -> T:
    """Finish `work` however often the caller is cancelled meanwhile; the cancellation is raised after it."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # whoever cancelled does not wait for it
    raise cancelled
