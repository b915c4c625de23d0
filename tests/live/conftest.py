"""Two real web processes for each module, and peers that are closed when a test ends."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import nacl.signing
import pytest
from django.test import Client

from deployments import events
from deployments.domain.actor import Actor
from deployments.models import Agent, Rollout, Service
from tests.engine.driver import Driver
from tests.fixtures import Person, World
from tests.live.web import AgentPeer, Browser, WebServer, session_of, stopping


@pytest.fixture(scope="module")
def web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    yield from stopping(WebServer(tmp_path_factory.mktemp("web") / "log"))


@pytest.fixture(scope="module")
def second_web(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    yield from stopping(WebServer(tmp_path_factory.mktemp("web") / "log"))


@pytest.fixture
def open_peers() -> Iterator[ExitStack]:
    with ExitStack() as peers:
        yield peers


@pytest.fixture
def driver(catalog: World, owner: Person) -> Driver:
    return Driver(catalog, owner)


@pytest.fixture
def rollout(driver: Driver, orders: Service) -> Rollout:
    """A rollout of orders 1.0 that waits for its agent to stage it."""
    return driver.tick(driver.start(orders, "1.0"))


@pytest.fixture
def browse(open_peers: ExitStack) -> Callable[..., Browser]:
    """Open a socket as a person: `browse(web, "/live/overview/", owner)`."""

    def _browse(server: WebServer, path: str, person: Person | None, **more: Any) -> Browser:
        cookie = session_of(Client(), person) if person else ""
        browser = Browser(server, path, cookie, **more)
        open_peers.callback(browser.close)
        return browser

    return _browse


@pytest.fixture
def connect_agent(open_peers: ExitStack, world: World) -> Callable[..., AgentPeer]:
    def _connect(server: WebServer, agent: Agent | None = None, **more: Any) -> AgentPeer:
        key: nacl.signing.SigningKey = more.pop("key", world.agent_key)
        peer = AgentPeer(server, agent or world.agent, key, **more)
        open_peers.callback(peer.close)
        return peer

    return _connect


def note(rollout: Rollout, count: int = 1) -> None:
    """Record `count` more events."""
    change = events.Change(
        verb="rollout.note",
        object_kind="rollout",
        object_id=str(rollout.id),
        event="rollout.note",
        audited=False,
    )
    events.record(actor=Actor.system(), rollout_id=rollout.id, changes=[change] * count)
