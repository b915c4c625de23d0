"""Browsers' sockets: every event once and in order, to those who may see it."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from websockets.exceptions import InvalidStatus

from deployments import access, protocol
from deployments.agents import logs, observations
from deployments.agents.observations import Observation
from deployments.models import Membership, Rollout, Service, Target
from portal.accounts.models import User
from tests.fixtures import Person, World
from tests.live.conftest import note
from tests.live.web import Browser, WebServer, eventually

pytestmark = pytest.mark.django_db(transaction=True)

Browse = Callable[..., Browser]


def has(number: int) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda events: bool(events) and events[-1]["n"] >= number


def last_number(rollout: Rollout) -> int:
    rollout.refresh_from_db()
    return rollout.event_count


def test_two_web_processes_deliver_every_event_in_order(
    web: WebServer, second_web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    browsers = [browse(server, f"/live/rollouts/{rollout.id}/", owner) for server in (web, second_web)]
    for _ in range(20):
        note(rollout)
    last = last_number(rollout)
    for browser in browsers:
        browser.until(has(last))
        assert browser.numbers() == list(range(1, last + 1))
        assert browser.events[-1]["kind"] == "rollout.note"
        assert browser.events[-1]["data"]["id"] == str(rollout.id)
        assert browser.events[-1]["at"].endswith("+00:00")


def test_a_browser_that_comes_back_gets_what_it_missed_and_nothing_twice(
    web: WebServer, second_web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    before = browse(web, f"/live/rollouts/{rollout.id}/", owner)
    last = last_number(rollout)
    before.until(has(last))
    before.close()
    note(rollout, 3)
    again = browse(second_web, f"/live/rollouts/{rollout.id}/?after={last}", owner)
    note(rollout)
    again.until(has(last + 4))
    assert before.numbers() + again.numbers() == list(range(1, last + 5))


def test_nobody_misses_anything_while_joining_during_a_storm(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            note(rollout, 5)
        connection.close()

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        browsers = [
            browse(web, f"/live/rollouts/{rollout.id}/?after={after}", owner) for after in range(0, 40, 2)
        ]
    finally:
        stop.set()
        thread.join()
    last = last_number(rollout)
    for after, browser in zip(range(0, 40, 2), browsers, strict=True):
        browser.until(has(last))
        assert browser.numbers() == list(range(after + 1, last + 1))


def test_a_long_history_is_sent_in_pages(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    note(rollout, 1234)
    last = last_number(rollout)
    browser = browse(web, f"/live/rollouts/{rollout.id}/", owner)
    browser.until(has(last))
    assert browser.numbers() == list(range(1, last + 1))


def test_a_lost_database_connection_is_made_again_and_nothing_is_missed(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    browser = browse(web, f"/live/rollouts/{rollout.id}/", owner)
    note(rollout)
    browser.until(has(last_number(rollout)))
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE application_name = 'slipway-web' AND datname = current_database()"
        )
        assert cursor.fetchone()[0] >= 2
    note(rollout, 2)
    browser.until(has(last_number(rollout)))
    note(rollout)
    last = last_number(rollout)
    browser.until(has(last))
    assert browser.numbers() == list(range(1, last + 1))


@pytest.mark.parametrize("path", ["/live/rollouts/{rollout}/", "/live/targets/{target}/", "/live/nothing/"])
def test_an_outsider_does_not_learn_that_it_exists(
    path: str, web: WebServer, rollout: Rollout, outsider: Person, browse: Browse
) -> None:
    target = Target.objects.earliest("name")
    browser = browse(web, path.format(rollout=rollout.id, target=target.id), outsider)
    assert browser.close_code() == 4404


def test_a_viewer_may_watch(web: WebServer, rollout: Rollout, viewer: Person, browse: Browse) -> None:
    assert browse(web, f"/live/rollouts/{rollout.id}/", viewer).read()[0]["n"] == 1


def test_who_is_not_signed_in_is_told_so(web: WebServer, rollout: Rollout, browse: Browse) -> None:
    assert browse(web, f"/live/rollouts/{rollout.id}/", None).close_code() == 4401


def test_another_sites_page_is_refused(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    with pytest.raises(InvalidStatus, match="403"):
        browse(web, f"/live/rollouts/{rollout.id}/", owner, origin="https://elsewhere.example")


@pytest.mark.parametrize(("what", "code"), [("membership", 4403), ("log-out", 4401), ("account", 4401)])
def test_an_open_socket_ends_with_the_right_to_it(
    what: str, code: int, web: WebServer, rollout: Rollout, owner: Person, teammate: Person, browse: Browse
) -> None:
    stays = browse(web, f"/live/rollouts/{rollout.id}/", teammate)
    browser = browse(web, f"/live/rollouts/{rollout.id}/", owner)
    browser.read()
    if what == "membership":
        membership = Membership.objects.get(user=owner.user)
        access.unproject(membership)
        membership.delete()
    elif what == "log-out":
        session = browser.cookie
        Session.objects.get(session_key=session).delete()
    else:
        User.objects.filter(pk=owner.user.pk).update(is_active=False)
    assert browser.close_code() == code
    note(rollout)
    stays.until(has(last_number(rollout)))


def test_strange_numbers_count_as_none(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    for after in ("-1", "x", "", "%00", "9" * 30):
        assert browse(web, f"/live/rollouts/{rollout.id}/?after={after}", owner).read()[0]["n"] == 1


@pytest.mark.parametrize("of", ["rollouts", "targets"])
def test_a_number_from_the_future_counts_as_the_newest(
    of: str, web: WebServer, catalog: World, rollout: Rollout, owner: Person, viewer: Person, browse: Browse
) -> None:
    target = Target.objects.get(name="orders-01")
    subject = rollout if of == "rollouts" else target

    def happen() -> None:
        note(rollout)
        logs.append([(catalog.agent.id, protocol.LogChunk(target_id=str(target.id), text="x"))])

    happen()
    liar = browse(web, f"/live/{of}/{subject.id}/?after={2**62}", viewer)
    eventually(lambda: happen() or _hears(liar))  # type: ignore[func-returns-value]
    honest = browse(web, f"/live/{of}/{subject.id}/", owner)
    honest.until(has(liar.numbers()[-1]))
    assert len(honest.events) > len(liar.events)


def test_an_overview_hears_of_its_own_services_only(
    web: WebServer, catalog: World, rollout: Rollout, owner: Person, outsider: Person, browse: Browse
) -> None:
    mine, foreign = browse(web, "/live/overview/", owner), browse(web, "/live/overview/", outsider)
    # Both are open once each of them hears of what is its own.
    other = catalog.service("billing", team=catalog.other_team, targets=1)
    heard = threading.Event()

    def until_both_heard() -> None:
        while not heard.wait(0.05):
            note(rollout)
            _turn(other, "healthy")
            _turn(other, "unhealthy")
        connection.close()

    thread = threading.Thread(target=until_both_heard)
    thread.start()
    try:
        assert mine.read() == [_changed(rollout, rollout.service_id, catalog)]
        assert foreign.read() == [_changed(None, other.id, catalog)]
    finally:
        heard.set()
        thread.join()


def test_an_overview_hears_a_few_times_a_second_at_most(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    browser = browse(web, "/live/overview/", owner)
    eventually(lambda: note(rollout) or _hears(browser))  # type: ignore[func-returns-value]
    messages = 0
    stop = threading.Event()

    def storm() -> None:
        while not stop.is_set():
            note(rollout)
        connection.close()

    thread = threading.Thread(target=storm)
    thread.start()
    threading.Timer(1.5, stop.set).start()
    while not stop.is_set():
        messages += _hears(browser)
    thread.join()
    assert 3 <= messages <= 7


def test_a_targets_page_gets_its_output_and_its_health(
    web: WebServer, catalog: World, owner: Person, browse: Browse
) -> None:
    target = Target.objects.get(name="orders-01")
    logs.append([(catalog.agent.id, protocol.LogChunk(target_id=str(target.id), text="one\n"))])
    browser = browse(web, f"/live/targets/{target.id}/", owner)
    assert [event["data"]["text"] for event in browser.read()] == ["one\n"]
    logs.append([(catalog.agent.id, protocol.LogChunk(target_id=str(target.id), text="two\n"))])
    assert [event["data"]["text"] for event in browser.read()] == ["two\n"]
    _turn(target.service, "healthy")
    (event,) = browser.read()
    assert event["kind"] == "target"
    assert event["data"]["health"] == "healthy"
    assert event["data"]["reported"]["status"] == "running"


def test_a_reader_that_is_too_slow_is_let_go_and_holds_nobody_up(
    web: WebServer, rollout: Rollout, owner: Person, browse: Browse
) -> None:
    slow = browse(web, f"/live/rollouts/{rollout.id}/", owner)
    slow.read()
    quick = browse(web, f"/live/rollouts/{rollout.id}/", owner)
    while not web.logged("live.too_slow"):
        note(rollout, 400)
        quick.until(has(last_number(rollout)))
    assert slow.close_code() == 4408


def _hears(browser: Browser) -> bool:
    try:
        browser.read(0.05)
    except TimeoutError:
        return False
    return True


def _turn(service: Service, health: Any) -> None:
    target = Target.objects.select_related("agent").filter(service=service).earliest("name")
    assert target.agent_id is not None
    report = protocol.TargetReport(target_id=str(target.id), status="running", health=health)
    observations.observe([Observation(target.agent_id, report)])


def _changed(rollout: Rollout | None, service_id: Any, world: World) -> dict[str, Any]:
    return {
        "kind": "changed",
        "rollout": str(rollout.id) if rollout else None,
        "service": str(service_id),
        "environment": str(world.prod.id),
    }
