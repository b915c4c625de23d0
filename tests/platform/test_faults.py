"""Jobs that fail: tried again later each time, in quarantine after five, released by an administrator."""

import os
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.utils.html import escape
from django_q.exceptions import TimeoutException
from django_q.signing import SignedPackage

from audit.models import Entry
from deployments import processes, queueing, tasks
from deployments.domain.actor import Actor
from deployments.domain.states import ACTIVE
from deployments.engine import lease, sweep
from deployments.errors import Invalid, LeaseLost, StaleState
from deployments.models import Event, JobFault, QueuedJob, Rollout, Service, Task
from deployments.services import faults
from deployments.services.faults import MAX_FAILURES, TRACEBACK_BYTES, release_fault
from deployments.services.rollouts import cancel_rollout
from tests.api.conftest import Api, ApiFor, problem, results
from tests.engine.driver import Driver
from tests.fixtures import Login, Person, World
from tests.platform.test_broker import nobody

WORKER = Actor.system("worker")


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    """A rollout under way, with tasks at the agents and no job in the queue."""
    started = driver.start(orders, "1.0")
    driver.tick(started)
    assert Task.objects.filter(rollout=started).exists()
    QueuedJob.objects.all().delete()
    return started


@pytest.fixture
def api(db: None) -> ApiFor:
    return Api


def poison(rollout: Rollout) -> None:
    """What no agent can report and no snapshot can hold: the engine fails whenever it looks."""
    Task.objects.filter(rollout=rollout).update(log_tail={"lines": "none"})


def mend(rollout: Rollout) -> None:
    Task.objects.filter(rollout=rollout).update(log_tail=[])


def tick(rollout: Rollout, times: int = 1) -> None:
    for _ in range(times):
        QueuedJob.objects.all().delete()
        tasks.tick(str(rollout.id))
    rollout.refresh_from_db()


def delay_seconds() -> float:
    """Of the one job in the queue."""
    job = QueuedJob.objects.get()
    return (job.available_at - job.created_at).total_seconds()


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(*_args: Any) -> None:
        raise error

    monkeypatch.setattr("deployments.engine.tick.plan", broken)


def test_a_failure_is_noted_with_its_traceback_and_tried_again_later_each_time(rollout: Rollout) -> None:
    poison(rollout)
    for failures, seconds in enumerate((1, 2, 4, 8), start=1):
        tick(rollout)
        fault = JobFault.objects.get()
        assert (fault.function, fault.subject) == (queueing.TICK, str(rollout.id))
        assert fault.failures == failures
        assert fault.error.startswith("ValidationError: Expected `array`")
        assert 'deployments/engine/snapshot.py", line' in fault.traceback
        assert delay_seconds() == pytest.approx(seconds, abs=0.5)
        assert fault.quarantined_at is None
        assert rollout.lease_until is None, "the next try would wait for the lease to run out"


def test_the_sweep_does_not_try_it_before_its_time(rollout: Rollout) -> None:
    Rollout.objects.filter(pk=rollout.pk).update(next_check_at=rollout.created_at)
    assert sweep.due() == [rollout.id]
    poison(rollout)
    tick(rollout)
    assert sweep.due() == []


def test_after_five_failures_in_a_row_it_is_in_quarantine_and_says_so(rollout: Rollout) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    fault = JobFault.objects.get()
    assert fault.failures == MAX_FAILURES
    assert fault.quarantined_at is not None
    assert rollout.quarantined_at == fault.quarantined_at
    assert not QueuedJob.objects.exists()
    waiting = rollout.waiting_on
    assert waiting["kind"] == "fault"
    assert "failed 5 times in a row" in waiting["sentence"]
    assert "ValidationError" in waiting["sentence"]
    assert "administrator" in waiting["who"]
    assert waiting["unblock"] == ["release", "cancel"]
    assert waiting["since"]
    entry = Entry.objects.get(verb="rollout.quarantine")
    assert (entry.object_id, entry.actor_kind) == (str(rollout.id), "system")
    assert entry.reason == fault.error
    event = Event.objects.filter(rollout=rollout).latest("number")
    assert event.number == rollout.event_count
    assert event.data["waiting_on"] == waiting


