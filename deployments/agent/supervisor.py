"""What runs on one target: started, watched, restarted, adopted, replaced, stopped.

`process.json` is the truth about what should run: it is written before the link `current` and before the
process, so that an agent that is killed at any point finds out at its next start where it was.
"""

import asyncio
import contextlib
import logging
import secrets as random_names
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from deployments import protocol
from deployments.agent import children, logfile, logs
from deployments.agent.backoff import Backoff
from deployments.agent.children import Exit
from deployments.agent.errors import TaskFailure, failure_from
from deployments.agent.health.base import Subject
from deployments.agent.health.monitor import Monitor
from deployments.agent.inspection import Inspection
from deployments.agent.record import Record, read
from deployments.agent.releases import CONFIG, Releases
from deployments.agent.runtimes import registry
from deployments.agent.runtimes.base import Found, Instance, Launch
from deployments.agent.secrets import SecretSource, values_within
from deployments.agent.state import prepare, write_atomic
from deployments.agent.work import on_disk, uninterrupted

log = logging.getLogger("slipway.agent.supervisor")

RESTART_FIRST_SECONDS = 0.5
RESTART_LAST_SECONDS = 30.0
STABLE_SECONDS = 60.0
"""A service that has run so long starts its backoff anew when it crashes."""


@dataclass(frozen=True)
class Started:
    """One start of a service: what runs and who watches it, whatever has become of it since."""

    instance: Instance
    monitor: Monitor


