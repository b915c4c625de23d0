"""One target: its releases, its process, and its turn, so that work on it goes one step after another."""

import asyncio
from collections.abc import Callable

from deployments import protocol
from deployments.agent.errors import failure_from
from deployments.agent.inspection import Inspection
from deployments.agent.options import Limits
from deployments.agent.releases import Releases
from deployments.agent.runtimes import registry
from deployments.agent.secrets import SecretSource
from deployments.agent.state import StateDir, digest_hex
from deployments.agent.store import MAX_REPORTED_FILES, Store, TreeFound
from deployments.agent.supervisor import Supervisor
from deployments.agent.work import on_disk, uninterrupted


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
        """Raises TaskFailure; whatever happens, nothing that serves has changed.

        What was changed by hand in the tree or the release is put right.
        """
        registry.load(spec.runtime)
        try:
            async with self._store.pinned(spec.artifact) as tree:
                # To its end also when it is cancelled: the next task here must not write beside it.
                await uninterrupted(on_disk(self.releases.write, spec, tree))
            await on_disk(self.releases.working_directory, spec)
            self._staged = spec.release_id
            await uninterrupted(self._prune())
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

    async def deactivate(self, task_id: str, attempt: int) -> None:
        """Raises TaskFailure."""
        try:
            await self.supervisor.clear(task_id, attempt)
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

    def at_rest(self) -> protocol.ReleaseSpec | None:
        """The release that is active, when nothing is being changed here; None otherwise."""
        spec = self.supervisor.spec
        if spec is None or self.turn.locked() or self._store.is_busy(digest_hex(spec.artifact.digest)):
            return None
        return spec

    def inspect(self, spec: protocol.ReleaseSpec, trees: dict[str, TreeFound]) -> Inspection:
        """Look at the disk; blocking. `trees` holds what was seen of shared trees in this round."""
        name = digest_hex(spec.artifact.digest)
        tree = trees.get(name)
        if tree is None:
            tree = trees[name] = self._store.inspect(name)
        found = self.releases.inspect(spec, self._store.tree(name))
        changed = tuple(dict.fromkeys((*tree.changed, *found.changed)))
        return Inspection(
            modified=changed[:MAX_REPORTED_FILES],
            current=self.releases.linked(),
            tree_digest=tree.digest,
            files_digest=found.files_digest,
        )

    def take(self, spec: protocol.ReleaseSpec, inspection: Inspection) -> bool:
        """Note what was seen, unless the target was changed meanwhile; whether it is news."""
        if self.at_rest() is not spec or inspection == self.supervisor.inspection:
            return False
        self.supervisor.inspection = inspection
        return True