def test_in_quarantine_nothing_touches_it(rollout: Rollout) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    Rollout.objects.filter(pk=rollout.pk).update(next_check_at=rollout.created_at)
    Task.objects.filter(rollout=rollout).update(expires_at=rollout.created_at)
    before = Entry.objects.count()
    mend(rollout)
    tick(rollout, 3)
    assert sweep.due() == []
    assert sweep.lost() == []
    assert Entry.objects.count() == before
    assert JobFault.objects.get().failures == MAX_FAILURES
    assert rollout.waiting_on["kind"] == "fault"


def test_one_success_forgets_the_failures_before_it(rollout: Rollout) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES - 1)
    mend(rollout)
    tick(rollout)
    assert not JobFault.objects.exists()
    poison(rollout)
    tick(rollout)
    assert JobFault.objects.get().failures == 1
    assert rollout.quarantined_at is None


def test_others_go_on(driver: Driver, catalog: World, rollout: Rollout) -> None:
    other = driver.start(catalog.service("bills", targets=2), "1.0")
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    assert driver.finish(other).state == "succeeded"
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_an_administrator_releases_it_and_it_goes_on(driver: Driver, rollout: Rollout, admin: Person) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    mend(rollout)
    fault = JobFault.objects.get()
    released = release_fault(actor=admin, fault_id=fault.pk, reason="The log is mended")
    assert (released.released_by, released.released_at is not None) == ("admin", True)
    entry = Entry.objects.get(verb="fault.release")
    assert (entry.actor_name, entry.reason) == ("admin", "The log is mended")
    assert Entry.objects.get(verb="rollout.unquarantine").object_id == str(rollout.id)
    job = SignedPackage.loads(QueuedJob.objects.get().payload)
    assert (job["func"], job["args"]) == (queueing.TICK, (str(rollout.id),))
    assert delay_seconds() == pytest.approx(0, abs=0.5)
    rollout.refresh_from_db()
    assert rollout.quarantined_at is None
    assert sweep.due() == [rollout.id], "a lost wake-up must not lose the rollout"
    assert driver.finish(rollout).state == "succeeded"


def test_a_release_that_mended_nothing_leads_back_into_quarantine(rollout: Rollout, admin: Person) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    first = JobFault.objects.get()
    release_fault(actor=admin, fault_id=first.pk, reason="Hope")
    tick(rollout)
    second = JobFault.objects.get(released_at=None)
    assert (second.pk != first.pk, second.failures) == (True, 1)
    tick(rollout, MAX_FAILURES - 1)
    assert rollout.quarantined_at is not None


def test_a_second_release_changes_nothing(rollout: Rollout, admin: Person, auditor: Person) -> None:
    poison(rollout)
    tick(rollout)
    fault = JobFault.objects.get()
    release_fault(actor=admin, fault_id=fault.pk, reason="Mended")
    again = release_fault(actor=auditor, fault_id=fault.pk, reason="Me too")
    assert again.released_by == "admin"
    assert Entry.objects.filter(verb="fault.release").count() == 1


def test_a_release_wants_a_reason(rollout: Rollout, admin: Person) -> None:
    poison(rollout)
    tick(rollout)
    with pytest.raises(Invalid, match="Say why"):
        release_fault(actor=admin, fault_id=JobFault.objects.get().pk, reason="  ")


def test_a_rollout_in_quarantine_can_be_cancelled(rollout: Rollout, owner: Person, admin: Person) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    cancel_rollout(actor=owner, rollout_id=rollout.id, reason="Never mind")
    rollout.refresh_from_db()
    assert rollout.state == "cancelled"
    release_fault(actor=admin, fault_id=JobFault.objects.get().pk, reason="It has ended")
    tick(rollout)
    rollout.refresh_from_db()
    assert rollout.waiting_on is None


def test_a_fault_of_a_rollout_that_ended_meanwhile_is_forgotten(rollout: Rollout, owner: Person) -> None:
    poison(rollout)
    tick(rollout)
    cancel_rollout(actor=owner, rollout_id=rollout.id, reason="Never mind")
    tick(rollout)
    assert not JobFault.objects.exists()