class Supervisor:
    """The one owner of a target's process."""

    def __init__(
        self,
        target_id: str,
        home: Path,
        releases: Releases,
        secrets: SecretSource,
        on_change: Callable[[str], None],
    ) -> None:
        self.target_id = target_id
        self.home = home
        self.releases = releases
        self.log_path = home / "service.log"
        self.inspection = Inspection()
        """What lies on the disk, as last seen."""
        self.secret_values: tuple[str, ...] = ()
        self._secrets = secrets
        self._on_change = on_change
        self._record_path = home / "process.json"
        self._record: Record | None = None
        self._unsaved = False
        self._spec: protocol.ReleaseSpec | None = None
        self._env: dict[str, str] | None = None
        """The release's environment with its secrets; None when they must be asked for (again)."""
        self._instance: Instance | None = None
        self._monitor: Monitor | None = None
        self._monitor_task: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._idle: Literal["empty", "stopped", "crashed", "starting"] = "empty"
        self._switching: tuple[str, int] = ("", 0)
        """Task and attempt of the last switch that began."""

    # What is known.

    @property
    def release_id(self) -> str:
        return self._record.release_id if self._record else ""

    @property
    def spec(self) -> protocol.ReleaseSpec | None:
        """Of what runs, or should."""
        return self._spec

    def has_begun(self, task_id: str, attempt: int) -> bool:
        """Whether that task has come to the point from which it must run to its end."""
        record = self._record
        switched = (record.task_id, record.attempt) if record else ("", 0)
        return (task_id, attempt) in (self._switching, switched)

    def report(self) -> protocol.TargetReport:
        record, instance, spec, seen = self._record, self._instance, self._spec, self.inspection
        health = self._monitor.health if self._monitor and instance else "unknown"
        status: Literal["empty", "starting", "running", "stopped", "crashed"] = self._idle
        if instance is not None:
            comes_up = self._idle in ("starting", "crashed") and health == "unknown"
            status = "starting" if comes_up else "running"
        elif status == "crashed":
            health = "unhealthy"
        return protocol.TargetReport(
            target_id=self.target_id,
            status=status,
            health=health,
            release_id=record.release_id if record else "",
            artifact_digest=spec.artifact.digest if spec else "",
            config_digest=spec.config_digest if spec else "",
            pid=instance.pid if instance else 0,
            started_at=record.started_at if record and instance else 0.0,
            restarts=record.restarts if record else 0,
            ended=record.ended if record else "",
            ended_at=record.ended_at if record else 0.0,
            modified=seen.modified,
            current=seen.current,
            tree_digest=seen.tree_digest,
            files_digest=seen.files_digest,
        )

    def started_by(self, task_id: str, attempt: int) -> Started | None:
        """What runs, when this very task has already started it: it was interrupted later than that."""
        record = self._record
        if self._instance is None or self._monitor is None or record is None:
            return None
        if (record.task_id, record.attempt) != (task_id, attempt):
            return None
        return Started(self._instance, self._monitor)

    async def log_tail(self) -> tuple[str, ...]:
        start = self._record.log_start if self._record else 0
        return await on_disk(logfile.tail, self.log_path, start, self.secret_values)

    # Starting again after the agent.

    async def recover(self) -> None:
        """Adopt what an earlier agent started, or start what should run and does not."""
        try:
            self._record = record = await on_disk(read, self._record_path)
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            log.error("%s cannot be read; the target counts as empty", self._record_path)
            return
        self._spec = await on_disk(self.releases.spec, record.release_id)
        if self._spec is None:
            self._idle = "crashed"
            log.error("Release %s is not staged any more; activate it again", record.release_id)
            return
        if self.releases.current() != record.release_id:
            self.releases.switch(self.releases.prepare_switch(record.release_id))
        self._instance = await registry.load(self._spec.runtime).adopt(record.found, record.token)
        if self._instance is None:
            self._idle = "crashed"
        else:
            log.info("Adopted process %d of target %s", self._instance.pid, self.target_id)
            self._record = msgspec.structs.replace(record, found=self._instance.found)
            self._watch_adopted(self._spec, self._instance.pid)
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.target_id}")

    # Changing what runs.

    async def replace(self, spec: protocol.ReleaseSpec, task_id: str, attempt: int) -> Started:
        """Stop what runs, switch `current`, start `spec`.

        All that can be known to fail is done or tried first: a TaskFailure or OSError before the stop
        leaves what serves as it was. After it, the new release stays in place whatever happens.
        """
        env, secret_values = await self._secrets.resolve(spec.env, task_id)
        cwd = await on_disk(self.releases.working_directory, spec)
        record = Record(
            release_id=spec.release_id, task_id=task_id, attempt=attempt, token=random_names.token_hex(16)
        )
        launch = self._launch(spec, record, cwd, env)
        runtime = registry.load(spec.runtime)
        runtime.check(launch)
        link = await on_disk(self.releases.prepare_switch, spec.release_id)
        try:
            written = await on_disk(prepare, self._record_path, msgspec.json.encode(record))
        except BaseException:
            link.unlink(missing_ok=True)
            raise

        async def swap() -> Started:
            await self._halt()
            written.replace(self._record_path)
            self._record, self._spec, self._env = record, spec, env
            self.secret_values, self.inspection = secret_values, Inspection(current=spec.release_id)
            self.releases.switch(link)
            self._idle = "starting"
            try:
                return await self._start(launch)
            finally:
                self._keeper = asyncio.create_task(self._keep(), name=f"keep {self.target_id}")
                self._on_change(self.target_id)

        self._switching = (task_id, attempt)
        return await uninterrupted(swap())

    async def clear(self, task_id: str, attempt: int) -> None:
        """Stop what runs and leave the target empty."""

        async def clear() -> None:
            # Forgotten before it is stopped: an agent killed in between must not start it again.
            with contextlib.suppress(FileNotFoundError):
                self._record_path.unlink()
            await self._halt()
            self.releases.clear()
            self._record = self._spec = self._env = None
            self.secret_values, self.inspection = (), Inspection()
            self._idle = "empty"
            self._on_change(self.target_id)

        self._switching = (task_id, attempt)
        await uninterrupted(clear())

    async def verdict(self, started: Started) -> None:
        """Wait until what was started is healthy.

        Raises TaskFailure: `exited`, `start_failed`, or `unhealthy` after the deadline of its check.
        """
        instance, monitor = started.instance, started.monitor
        ended = asyncio.ensure_future(instance.wait())
        settled = asyncio.ensure_future(monitor.settled.wait())
        try:
            await asyncio.wait((ended, settled), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise _ended_early(ended.result(), await self.log_tail())
            if monitor.health != "healthy":
                error = logfile.redact(monitor.error, self.secret_values)
                raise TaskFailure(
                    "unhealthy",
                    "The service was not healthy in time. Last check: "
                    f"{error or 'passed, but not often enough in a row'}. "
                    "See its last lines, correct the service or its health check.",
                )
        finally:
            ended.cancel()
            settled.cancel()

    async def shut_down(self, *, stop: bool) -> None:
        """The agent exits: leave the service running, or stop it (it then starts with the next agent)."""
        if stop:
            await self._halt()
            self._idle = "stopped"
        else:
            await self._cancel_tasks()
            if self._instance is not None:
                self._instance.forget()

    def save_again(self) -> None:
        """Write the record when the disk was full before; blocking, short."""
        if self._unsaved and self._record is not None:
            self._save(self._record)

    # Inside.

    def _launch(self, spec: protocol.ReleaseSpec, record: Record, cwd: Path, env: dict[str, str]) -> Launch:
        directory = self.releases.directory(spec.release_id)
        known = {
            "SLIPWAY_TARGET_ID": self.target_id,
            "SLIPWAY_SERVICE": spec.service,
            "SLIPWAY_RELEASE_ID": spec.release_id,
            "SLIPWAY_VERSION": spec.version,
            "SLIPWAY_CONFIG_DIR": str(directory / CONFIG),
        }
        return Launch(
            target_id=self.target_id,
            spec=spec,
            cwd=cwd,
            env={**children.base_environment(), **known, **env},
            log_path=self.log_path,
            token=record.token,
        )

    async def _start(self, launch: Launch) -> Started:
        """Start and watch; raises TaskFailure."""
        assert self._record is not None
        self._record = msgspec.structs.replace(self._record, log_start=logfile.size(self.log_path))
        self._instance = await registry.load(launch.spec.runtime).start(launch)
        self._record = msgspec.structs.replace(
            self._record, token=launch.token, found=self._instance.found, started_at=time.time()
        )
        self._save(self._record)
        log.info("Started %s %s as process %d", launch.spec.service, launch.spec.version, self._instance.pid)
        monitor = self._watch(Subject(launch.spec.health, launch.cwd, launch.env))
        return Started(self._instance, monitor)

    def _save(self, record: Record) -> None:
        try:
            write_atomic(self._record_path, msgspec.json.encode(record), durable=False)
            self._unsaved = False
        except OSError as error:
            self._unsaved = True
            log.error("%s cannot be written (%s); trying again later", self._record_path, error.strerror)

    def _watch_adopted(self, spec: protocol.ReleaseSpec, pid: int) -> None:
        env = children.environment_of(pid)
        self.secret_values = values_within(spec.env, env)
        try:
            cwd = self.releases.working_directory(spec)
        except TaskFailure:
            cwd = self.releases.directory(spec.release_id)
        self._watch(Subject(spec.health, cwd, env))

    def _watch(self, subject: Subject) -> Monitor:
        self._monitor = Monitor(subject, lambda: self._on_change(self.target_id))
        self._monitor_task = asyncio.create_task(self._monitor.run(), name=f"check {self.target_id}")
        return self._monitor

    async def _keep(self) -> None:
        """Start the service again whenever it has ended, ever more slowly."""
        backoff = Backoff(RESTART_FIRST_SECONDS, RESTART_LAST_SECONDS, floor=0.5)
        with logs.fields(target_id=self.target_id):
            while True:
                if self._instance is not None:
                    since = time.monotonic()
                    ended = await self._instance.wait()
                    self._instance = None
                    self._idle = "crashed"
                    self._note_end(ended)
                    await _cancelled(self._monitor_task)
                    self._on_change(self.target_id)
                    if time.monotonic() - since > STABLE_SECONDS:
                        backoff.reset()
                    delay = backoff.next()
                    log.warning("The service %s; starting it again in %.1f s", ended, delay)
                    await asyncio.sleep(delay)
                try:
                    await uninterrupted(self._restart())
                except Exception as error:
                    failure = failure_from(error, "starting the service again")
                    delay = backoff.next()
                    log.error("The service does not start: %s Next try in %.1f s.", failure.message, delay)
                    await asyncio.sleep(delay)
                self._on_change(self.target_id)

    def _note_end(self, ended: Exit) -> None:
        if self._record is not None:  # written with the restart
            self._record = msgspec.structs.replace(self._record, ended=str(ended), ended_at=time.time())

    async def _restart(self) -> None:
        record, spec = self._record, self._spec
        assert record is not None
        assert spec is not None
        if self._env is None:
            self._env, self.secret_values = await self._secrets.resolve(spec.env, record.task_id)
        cwd = await on_disk(self.releases.working_directory, spec)
        self._record = record = msgspec.structs.replace(
            record, token=random_names.token_hex(16), found=Found(), restarts=record.restarts + 1
        )
        self._save(record)
        await self._start(self._launch(spec, record, cwd, self._env))

    async def _cancel_tasks(self) -> None:
        await _cancelled(self._keeper)
        await _cancelled(self._monitor_task)
        self._keeper = self._monitor_task = None

    async def _halt(self) -> None:
        """Stop the process and everything that looks after it."""
        await self._cancel_tasks()
        instance, self._instance = self._instance, None
        if instance is not None:
            seconds = self._spec.process.stop_seconds if self._spec else 10
            ended = await instance.stop(max(seconds, 0))
            log.info("Stopped process %d, which %s", instance.pid, ended)
        self._monitor = None


def _ended_early(ended: Exit, tail: tuple[str, ...]) -> TaskFailure:
    text = "\n".join(tail).lower()
    if "address already in use" in text or "eaddrinuse" in text:
        return TaskFailure(
            "start_failed",
            f"The service {ended}: its port is in use. Find what else listens on it, or change the port.",
        )
    if ended.code in (126, 127):
        return TaskFailure(
            "start_failed", f"The service {ended}: a command that it runs is missing or not executable."
        )
    return TaskFailure(
        "exited", f"The service {ended} before it was healthy. See its last lines for the reason."
    )


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
