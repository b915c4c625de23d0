"""How long from enqueueing a job to its start in a real worker, beside django-q2's own ORM broker."""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import plane
from bench.database import database
from bench.figures import Row, latency, ratio

MEDIAN_MS, P99_MS = 5.0, 25.0
LONGEST_PAUSE_SECONDS = 0.06
ANSWER_SECONDS = 30.0
WARM_UP = 20


def measure(jobs: int = 500, peer_jobs: int = 200) -> list[Row]:
    """Jobs at random distances of 0 to 60 ms, through the real worker; then the same with the peer."""
    with database(), tempfile.TemporaryDirectory(prefix="slipway-queue-") as folder:
        logs = Path(folder)
        with plane.worker(logs) as worker:
            ours = starts(slipway_broker, jobs, logs / "slipway", worker)
        with plane.worker(logs, settings="bench.orm_settings", command="qcluster") as worker:
            theirs = starts(orm_broker, peer_jobs, logs / "orm", worker)
    return [
        *latency("enqueue to start", ours, median_most=MEDIAN_MS, p99_most=P99_MS),
        *latency("the same with django-q2's ORM broker", theirs),
        ratio("ORM broker's median to ours", statistics.median(theirs) / statistics.median(ours)),
    ]


def slipway_broker():
    from django_q.brokers import get_broker

    return get_broker()


def orm_broker():
    from django.conf import settings
    from django_q.brokers.orm import ORM

    return ORM(settings.Q_CLUSTER["name"])


def starts(
    broker: Callable[[], object], jobs: int, file: Path, worker: plane.Running, *, warm_up: int = WARM_UP
) -> list[float]:
    """Milliseconds from just before the call that enqueues, commit included, to the job's first line."""
    from django_q.tasks import async_task

    connected = broker()
    file.touch()
    for number in range(warm_up + jobs):
        if number <= warm_up:  # the cluster starts, and opens its connections, before it is measured
            _wait_for(file, number, worker)
        else:
            time.sleep(random.uniform(0, LONGEST_PAUSE_SECONDS))
        async_task("bench.jobs.note_start", str(file), time.monotonic_ns(), broker=connected)
    _wait_for(file, warm_up + jobs, worker)
    return [int(line) / 1e6 for line in file.read_text().splitlines()[warm_up:]]


def _wait_for(file: Path, lines: int, worker: plane.Running) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS
    while file.read_text().count("\n") < lines:
        worker.require()
        if time.monotonic() > deadline:
            raise TimeoutError(f"the worker did not start job {lines}:\n{worker.log.read_text()[-2000:]}")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--peer-jobs", type=int, default=200)
    options = parser.parse_args()
    for row in measure(options.jobs, options.peer_jobs):
        print(f"{row.what}: {row.median}, {row.spread} {row.asked}")


if __name__ == "__main__":
    main()
