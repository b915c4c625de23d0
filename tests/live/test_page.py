"""`static/js/socket.js` in a real browser, against a web process that goes away and comes back."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from playwright.sync_api import Page, sync_playwright

from deployments.models import Rollout
from tests.conftest import find_chromium
from tests.fixtures import Person
from tests.live.conftest import note
from tests.live.web import WebServer, eventually, session_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.needs("chromium")]

OPEN = """async ([path, after]) => {
    const { connect } = await import("/static/js/socket.js");
    window.seen = [];
    window.states = [];
    window.opened = connect(path, {
        after,
        onEvents: (events) => window.seen.push(...events.map((event) => event.n)),
        onState: (state) => window.states.push(state),
    });
}"""


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    # Playwright's synchronous interface runs an event loop, beside which Django refuses the ORM.
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    arguments = [
        "--no-sandbox",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=arguments)
        yield browser.new_page()
        browser.close()
        # Beside a running loop Django's connections are others than without one: these end with it.
        connections.close_all()


def visit(page: Page, server: WebServer, client: Any, person: Person) -> None:
    page.context.add_cookies(
        [{"name": "slipway_session", "value": session_of(client, person), "url": server.origin}]
    )
    page.goto(server.origin + "/static/js/socket.js")


def test_a_page_goes_on_after_a_restart_without_gap_or_duplicate(
    page: Page, tmp_path: Path, rollout: Rollout, owner: Person, client: Any
) -> None:
    server = WebServer(tmp_path / "log")
    try:
        visit(page, server, client, owner)
        page.evaluate(OPEN, [f"/live/rollouts/{rollout.id}/", 3])
        note(rollout, 2)
        rollout.refresh_from_db()
        first = rollout.event_count
        eventually(lambda: page.evaluate("window.seen.at(-1)") == first)

        server.stop()
        eventually(lambda: page.evaluate("window.opened.state") == "reconnecting")
        note(rollout, 3)
        server = WebServer(tmp_path / "second-log", port=server.port)
        eventually(lambda: page.evaluate("window.seen.at(-1)") == first + 3, seconds=20)
        assert page.evaluate("window.seen") == list(range(4, first + 4))
        assert page.evaluate("window.states") == ["live", "reconnecting", "live"]
        assert page.evaluate("window.opened.last") == first + 3
    finally:
        server.stop()


def test_a_page_does_not_ask_again_for_what_it_may_not_see(
    page: Page, web: WebServer, rollout: Rollout, outsider: Person, client: Any
) -> None:
    visit(page, web, client, outsider)
    page.evaluate(OPEN, [f"/live/rollouts/{rollout.id}/", 0])
    eventually(lambda: page.evaluate("window.opened.state") == "ended")
    assert page.evaluate("window.states") == ["live", "ended"]
    assert page.evaluate("window.seen") == []
