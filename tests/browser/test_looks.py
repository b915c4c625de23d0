"""What holds for every page: no complaint of the browser, no overflow, a theme, names for everything."""

from itertools import pairwise

import pytest
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from playwright.sync_api import Page, expect

from deployments import queueing
from deployments.models import JobFault, Rollout, Service
from tests.browser.conftest import Open
from tests.fixtures import PASSWORD, Person
from tests.live.web import WebServer

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.django_db(transaction=True)]

UNNAMED = """() => {
  const named = (node) =>
    node.labels?.length || node.getAttribute("aria-label") || node.getAttribute("aria-labelledby") ||
    node.textContent.trim() || node.title;
  const shown = [...document.querySelectorAll("a, button, input:not([type=hidden]), select, textarea")];
  return shown.filter((node) => !named(node)).map((node) => node.outerHTML);
}"""
HEADINGS = """() => [...document.querySelectorAll("h1, h2, h3, h4")]
  .filter((node) => node.checkVisibility()).map((node) => Number(node.tagName[1]))"""
TWICE = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  return ids.filter((id, at) => ids.indexOf(id) !== at);
}"""


def paths(rollout: Rollout, orders: Service) -> list[str]:
    target = orders.targets.order_by("name").first()
    assert target is not None
    return [
        "/",
        "/services/orders/",
        "/services/orders/deploy/",
        f"/releases/{rollout.release_id}/",
        f"/rollouts/{rollout.id}/",
        f"/rollouts/{rollout.id}/pause/",
        "/rollouts/",
        f"/targets/{target.id}/",
        "/environments/",
        "/environments/prod/",
        "/agents/",
        "/audit/",
        "/faults/",
    ]


def check(page: Page, path: str) -> None:
    assert page.evaluate("document.documentElement.lang") == "en", path
    assert page.evaluate(UNNAMED) == [], path
    assert page.evaluate(TWICE) == [], path
    headings = page.evaluate(HEADINGS)
    assert headings.count(1) == 1, path
    assert headings[0] == 1, path
    assert all(after - before <= 1 for before, after in pairwise(headings)), (
        path,
        headings,
    )
    for table in page.locator("table").all():
        assert table.locator("caption").count() == 1, path


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_every_page_is_whole(
    open_page: Open, web: WebServer, admin: Person, rollout: Rollout, orders: Service, theme: str, width: int
) -> None:
    JobFault.objects.create(
        function=queueing.TICK, subject=str(rollout.id), error="ValueError: x" * 20, traceback="line\n" * 9
    )
    page = open_page(admin, "/", width=width, theme=theme)
    for path in paths(rollout, orders):
        page.goto(web.origin + path)
        check(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_logging_in_by_hand(open_page: Open, owner: Person, orders: Service) -> None:
    # The web process checks passwords as in production; the tests' quick hasher is unknown to it.
    owner.user.password = PBKDF2PasswordHasher().encode(PASSWORD, "salt")
    owner.user.save(update_fields=["password"])
    page = open_page(None, "/services/orders/")
    check(page, "/login/")
    page.get_by_label("User name").fill("owner")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("orders")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in to Slipway")


def ground(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def test_the_theme_follows_the_system_until_somebody_chooses(open_page: Open, owner: Person) -> None:
    page = open_page(owner, "/", theme="dark")
    dark = ground(page)
    page.get_by_role("button", name="Theme: system").click()
    expect(page.get_by_role("button", name="Theme: light")).to_be_visible()
    light = ground(page)
    assert light != dark
    page.reload()
    assert ground(page) == light
    expect(page.locator("html")).to_have_attribute("data-theme", "light")
    page.get_by_role("button", name="Theme: light").click()
    assert ground(page) == dark
