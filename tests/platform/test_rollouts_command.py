"""`manage.py rollouts explain`: it says what is, and what would be, and changes nothing."""

import os
import pty
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext

from deployments.domain.states import ACTIVE
from deployments.engine import lease
from deployments.models import Rollout, Service
from deployments.services.faults import MAX_FAILURES
from deployments.services.rollouts import cancel_rollout, pause_rollout, start_rollout
from tests.engine.driver import Driver
from tests.fixtures import Person, World
from tests.live.web import database_url
from tests.platform.test_faults import poison, tick
from tests.services.test_who_may import contents

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    """1.0 runs; 1.1 is staged everywhere and its first batch is at work."""
    driver.deployed(orders, "1.0")
    started = driver.start(orders, "1.1")
    driver.tick(started)
    driver.answer(started)
    return started


def queue_up(driver: Driver, service: Service, version: str) -> Rollout:
    """A rollout that waits for the one under way."""
    return start_rollout(
        actor=driver.actor,
        service_id=service.id,
        environment_id=driver.world.prod.id,
        release_id=driver.world.release(service, version).id,
        if_busy="queue",
    )


def explain(name: object, *arguments: str) -> str:
    out = StringIO()
    call_command("rollouts", "explain", str(name), *arguments, stdout=out, no_color=True)
    return out.getvalue()


def section(text: str, title: str) -> str:
    return text.partition(f"\n{title}\n")[2].partition("\n\n")[0]


def test_a_rollout_under_way(rollout: Rollout) -> None:
    text = explain(rollout.id)
    assert text.startswith("orders 1.1 to prod  RUNNING\n")
    assert f"  id               {rollout.id}\n" in text
    assert "deploy, normal priority, by owner" in text
    assert "3 activating, 9 staged" in text
    assert rollout.waiting_on["sentence"] in text
    assert "    way out        pause, rollback, cancel" in text
    assert f"  lease            free, fence {rollout.fence}\n" in text
    timeline = section(text, "Timeline").splitlines()
    assert len(timeline) == rollout.event_count
    assert "Rollout created: test" in timeline[0]
    assert f"waits: {rollout.waiting_on['sentence']}" in timeline[-1]
    assert f"- It waits: {rollout.waiting_on['sentence']}" in section(text, "What the planner would do now")


