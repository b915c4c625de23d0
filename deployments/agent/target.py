"""One target: its releases, its process, and its turn, so that work on it goes one step after another."""

import asyncio
from collections.abc import Callable

from deployments import protocol
from deployments.agent.errors import failure_from
from deployments.agent.options import Limits
from deployments.agent.releases import Releases
from deployments.agent.runtimes import registry
from deployments.agent.secrets import SecretSource
from deployments.agent.state import StateDir
from deployments.agent.store import Store
from deployments.agent.supervisor import Supervisor
from deployments.agent.work import on_disk


class Target:
    def __init__(
        self,
        target_id: str,
        state: StateDir,
        store: Store,
        secrets: SecretSource,
        limits: Limits,
        on_change: Callable[[str], None],
    ) -> None:
        self.target_id = target_id
        self.turn = asyncio.Lock()
        self._store = store
        self._limits = limits
        home = state.targets / target_id
        self.releases = Releases(home, state.trees, store.in_use)
        self.supervisor = Supervisor(target_id, home, self.releases, secrets, on_change)
        self._previous = ""
        self._staged = ""

    def load(self) -> None:
        """Make its directory, or read what is there; raises OSError."""
        self.releases.load()

    async def stage(self, spec: protocol.ReleaseSpec) -> None:
        """Raises TaskFailure; whatever happens, nothing that serves has changed."""
        registry.load(spec.runtime)
        try:
            async with self._store.pinned(spec.artifact) as tree:
                await on_disk(self.releases.write, spec, tree)
            await on_disk(self.releases.working_directory, spec)
            self._staged = spec.release_id
            await self._prune()
        except Exception as error:
            raise failure_from(error, "staging the release") from error

    async def activate(self, spec: protocol.ReleaseSpec, task_id: str, attempt: int) -> None:
        """Raises TaskFailure. Resumes where an earlier agent was interrupted in the same task."""
        await self.stage(spec)
        supervisor = self.supervisor
        started = supervisor.started_by(task_id, attempt)
        if started is None:
            before = supervisor.release_id
            try:
                started = await supervisor.replace(spec, task_id, attempt)
            except Exception as error:
                raise failure_from(error, "switching to the release") from error
            finally:
                if before != supervisor.release_id:
                    self._previous = before
            await on_disk(self.releases.touch, spec.release_id)
        await supervisor.verdict(started)

    async def deactivate(self) -> None:
        """Raises TaskFailure."""
        try:
            await self.supervisor.clear()
        except Exception as error:
            raise failure_from(error, "stopping the service") from error

    async def failed_tail(self, release_id: str) -> tuple[str, ...]:
        """The last lines of the service, when it is that release which runs (or ran, and crashed)."""
        if self.supervisor.release_id != release_id:
            return ()
        return await self.supervisor.log_tail()

    async def _prune(self) -> None:
        needed = {self.supervisor.release_id, self.releases.current(), self._previous, self._staged}
        if await on_disk(self.releases.prune, self._limits.releases_kept, needed):
            await self._store.evict()

    async def check_files(self) -> bool:
        """Compare the active release with what was unpacked; whether the answer is another than before."""
        spec = self.releases.spec(self.supervisor.release_id) if self.supervisor.release_id else None
        modified: tuple[str, ...] = ()
        if spec is not None:
            digest = spec.artifact.digest.removeprefix("sha256:")
            changed = await on_disk(self._store.changed_files, digest)
            modified = (*changed, *await on_disk(self.releases.changed_files, spec.release_id))[:10]
        different = modified != self.supervisor.modified
        self.supervisor.modified = modified
        return different