@pytest.mark.parametrize("error", [StaleState(), OperationalError("deadlock detected")])
def test_what_happens_in_any_system_is_no_fault_and_tried_again_soon(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail_with(monkeypatch, error)
    tick(rollout, MAX_FAILURES + 1)
    assert not JobFault.objects.exists()
    assert delay_seconds() == pytest.approx(tasks.SOON_SECONDS, abs=0.5)
    assert rollout.lease_until is None


def test_a_lost_lease_is_left_to_who_has_it(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, LeaseLost())
    tick(rollout)
    assert not JobFault.objects.exists()
    assert not QueuedJob.objects.exists()


def test_a_tick_that_takes_too_long_is_a_fault_too(rollout: Rollout, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, TimeoutException("Task exceeded maximum timeout value (20 seconds)"))
    tick(rollout)
    assert JobFault.objects.get().error.startswith("TimeoutException: Task exceeded")


def test_a_traceback_holds_no_values_of_variables_and_its_end_when_it_is_long(
    rollout: Rollout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> None:
        password = "hunter" + "2"
        try:
            raise ValueError("\0 x" * TRACEBACK_BYTES)
        except ValueError as error:
            raise RuntimeError("the last word\nand its second line") from error
        finally:
            del password

    monkeypatch.setattr("deployments.engine.tick.plan", broken)
    tick(rollout)
    fault = JobFault.objects.get()
    assert fault.error == "RuntimeError: the last word"
    assert "hunter2" not in fault.traceback
    assert "the last word" in fault.traceback
    assert len(fault.traceback.encode()) <= TRACEBACK_BYTES


def test_a_job_that_kills_its_worker_each_time_goes_to_quarantine(rollout: Rollout) -> None:
    """Counted before it runs, since afterwards nobody is left to count."""
    for _ in range(MAX_FAILURES - 1):
        assert faults.count_attempt(actor=WORKER, function=queueing.TICK, subject=str(rollout.id))
    tasks.run_again(queueing.TICK, str(rollout.id))
    rollout.refresh_from_db()
    assert rollout.quarantined_at is not None
    assert rollout.waiting_on["kind"] == "fault"
    assert "No worker survived it" in rollout.waiting_on["sentence"]
    tasks.run_again(queueing.TICK, str(rollout.id))
    assert JobFault.objects.get().quarantined_at == rollout.quarantined_at


def test_what_the_traceback_said_is_not_lost_to_a_death(rollout: Rollout) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES - 1)
    before = JobFault.objects.get()
    tasks.run_again(queueing.TICK, str(rollout.id))
    tasks.run_again(queueing.TICK, str(rollout.id))
    fault = JobFault.objects.get()
    assert (fault.error, fault.traceback) == (before.error, before.traceback)
    assert (fault.failures, fault.quarantined_at is not None) == (MAX_FAILURES, True)


def test_a_job_that_was_only_near_a_death_is_forgotten(rollout: Rollout) -> None:
    tasks.run_again(queueing.TICK, str(rollout.id))
    assert not JobFault.objects.exists()


def test_a_failure_after_a_death_is_counted_once(rollout: Rollout) -> None:
    poison(rollout)
    tasks.run_again(queueing.TICK, str(rollout.id))
    fault = JobFault.objects.get()
    assert fault.failures == 1
    assert fault.error.startswith("ValidationError")


def test_the_lease_of_a_dead_worker_is_not_waited_for(rollout: Rollout) -> None:
    hold(rollout, processes.name(nobody()))
    tasks.run_again(queueing.TICK, str(rollout.id))
    rollout.refresh_from_db()
    assert rollout.lease_until is None
    assert not JobFault.objects.exists()


def test_the_lease_of_a_living_worker_is_kept_and_nothing_is_counted(rollout: Rollout) -> None:
    hold(rollout, processes.name(os.getppid()))
    tasks.run_again(queueing.TICK, str(rollout.id))
    rollout.refresh_from_db()
    assert rollout.lease_until is not None
    assert rollout.wake_again
    assert not JobFault.objects.exists()


def hold(rollout: Rollout, process: str) -> None:
    """Have `process` hold the lease, for an hour."""
    assert lease.claim(rollout.id, sorted(ACTIVE))
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE deployments_rollout SET lease_owner = %s, lease_until = clock_timestamp() + %s "
            "WHERE id = %s",
            [f"{process}:x", timedelta(hours=1), rollout.id],
        )