def test_what_the_planner_would_do_next_is_what_it_then_does(driver: Driver, rollout: Rollout) -> None:
    """The agents' words are in, but nobody has looked since: here with the reports taken up already."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE deployments_task SET state = 'succeeded', finished_at = now() WHERE kind = 'activate' "
            "AND rollout_id = %s",
            [rollout.id],
        )
    names = ", ".join(name for name, state in driver.states(rollout).items() if state == "activating")
    steps = section(explain(rollout.id), "What the planner would do now")
    assert f"- To healthy: {names}" in steps
    assert "- Task to activate, attempt 2, until" in steps
    driver.tick(rollout)
    assert f"- To healthy: {names}" not in explain(rollout.id)
    assert [driver.states(rollout)[name] for name in names.split(", ")] == ["healthy"] * 3


def test_reports_that_nobody_took_up_are_named(driver: Driver, rollout: Rollout) -> None:
    for task in driver.open_tasks(rollout):
        driver.report(task)
    assert "(3 reports of agents are still to be taken up first.)" in explain(rollout.id)


def test_nothing_is_changed_and_no_lease_is_taken(rollout: Rollout) -> None:
    before = contents()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        explain(rollout.id)
    assert contents() == before
    statements = [query["sql"].lstrip() for query in queries]
    assert "SET TRANSACTION READ ONLY" in statements
    assert not [sql for sql in statements if sql.startswith(("UPDATE", "INSERT", "DELETE"))]


def test_who_holds_the_lease_is_named(rollout: Rollout) -> None:
    held = lease.claim(rollout.id, sorted(ACTIVE))
    assert held is not None
    text = explain(rollout.id)
    assert f"{held.owner} until " in text
    assert f":{os.getpid()}:" in held.owner
    assert f"fence {held.fence}" in text


def test_a_paused_rollout(rollout: Rollout, owner: Person) -> None:
    pause_rollout(actor=owner, rollout_id=rollout.id, reason="Orders look odd")
    text = explain(rollout.id)
    assert text.startswith("orders 1.1 to prod  PAUSED\n")
    assert "Orders look odd (owner)" in text
    assert "resume" in text
    assert "Rollout paused: Orders look odd (owner)" in section(text, "Timeline")


def test_a_rollout_at_its_end(driver: Driver, rollout: Rollout) -> None:
    driver.finish(rollout)
    text = explain(rollout.id)
    assert text.startswith("orders 1.1 to prod  SUCCEEDED\n")
    assert "waits for" not in text.partition("Timeline")[0]
    assert section(text, "What the planner would do now").strip() == "Nothing: the rollout is at its end."


def test_a_rollout_that_waits_for_its_turn(driver: Driver, rollout: Rollout, orders: Service) -> None:
    waiting = driver.tick(queue_up(driver, orders, "1.2"))
    assert waiting.state == "queued"
    text = explain(waiting.id)
    assert text.startswith("orders 1.2 to prod  QUEUED\n")
    assert waiting.waiting_on["sentence"] in text
    assert f"- It waits: {waiting.waiting_on['sentence']}" in text


def test_a_rollout_that_the_engine_cannot_digest(rollout: Rollout) -> None:
    poison(rollout)
    tick(rollout, MAX_FAILURES)
    text = explain(rollout.id)
    assert "  quarantine       since " in text
    assert f"{MAX_FAILURES} in a row" in text
    steps = section(text, "What the planner would do now")
    assert "Nothing while it is in quarantine" in steps
    assert "It fails: ValidationError: Expected `array`" in steps


def test_a_long_history_is_cut_and_says_so(rollout: Rollout) -> None:
    text = explain(rollout.id, "--events", "3")
    assert f"... {rollout.event_count - 3} earlier; --events 0 shows all" in text
    assert len(section(text, "Timeline").splitlines()) == 4
    assert len(section(explain(rollout.id, "--events", "0"), "Timeline").splitlines()) == rollout.event_count


def test_it_is_found_by_the_beginning_of_its_id_and_by_where_it_goes(
    rollout: Rollout, driver: Driver, orders: Service
) -> None:
    driver.tick(queue_up(driver, orders, "1.2"))
    whole = explain(rollout.id).splitlines()[1]
    assert str(rollout.id) in whole
    for name in (str(rollout.id)[:35], rollout.id.hex, rollout.id.hex[:31].upper(), "orders/prod"):
        assert explain(name).splitlines()[1] == whole, name


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ffffffff-ffff-4fff-bfff-ffffffffffff", "There is no rollout whose id begins with"),
        ("0", "may be"),
        ("nonsense", "is no id of a rollout"),
        ("orders/nowhere", "No rollout of “orders” to “nowhere” is active"),
        ("", "is no id of a rollout"),
    ],
)
def test_a_name_that_names_nothing_or_too_much_is_explained(rollout: Rollout, name: str, said: str) -> None:
    with pytest.raises(CommandError, match=said):
        explain(name)


def test_of_several_that_wait_it_asks_which(
    rollout: Rollout, driver: Driver, orders: Service, owner: Person
) -> None:
    first, second = (queue_up(driver, orders, version) for version in ("1.2", "1.3"))
    cancel_rollout(actor=owner, rollout_id=rollout.id, reason="No")
    with pytest.raises(CommandError, match=f"{first.id}.*{second.id}"):
        explain("orders/prod")


@pytest.mark.django_db(transaction=True)
def test_it_is_in_colour_on_a_terminal_and_plain_in_a_pipe(rollout: Rollout) -> None:
    command = [sys.executable, "manage.py", "rollouts", "explain", str(rollout.id)]
    environment = os.environ | {"DATABASE_URL": database_url(), "TERM": "xterm"}
    piped = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "orders 1.1 to prod  RUNNING" in piped.stdout
    assert "\x1b[" not in piped.stdout
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs) as process:
        os.close(theirs)
        shown = read_to_the_end(ours)
    assert process.returncode == 0
    assert b"\x1b[" in shown
    assert b"RUNNING" in shown


def read_to_the_end(terminal: int) -> bytes:
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:
        pass  # how a terminal ends whose other side was closed
    finally:
        os.close(terminal)
    return shown
