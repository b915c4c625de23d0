"""The queue: coalescing without a lost wake-up, one taker for a job, redelivery, delay, waking."""

import math
import pickle
import subprocess
import threading
import time

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction
from django_q.conf import Conf
from django_q.signing import SignedPackage

from deployments import broker as broker_module
from deployments import processes
from deployments.broker import RUN_AGAIN, PostgresBroker
from deployments.models.jobs import QueuedJob

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def broker():
    made = PostgresBroker("slipway")
    yield made
    made._hang_up()


@pytest.fixture
def second_connection():
    """Another session of the same database: the enqueuer whose transaction is still open."""
    parameters = connection.get_connection_params()
    for name in ("pool", "cursor_factory", "context"):
        parameters.pop(name, None)
    with psycopg.connect(**parameters) as made:
        yield made


def enqueue_from(session: psycopg.Connection, key: str, payload: str = "other") -> None:
    values = {"queue": "slipway", "key": key, "priority": 0, "payload": payload, "delay": 0}
    session.execute(broker_module._ENQUEUE, values)


def nobody() -> int:
    """A process id that nobody has any more."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def payloads(jobs) -> list[str]:
    return [payload for _, payload in jobs or []]


def test_a_job_is_taken_once_and_gone_when_acknowledged(broker):
    broker.enqueue("a")
    ((job_id, payload),) = broker.dequeue()

    assert payload == "a"
    assert broker.queue_size() == 0
    assert broker.lock_size() == 1
    assert broker._take() == []

    broker.acknowledge(job_id)
    assert broker.lock_size() == 0


def test_a_rolled_back_transaction_leaves_no_job(broker):
    with transaction.atomic():
        broker.enqueue("a")
        transaction.set_rollback(True)
    assert broker.queue_size() == 0


def test_waiting_jobs_of_one_key_are_one(broker):
    ticks = broker.with_options(coalesce_key="tick:1")
    first = ticks.enqueue("a")

    assert ticks.enqueue("a") == first
    assert broker.with_options(coalesce_key="tick:2").enqueue("b") != first
    assert QueuedJob.objects.get(pk=first).nudged == 1
    assert broker.queue_size() == 2


def test_jobs_without_key_never_coalesce(broker):
    broker.enqueue("a")
    broker.enqueue("a")
    assert broker.queue_size() == 2


def test_a_taken_job_does_not_swallow_the_next_wake_up(broker):
    ticks = broker.with_options(coalesce_key="tick:1")
    ticks.enqueue("a")
    broker.dequeue()
    ticks.enqueue("b")
    assert payloads(broker.dequeue()) == ["b"]


def test_nobody_runs_the_waiting_job_before_the_nudger_has_committed(broker, second_connection):
    """The race that DO NOTHING loses: the job runs between the nudge and the nudger's commit."""
    broker.with_options(coalesce_key="tick:1").enqueue("a")

    enqueue_from(second_connection, "tick:1")
    assert broker._take() == [], "the nudged row must stay locked until its nudger commits"

    second_connection.commit()
    assert payloads(broker._take()) == ["a"]


def test_a_nudge_that_meets_a_take_becomes_a_job_of_its_own(broker, second_connection):
    """The other half of the race: the row is taken while the nudger waits for its lock."""
    broker.with_options(coalesce_key="tick:1").enqueue("a")
    nudged = threading.Event()

    def nudge() -> None:
        enqueue_from(second_connection, "tick:1", "b")
        second_connection.commit()
        nudged.set()

    with transaction.atomic():
        assert payloads(broker._take()) == ["a"]
        thread = threading.Thread(target=nudge)
        thread.start()
        assert not nudged.wait(0.2), "the nudger should wait for the taker's row lock"
    thread.join()

    assert payloads(broker._take()) == ["b"]


def test_a_rolled_back_nudge_leaves_the_job_waiting(broker, second_connection):
    broker.with_options(coalesce_key="tick:1").enqueue("a")
    enqueue_from(second_connection, "tick:1")
    second_connection.rollback()
    assert payloads(broker._take()) == ["a"]


def test_two_takers_never_get_the_same_job(broker, second_connection):
    for number in range(20):
        broker.enqueue(str(number))
    values = {"queue": "slipway", "retry": 30, "taken_by": "other:1", "limit": 10}

    theirs = [row[0] for row in second_connection.execute(broker_module._TAKE, values)]
    ours = [job_id for job_id, _ in broker._take()]
    second_connection.commit()

    assert len(theirs) == len(ours) == 10
    assert set(theirs).isdisjoint(ours)


def test_higher_priority_goes_first(broker):
    broker.enqueue("usual")
    broker.with_options(priority=10).enqueue("hotfix")
    assert payloads(broker._take()) == ["hotfix", "usual"]


def test_a_delayed_job_waits_and_a_nudge_brings_it_forward(broker):
    broker.with_options(coalesce_key="k", delay_seconds=60).enqueue("a")
    assert broker._take() == []
    broker.with_options(coalesce_key="k").enqueue("a")
    assert payloads(broker._take()) == ["a"]


