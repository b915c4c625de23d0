"""Plain processes: each in a session of its own, so that it outlives the agent; output appended to a file."""

import os

from deployments.agent import children
from deployments.agent.children import Child, Exit
from deployments.agent.errors import disk_full, is_disk_full
from deployments.agent.runtimes.base import Found, Instance, Launch
from deployments.agent.work import on_disk

TOKEN = "SLIPWAY_START_TOKEN"  # noqa: S105 -- the name of a variable


class ProcessInstance:
    def __init__(self, child: Child) -> None:
        self._child = child
        self.found = Found(child.pid, children.start_ticks(child.pid), children.boot_id())

    @property
    def pid(self) -> int:
        return self._child.pid

    async def wait(self) -> Exit:
        return await self._child.wait()

    async def stop(self, seconds: float) -> Exit:
        return await self._child.stop(seconds)

    def forget(self) -> None:
        self._child.forget()


class ProcessRuntime:
    def check(self, launch: Launch) -> None:
        children.check_command(launch.spec.process.command, launch.cwd, launch.env)

    async def start(self, launch: Launch) -> Instance:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            output = os.open(launch.log_path, flags, 0o600)
        except OSError as error:
            if is_disk_full(error):
                raise disk_full("opening the service's log") from None
            raise
        try:
            env = {**launch.env, TOKEN: launch.token}
            return ProcessInstance(
                children.spawn(launch.spec.process.command, cwd=launch.cwd, env=env, output=output)
            )
        finally:
            os.close(output)

    async def adopt(self, found: Found, token: str) -> Instance | None:
        if not found.pid:
            # The earlier agent was killed between starting the process and writing down its id.
            pid = await on_disk(children.find_by_environment, TOKEN, token) if token else 0
            child = children.adopt(pid, children.start_ticks(pid)) if pid else None
        elif found.boot_id == children.boot_id():
            child = children.adopt(found.pid, found.ticks)
        else:
            child = None
        return None if child is None else ProcessInstance(child)
