"""Chromium before a real web process on the test database."""

import os
from collections.abc import Callable, Iterator

import pytest
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from deployments.models import Rollout, Service
from tests.conftest import find_chromium
from tests.engine.driver import Driver
from tests.fixtures import Person, World
from tests.live.web import WebServer, session_of, stopping

FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
Open = Callable[..., Page]


@pytest.fixture(scope="session")
def async_unsafe() -> Iterator[None]:
    """Playwright's loop runs in this thread, beside the ORM: Django would refuse that."""
    before = os.environ.get("DJANGO_ALLOW_ASYNC_UNSAFE")
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    yield
    if before is None:
        del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]
    else:
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = before


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    yield from stopping(WebServer(tmp_path_factory.mktemp("web") / "log"))


@pytest.fixture(scope="module")
def chromium(async_unsafe: None) -> Iterator[Browser]:
    # A module's and not the session's: the loop would stand in the way of asyncio tests that come later.
    # Patience for a busy machine; what is expected comes within a fraction of a second on an idle one.
    expect.set_options(timeout=20_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def world(transactional_db: None, world: World) -> World:
    """Rows that the web process sees: committed, not in a transaction of the test."""
    return world


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


@pytest.fixture
def complaints() -> list[str]:
    """What the browser complained about: errors, warnings and violations of the content policy."""
    return []


@pytest.fixture
def open_page(
    chromium: Browser, web: WebServer, complaints: list[str], transactional_db: None
) -> Iterator[Open]:
    """`open_page(owner, "/", width=390)`: a signed-in page. Fails when the browser complained."""
    contexts: list[BrowserContext] = []

    def noted(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(f"{message.location.get('url')}: {message.text}")

    def _open(
        person: Person | None,
        path: str,
        *,
        width: int = 1440,
        theme: str = "light",
        script: bool = True,
        init: str = "",
    ) -> Page:
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,  # type: ignore[arg-type]
            java_script_enabled=script,
        )
        context.set_default_timeout(30_000)
        contexts.append(context)
        if person is not None:
            cookie = session_of(Client(), person)
            context.add_cookies([{"name": "slipway_session", "value": cookie, "url": web.origin}])
        page = context.new_page()
        if init:
            page.add_init_script(init)
        page.on("console", noted)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(web.origin + path)
        return page

    yield _open
    for context in contexts:
        context.close()
    assert not complaints