def test_a_later_nudge_does_not_push_a_job_back(broker):
    broker.with_options(coalesce_key="k").enqueue("a")
    broker.with_options(coalesce_key="k", delay_seconds=60).enqueue("a")
    assert payloads(broker._take()) == ["a"]


def test_a_job_that_was_not_acknowledged_in_time_is_handed_out_again(broker, monkeypatch):
    broker.enqueue("a")
    monkeypatch.setitem(settings.Q_CLUSTER, "retry", 0)
    broker._expiry_scan_due = math.inf
    assert payloads(broker._take()) == ["a"]

    broker._expiry_scan_due = 0
    assert payloads(broker._take()) == ["a"]
    assert QueuedJob.objects.get().attempts == 2


def test_a_job_that_is_handed_out_again_is_counted_before_it_runs(broker, monkeypatch):
    """Perhaps it was the job itself that took its worker down."""
    monkeypatch.setitem(settings.Q_CLUSTER, "retry", 0)
    first = SignedPackage.dumps({"func": "some.job", "args": ("a", 1), "kwargs": {}})
    broker.enqueue(first)
    broker._expiry_scan_due = math.inf
    assert payloads(broker._take()) == [first]

    for _ in range(2):
        broker._expiry_scan_due = 0
        ((_, again),) = broker._take()
        job = SignedPackage.loads(again)
        assert (job["func"], job["args"]) == (RUN_AGAIN, ("some.job", "a", 1))


def test_a_job_is_stopped_before_it_would_be_handed_out_again():
    """Else it would run twice at once. Its guard stops it 3 s late, and looks twice a second."""
    stopped_at = settings.Q_CLUSTER["timeout"] + 3 + Conf.GUARD_CYCLE
    assert stopped_at + 5 <= settings.Q_CLUSTER["retry"]


def test_a_job_that_is_never_brought_to_an_end_is_dropped(broker, monkeypatch):
    monkeypatch.setitem(settings.Q_CLUSTER, "retry", 0)
    monkeypatch.setitem(settings.Q_CLUSTER, "max_attempts", 2)
    broker.enqueue("a")
    delivered = 0
    for _ in range(4):
        broker._expiry_scan_due = 0
        delivered += len(broker._take())
    assert delivered == 2
    assert not QueuedJob.objects.exists()


def test_jobs_of_a_dead_cluster_are_released_and_those_of_a_living_one_are_not(broker):
    broker.enqueue("dead")
    broker.enqueue("living")
    broker._take()
    QueuedJob.objects.filter(payload="dead").update(taken_by=processes.name(nobody()))

    broker._expiry_scan_due = 0
    assert payloads(broker._take()) == ["dead"]


def test_of_processes_elsewhere_nothing_is_concluded(broker):
    """Another machine, or a container on this one with process ids of its own."""
    broker.enqueue("a")
    broker._take()
    for where in ("elsewhere/1", processes.machine().rpartition("/")[0] + "/1"):
        QueuedJob.objects.update(taken_by=f"{where}:{nobody()}")
        broker._expiry_scan_due = 0
        assert broker._take() == []


def test_a_commit_elsewhere_wakes_the_waiting_taker(broker, second_connection, monkeypatch):
    monkeypatch.setattr(broker_module, "POLL_SECONDS", 30.0)

    def commit_later() -> None:
        time.sleep(0.1)
        enqueue_from(second_connection, "k", "a")
        second_connection.execute("SELECT pg_notify('slipway_jobs', 'slipway')")
        second_connection.commit()

    thread = threading.Thread(target=commit_later)
    thread.start()
    started = time.monotonic()
    assert payloads(broker.dequeue()) == ["a"]
    assert time.monotonic() - started < 15, "it was found by polling, not by the notification"
    thread.join()


def test_without_a_notification_polling_finds_the_job(broker, second_connection, monkeypatch):
    monkeypatch.setattr(broker_module, "POLL_SECONDS", 0.2)

    def commit_silently() -> None:
        time.sleep(0.05)
        enqueue_from(second_connection, "k", "a")
        second_connection.commit()

    thread = threading.Thread(target=commit_silently)
    thread.start()
    assert payloads(broker.dequeue() or broker.dequeue()) == ["a"]
    thread.join()


def test_a_broken_listening_connection_is_replaced(broker, monkeypatch):
    monkeypatch.setattr(broker_module, "RECONNECT_SECONDS", 0.0)
    broker._listen()
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [broker._listener.info.backend_pid])
    assert broker.dequeue() is None
    broker.enqueue("a")
    assert payloads(broker.dequeue()) == ["a"]


def test_a_copy_in_another_process_shares_no_connection(broker):
    broker._listen()
    assert pickle.loads(pickle.dumps(broker))._listener is None
    assert broker.with_options(priority=1)._listener is None


def test_a_forked_child_opens_its_own_listening_connection(broker):
    broker._listen()
    inherited = broker._listener
    broker._listener_pid = -1  # as a child sees it
    broker._listen()
    try:
        assert broker._listener is not inherited
        assert not inherited.closed, "a farewell would end the parent's session"
    finally:
        inherited.close()
