"""`slipway-agent`: read the options, take the state directory, enrol once, serve until told to stop."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from deployments.agent import __version__, logs, work
from deployments.agent.agent import Agent
from deployments.agent.enrol import ensure_enrolled
from deployments.agent.errors import CannotStart
from deployments.agent.options import Options, parse
from deployments.agent.state import StateDir

log = logging.getLogger("slipway.agent")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after SIGTERM or SIGINT, 2 when the agent cannot start as it was told to."""
    os.umask(0o077)
    state: StateDir | None = None
    try:
        options = parse(argv)
        logs.configure(json_lines=options.json_logs or not sys.stderr.isatty())
        state = StateDir(options.state_dir)
        state.open()
        asyncio.run(_serve(options, state))
    except CannotStart as error:
        sys.stderr.write(f"slipway-agent: {error}\n")
        return 2
    finally:
        if state is not None:
            state.close()
    return 0


async def _serve(options: Options, state: StateDir) -> None:
    log.info("slipway-agent %s starts, process %d", __version__, os.getpid())
    loop = asyncio.get_running_loop()
    work_task = asyncio.current_task()
    assert work_task is not None
    told = False

    def stop(name: str) -> None:
        nonlocal told
        if not told:  # a second signal must not interrupt the orderly end
            told = True
            log.info("%s: stopping", name)
            work.stopping.set()
            work_task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number.name)
    try:
        identity = await ensure_enrolled(options, state)
        await Agent(options, state, identity).run()
    except asyncio.CancelledError:
        if not told:
            raise
        work_task.uncancel()
