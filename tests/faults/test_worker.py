"""The real worker process: it runs jobs, survives the death of any part, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from django.db import connection
from django_q.brokers import get_broker
from django_q.tasks import async_task

from deployments.models.jobs import QueuedJob

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.django_db(transaction=True)


def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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

    def add(self, text: str, sleep_seconds: float = 0) -> None:
        name = "append_then_sleep" if sleep_seconds else "append"
        arguments = (sleep_seconds,) if sleep_seconds else ()
        async_task(f"tests.platform.jobs.{name}", str(self.file), text, *arguments)

    def done(self) -> list[tuple[int, str]]:
        rows = [line.split() for line in self.file.read_text().splitlines()]
        return [(int(pid), text) for _, pid, text in rows]

    def texts(self) -> list[str]:
        return [text for _, text in self.done()]


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "jobs")


@pytest.fixture
def worker(tmp_path, jobs):
    """A worker on the test's database, up and running its first job."""
    config = connection.settings_dict
    address = f"{config['USER']}:{config['PASSWORD']}@{config['HOST']}:{config['PORT']}"
    environment = os.environ | {
        "DATABASE_URL": f"postgresql://{address}/{config['NAME']}",
        "SLIPWAY_PROCESS": "worker",
        "SLIPWAY_WORKER_PROCESSES": "2",
    }
    with (tmp_path / "worker.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "worker"], cwd=ROOT, env=environment, stderr=log
        )
    try:
        jobs.add("first")
        until(lambda: jobs.texts() == ["first"])
        yield process
    finally:
        process.kill()
        process.wait()


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
