"""The real worker process: it runs jobs, survives the death of any part, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection
from django_q.brokers import get_broker
from django_q.tasks import async_task

from deployments import queueing
from deployments.models import JobFault, Rollout, Service, Task
from deployments.models.jobs import QueuedJob
from deployments.services.faults import MAX_FAILURES, release_fault
from tests.engine.driver import Driver
from tests.fixtures import Person, World

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    """Children, their children and so on; none of a process that has ended."""
    with contextlib.suppress(OSError):
        return [one for child in children(pid) for one in (child, *descendants(child))]
    return []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Jobs:
    """What the jobs have written: (process id, text) in order."""

    def __init__(self, file: Path) -> None:
        self.file = file
        file.touch()

    def add(self, text: str, sleep_seconds: float = 0, *, delay_seconds: float = 0) -> None:
        name = "append_then_sleep" if sleep_seconds else "append"
        arguments = (sleep_seconds,) if sleep_seconds else ()
        broker = get_broker().with_options(delay_seconds=delay_seconds)
        async_task(f"tests.platform.jobs.{name}", str(self.file), text, *arguments, broker=broker)

    def done(self) -> list[tuple[int, str]]:
        return [(int(pid), text) for _, pid, text in self.lines()]

    def lines(self) -> list[list[str]]:
        return [line.split() for line in self.file.read_text().splitlines()]

    def texts(self) -> list[str]:
        return [text for _, text in self.done()]


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "jobs")


@contextlib.contextmanager
def running_worker(log_path: Path, jobs: Jobs, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker on the test's database, up and running its first job."""
    config = connection.settings_dict
    address = f"{config['USER']}:{config['PASSWORD']}@{config['HOST']}:{config['PORT']}"
    environment = os.environ | {
        "DATABASE_URL": f"postgresql://{address}/{config['NAME']}",
        "SLIPWAY_PROCESS": "worker",
        "SLIPWAY_WORKER_PROCESSES": "2",
        **variables,
    }
    first = f"first-of-{log_path.stem}"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"], cwd=ROOT, env=environment, stderr=log
        )
    try:
        jobs.add(first)
        until(lambda: first in jobs.texts())
        yield process
    finally:
        family = descendants(process.pid)
        process.kill()
        process.wait()
        # They die with their parent, a moment later; until then they may be at work on the database.
        until(lambda: not any(map(is_running, family)))


@pytest.fixture
def worker(tmp_path, jobs):
    with running_worker(tmp_path / "worker.log", jobs) as process:
        yield process


def test_a_job_is_run_acknowledged_and_leaves_no_row(worker, jobs):
    jobs.add("a")
    until(lambda: "a" in jobs.texts())
    until(lambda: not QueuedJob.objects.exists())


def test_a_failing_job_is_not_run_again(worker, jobs):
    async_task("tests.platform.jobs.append", "/nowhere/at/all", "x")
    until(lambda: not QueuedJob.objects.exists())
    jobs.add("next")
    until(lambda: "next" in jobs.texts())


def test_stopping_finishes_the_job_in_hand(worker, jobs, tmp_path):
    jobs.add("long", sleep_seconds=1.0)
    until(lambda: "long" in jobs.texts())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=20) == 0
    assert not QueuedJob.objects.exists(), "the job was not acknowledged before the end"


def test_no_process_outlives_a_killed_worker(worker):
    (sentinel,) = children(worker.pid)
    family = [sentinel, *children(sentinel)]
    assert len(family) == 5, "sentinel, two workers, monitor and pusher"

    worker.kill()
    worker.wait()
    until(lambda: not any(is_running(pid) for pid in family), seconds=5)


@pytest.mark.parametrize("victim", range(4))
def test_the_death_of_any_child_starts_the_cluster_anew(worker, jobs, victim):
    (sentinel,) = children(worker.pid)
    os.kill(children(sentinel)[victim], signal.SIGKILL)
    until(lambda: children(worker.pid) not in ([], [sentinel]))

    jobs.add("after")
    until(lambda: "after" in jobs.texts())


@pytest.mark.parametrize("victim", range(2))
def test_after_the_death_of_an_idle_worker_jobs_start_within_ten_seconds_and_none_is_lost(
    worker, jobs, victim
):
    """One of the two idle workers holds the lock of the queue that they share, and takes it with it."""
    (sentinel,) = children(worker.pid)
    os.kill(children(sentinel)[victim], signal.SIGKILL)
    wanted = {f"after-{number}" for number in range(4)}
    for text in sorted(wanted):
        jobs.add(text)
    until(lambda: wanted <= set(jobs.texts()), seconds=10)
    until(lambda: not QueuedJob.objects.exists())


def test_the_job_of_a_killed_process_comes_back_at_once(worker, jobs):
    jobs.add("victim", sleep_seconds=15)
    until(lambda: "victim" in jobs.texts())
    started = time.monotonic()
    os.kill(jobs.done()[-1][0], signal.SIGKILL)

    until(lambda: jobs.texts().count("victim") == 2)
    assert time.monotonic() - started < 15, "it waited for its time to run out"