@pytest.fixture
def fault(rollout: Rollout) -> JobFault:
    """Of a rollout that is in quarantine."""
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    return JobFault.objects.get()


def test_the_page_shows_an_administrator_the_traceback_and_the_rollout(
    login: Login, admin: Person, fault: JobFault
) -> None:
    body = login(admin).get("/faults/").content.decode()
    assert escape(fault.error) in body
    assert "deployments/engine/snapshot.py&quot;, line" in body
    assert f'href="/rollouts/{fault.subject}/"' in body
    assert "in quarantine" in body
    assert "Failed 5 times in a row" in body
    assert 'href="/faults/" aria-current="page"' in body


def test_the_button_tries_it_again_and_the_page_says_who_did(
    login: Login, admin: Person, fault: JobFault
) -> None:
    client = login(admin)
    response = client.post(f"/faults/{fault.pk}/release/", {"reason": "The log is mended"})
    assert (response.status_code, response["Location"]) == (302, "/faults/")
    assert "No fault" in client.get("/faults/").content.decode()
    body = client.get("/faults/?released=yes").content.decode()
    assert "released by admin" in body
    assert "Try again" not in body
    assert Entry.objects.get(verb="fault.release").reason == "The log is mended"


def test_the_button_wants_a_reason(login: Login, admin: Person, fault: JobFault) -> None:
    response = login(admin).post(f"/faults/{fault.pk}/release/", {"reason": " "})
    assert response.status_code == 422
    assert "Say why" in response.content.decode()
    typed = "The log is mended. " * 30
    response = login(admin).post(f"/faults/{fault.pk}/release/", {"reason": typed})
    assert response.status_code == 422
    assert f'value="{typed}"' in response.content.decode()
    fault.refresh_from_db()
    assert fault.released_at is None


def test_without_faults_the_page_says_so(login: Login, admin: Person) -> None:
    assert "No fault" in login(admin).get("/faults/").content.decode()


@pytest.mark.parametrize("who", ["owner", "viewer", "outsider"])
def test_faults_are_for_administrators(
    request: pytest.FixtureRequest, login: Login, api: ApiFor, fault: JobFault, who: str
) -> None:
    person = request.getfixturevalue(who)
    client = login(person)
    for refused in (client.get("/faults/"), client.post(f"/faults/{fault.pk}/release/", {"reason": "x"})):
        assert refused.status_code == 403
        body = refused.content.decode()
        assert "an administrator" in body
        assert fault.error not in body
    assert "Faults" not in client.get("/").content.decode()
    assert results(api(person).get("/faults")) == []
    problem(api(person).get(f"/faults/{fault.pk}"), 404, "not-found")
    problem(api(person).post(f"/faults/{fault.pk}/release", {"reason": "x"}), 403, "not-allowed")
    fault.refresh_from_db()
    assert fault.released_at is None


def test_the_button_needs_its_form(admin: Person, fault: JobFault) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(admin.user, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(f"/faults/{fault.pk}/release/", {"reason": "From elsewhere"}).status_code == 403
    fault.refresh_from_db()
    assert fault.released_at is None


def test_anonymous_people_are_sent_to_log_in(client: Client, fault: JobFault) -> None:
    for answer in (client.get("/faults/"), client.post(f"/faults/{fault.pk}/release/")):
        assert answer.status_code == 302
        assert answer["Location"].startswith("/login/")


def test_the_api_tells_and_releases(api: ApiFor, admin: Person, rollout: Rollout, fault: JobFault) -> None:
    boss = api(admin)
    (shown,) = results(boss.get("/faults", quarantined="true", released="false"))
    assert shown["state"] == "quarantined"
    assert shown["rollout"] == str(rollout.id)
    assert shown["failures"] == MAX_FAILURES
    assert shown["error"] in shown["traceback"]
    problem(boss.post(f"/faults/{fault.pk}/release", {"reason": ""}), 422, "invalid")
    problem(boss.post("/faults/999999999999/release", {"reason": "x"}), 404, "not-found")
    released = boss.post(f"/faults/{fault.pk}/release", {"reason": "The log is mended"}).json()
    assert (released["state"], released["released_by"]) == ("released", "admin")
    rollout.refresh_from_db()
    assert rollout.quarantined_at is None
