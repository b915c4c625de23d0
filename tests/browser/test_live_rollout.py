"""The rollout page, watched while the engine works."""

import re

import pytest
from playwright.sync_api import expect

from deployments.models import Rollout
from tests.browser.conftest import Open
from tests.engine.driver import Driver
from tests.fixtures import Person

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.django_db(transaction=True)]


def test_tiles_batches_and_header_change_as_it_happens(
    open_page: Open, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    page = open_page(owner, f"/rollouts/{rollout.id}/")
    expect(page.locator("#live-state")).to_have_text("Live")
    page.evaluate("window.notReloaded = true")
    first = page.locator(".batch").first
    expect(first.locator(".tile[data-state=activating]")).to_have_count(3)
    driver.answer(rollout)
    expect(first.locator(".tile[data-state=healthy]")).to_have_count(3)
    expect(first.locator(".tile").first).to_contain_text("healthy")
    expect(first.locator(".tile-version").first).to_have_text("1.1", use_inner_text=True)
    expect(first.locator(".pill")).to_have_text("succeeded")
    expect(first.locator("[data-done]")).to_have_text("3")
    expect(page.locator(".figures")).to_contain_text("Remaining")
    driver.finish(rollout)
    expect(page.locator("#rollout-state")).to_have_text("succeeded")
    expect(page.locator(".tile[data-state=healthy]")).to_have_count(12)
    expect(page.locator("#announcement")).to_contain_text("Rollout succeeded")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    rollout.refresh_from_db()
    expect(page.locator("#stream li").first).to_have_attribute("data-number", str(rollout.event_count))
    expect(page.locator("#stream li")).to_have_count(rollout.event_count)
    assert page.evaluate("window.notReloaded")


def test_a_failure_shows_its_reason_and_its_log_where_it_happened(
    open_page: Open, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    page = open_page(owner, f"/rollouts/{rollout.id}/")
    expect(page.locator("#live-state")).to_have_text("Live")
    broken = driver.open_tasks(rollout)[0]
    driver.report(
        broken, "failed", code="unhealthy", message="It answered 500", log_tail=("ZeroDivisionError",)
    )
    driver.tick(rollout)
    tile = page.locator(".tile", has_text=broken.target.name)
    expect(tile).to_contain_text("It answered 500")
    expect(page.locator("#failures")).to_contain_text("ZeroDivisionError")
    driver.finish(rollout)
    expect(page.locator("#rollout-state")).to_have_text("rolled back")
    expect(tile).to_have_attribute("data-state", "reverted")
    # Put back or not, and after a reload too, the page says what went wrong.
    for _ in range(2):
        expect(tile).to_contain_text("It answered 500")
        expect(page.locator("#failures")).to_contain_text("ZeroDivisionError")
        page.reload()


SLOW = """
const send = XMLHttpRequest.prototype.send;
XMLHttpRequest.prototype.send = function (...body) { setTimeout(() => send.apply(this, body), 400); };
"""


def test_slow_fragments_neither_cross_nor_get_lost(
    open_page: Open, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    page = open_page(owner, f"/rollouts/{rollout.id}/", init=SLOW)
    expect(page.locator("#live-state")).to_have_text("Live")
    # Events come while fragments that were asked for earlier are still on their way.
    driver.answer(rollout)
    page.wait_for_timeout(250)
    driver.answer(rollout, failing=["orders-04"])
    page.wait_for_timeout(250)
    driver.finish(rollout)
    rollout.refresh_from_db()
    expect(page.locator("#rollout-state")).to_have_text("rolled back")
    expect(page.locator("#failures")).to_contain_text("orders-04")
    expect(page.locator("#stream li").first).to_have_attribute("data-number", str(rollout.event_count))
    numbers = page.eval_on_selector_all("#stream li", "all => all.map((one) => Number(one.dataset.number))")
    assert numbers == list(range(rollout.event_count, 0, -1))


def test_pausing_asks_for_a_reason_in_a_dialog(
    open_page: Open, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    page = open_page(owner, f"/rollouts/{rollout.id}/")
    page.get_by_role("button", name="Pause").click()
    dialog = page.get_by_role("dialog", name="Pause this rollout?")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Reason").fill("Orders look odd")
    # What happens meanwhile renders the header anew; the dialog and what was typed stay.
    driver.answer(rollout)
    expect(page.locator(".tile[data-state=healthy]")).to_have_count(3)
    expect(dialog.get_by_label("Reason")).to_have_value("Orders look odd")
    dialog.get_by_role("button", name="Pause").click()
    expect(page.locator("#rollout-state")).to_have_text("paused")
    driver.tick(rollout)
    expect(page.locator(".status-say")).to_contain_text("Orders look odd")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    rollout.refresh_from_db()
    assert rollout.state == "paused"


def test_the_keyboard_alone_reaches_and_uses_a_button(
    open_page: Open, owner: Person, rollout: Rollout
) -> None:
    page = open_page(owner, f"/rollouts/{rollout.id}/")
    # The page asks for its header anew when its socket opens; keys go to what is there for good.
    expect(page.locator("#live-state")).to_contain_text("Live")
    page.wait_for_load_state("networkidle")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    button = page.get_by_role("button", name="Cancel rollout").first
    for _ in range(20):
        page.keyboard.press("Tab")
        if button.evaluate("node => node === document.activeElement"):
            break
    expect(button).to_be_focused()
    assert button.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Cancel this rollout?")
    expect(dialog.get_by_label("Reason")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()


def test_without_javascript_the_same_form_is_a_page(open_page: Open, owner: Person, rollout: Rollout) -> None:
    page = open_page(owner, f"/rollouts/{rollout.id}/", script=False)
    expect(page.locator(".tile")).to_have_count(12)
    page.get_by_role("button", name="Roll back").click()
    expect(page).to_have_url(re.compile("/rollback/$"))
    page.get_by_label("Reason").fill("By hand")
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator("#rollout-state")).to_have_text("rolling back")


def test_the_overview_follows_without_a_reload(
    open_page: Open, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    page = open_page(owner, "/")
    expect(page.locator("#live-state")).to_have_text("Live")
    expect(page.locator("#matrix")).to_contain_text("1.1 running, 0 of 12")
    driver.answer(rollout)
    expect(page.locator("#matrix")).to_contain_text("1.1 running, 3 of 12")
    driver.finish(rollout)
    expect(page.locator("#matrix")).not_to_contain_text("running")