def test_a_frozen_cluster_is_replaced(worker, jobs):
    (sentinel,) = children(worker.pid)
    os.kill(sentinel, signal.SIGSTOP)
    until(lambda: children(worker.pid) not in ([], [sentinel]))
    jobs.add("after")
    until(lambda: "after" in jobs.texts())


def test_it_goes_on_after_the_database_cut_every_connection(worker, jobs):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name IN ('slipway-worker', 'slipway-listen') AND datname = current_database()"
        )
    jobs.add("after")
    until(lambda: "after" in jobs.texts())
    until(lambda: get_broker().lock_size() == 0, seconds=60)


def test_another_worker_takes_up_the_jobs_of_one_that_was_killed_whole(worker, jobs, tmp_path):
    jobs.add("victim", sleep_seconds=60)
    until(lambda: "victim" in jobs.texts())
    with running_worker(tmp_path / "another.log", jobs) as another:
        worker.kill()
        worker.wait()
        until(lambda: jobs.texts().count("victim") == 2, seconds=15)
        pid = next(pid for pid, text in reversed(jobs.done()) if text == "victim")
        (sentinel,) = children(another.pid)
        assert pid in children(sentinel)


def test_a_job_that_takes_too_long_is_stopped_before_it_is_started_again(jobs, tmp_path):
    """django-q2 alone starts a second one beside the first as soon as `retry` is over."""
    with running_worker(tmp_path / "worker.log", jobs, DJANGO_SETTINGS_MODULE="tests.platform.short_jobs"):
        jobs.add("stopped", sleep_seconds=60)
        async_task("tests.platform.jobs.append_then_hang", str(jobs.file), "killed", 60)
        until(lambda: jobs.texts().count("killed") == 2)
        first, second = (pid for pid, text in jobs.done() if text == "killed")
        assert not is_running(first)
        assert first != second
        assert jobs.texts().count("stopped") == 1, "it ended with an error: there is nothing to start again"


def test_a_job_with_a_delay_starts_when_it_is_due(worker, jobs):
    """A ONCE schedule of django-q2 starts 20 to 24 s late."""
    added_at = time.monotonic()
    jobs.add("later", delay_seconds=1.5)
    until(lambda: "later" in jobs.texts())
    took_seconds = float(jobs.lines()[-1][0]) - added_at
    assert 1.5 <= took_seconds < 4.5


def test_a_job_that_kills_its_worker_each_time_ends_in_quarantine_and_others_go_on(worker, jobs):
    async_task("tests.platform.jobs.append_then_die", str(jobs.file), "deadly")
    until(lambda: JobFault.objects.filter(quarantined_at__isnull=False).exists(), seconds=60)
    fault = JobFault.objects.get()
    assert (fault.function, fault.subject) == ("tests.platform.jobs.append_then_die", str(jobs.file))
    jobs.add("after")
    until(lambda: "after" in jobs.texts())
    until(lambda: not QueuedJob.objects.exists())
    assert jobs.texts().count("deadly") == MAX_FAILURES


def test_a_rollout_that_the_engine_cannot_digest_ends_in_quarantine_until_it_is_released(
    worker, catalog: World, owner: Person, admin: Person, orders: Service
):
    driver = Driver(catalog, owner)
    rollout = driver.start(orders, "1.0")
    until(lambda: Task.objects.filter(rollout=rollout).count() == 12)
    Task.objects.filter(rollout=rollout).update(log_tail={"lines": "none"})
    queueing.tick(rollout.id)
    until(lambda: Rollout.objects.get(pk=rollout.pk).quarantined_at, seconds=60)
    assert JobFault.objects.get().failures == MAX_FAILURES

    Task.objects.filter(rollout=rollout).update(log_tail=[])
    release_fault(actor=admin, fault_id=JobFault.objects.get().pk, reason="The log is mended")
    for task in driver.open_tasks(rollout):
        driver.report(task)
    until(lambda: Task.objects.filter(rollout=rollout, state="succeeded").count() == 12)
    rollout.refresh_from_db()
    assert rollout.waiting_on["kind"] not in ("fault", "engine")


def test_a_rollout_whose_ticks_kill_their_workers_ends_in_quarantine(
    jobs, tmp_path, catalog: World, owner: Person, admin: Person, orders: Service
):
    """Each dead worker leaves a lease behind, which must neither be waited for nor hide that it died."""
    with running_worker(tmp_path / "deadly.log", jobs, DJANGO_SETTINGS_MODULE="tests.platform.deadly"):
        rollout = Driver(catalog, owner).start(orders, "1.0")
        until(lambda: Rollout.objects.get(pk=rollout.pk).quarantined_at, seconds=60)
        until(lambda: not QueuedJob.objects.exists())
    fault = JobFault.objects.get()
    assert "No worker survived it" in fault.error
    assert (fault.failures, fault.traceback) == (MAX_FAILURES, "")

    with running_worker(tmp_path / "sound.log", jobs):
        release_fault(actor=admin, fault_id=fault.pk, reason="The new version no longer crashes")
        until(lambda: Task.objects.filter(rollout=rollout).count() == 12)
