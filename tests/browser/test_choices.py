"""Retry, skip and holds by hand, in both themes; what others do meanwhile appears by itself."""

import re

import pytest
from django.db import connection
from playwright.sync_api import expect

from deployments.agents import news
from deployments.models import Rollout, Service, Target
from deployments.services.retries import skip_targets
from deployments.services.rollouts import start_rollout
from tests.browser.conftest import Open
from tests.browser.test_looks import check
from tests.engine.driver import Driver
from tests.fixtures import Person, World
from tests.live.web import WebServer

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.django_db(transaction=True)]

THEMES = pytest.mark.parametrize("theme", ["light", "dark"])


@pytest.fixture
def paused(driver: Driver, orders: Service) -> Rollout:
    """1.1 on its way: orders-01 failed, and the policy paused it."""
    driver.deployed(orders, "1.0")
    rollout = driver.tick(driver.start(orders, "1.1", on_failure="pause"))
    driver.answer(rollout)
    driver.answer(rollout, failing=["orders-01"])
    assert rollout.state == "paused"
    return rollout


@THEMES
def test_a_failed_target_is_retried_from_the_dialog(
    open_page: Open, owner: Person, driver: Driver, paused: Rollout, theme: str
) -> None:
    page = open_page(owner, f"/rollouts/{paused.id}/", theme=theme)
    expect(page.locator("#live-state")).to_have_text("Live")
    expect(page.locator(".status-say")).to_contain_text("Waits for a person")
    page.get_by_role("group", name="What ends the wait").get_by_role("button", name="Retry").click()
    dialog = page.get_by_role("dialog", name="Retry failed targets?")
    expect(dialog.get_by_label("orders-01")).to_be_checked()
    dialog.get_by_label("Reason").fill("The disk has room again")
    dialog.get_by_role("button", name="Retry failed targets").click()
    expect(page.locator("#rollout-state")).to_have_text("running")
    driver.finish(paused)
    expect(page.locator("#rollout-state")).to_have_text("succeeded")
    expect(page.locator(".tile[data-state=healthy]")).to_have_count(12)


@THEMES
def test_a_target_is_skipped_from_the_dialog_and_shown_so(
    open_page: Open, owner: Person, paused: Rollout, theme: str
) -> None:
    page = open_page(owner, f"/rollouts/{paused.id}/", theme=theme, width=390)
    page.get_by_role("button", name="Skip targets").first.click()
    dialog = page.get_by_role("dialog", name="Leave targets out?")
    # The whole line is the box's label, and the keyboard ticks it too.
    dialog.get_by_text("orders-01").click()
    expect(dialog.get_by_label("orders-01")).to_be_checked()
    dialog.get_by_label("orders-04").press("Space")
    dialog.get_by_label("Reason").fill("Their disks are broken")
    dialog.get_by_role("button", name="Skip targets").click()
    expect(page.locator(".tile[data-state=skipped]")).to_have_count(2)
    touched = page.locator(".tile", has_text="orders-01")
    expect(touched).to_contain_text("Their disks are broken (owner)")
    expect(touched.locator(".tile-version")).to_have_text("1.1", use_inner_text=True)
    expect(page.locator(".tile", has_text="orders-04").locator(".tile-version")).to_have_text(
        "1.0", use_inner_text=True
    )
    expect(page.locator(".figures")).to_contain_text("Skipped")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_what_somebody_else_skips_appears_by_itself(
    open_page: Open, viewer: Person, owner: Person, paused: Rollout
) -> None:
    page = open_page(viewer, f"/rollouts/{paused.id}/")
    expect(page.locator("#live-state")).to_have_text("Live")
    one = paused.targets.get(target__name="orders-04")
    skip_targets(actor=owner, rollout_id=paused.id, targets=[one.target_id], reason="In repair")
    tile = page.locator(".tile", has_text="orders-04")
    expect(tile).to_have_attribute("data-state", "skipped")
    expect(tile).to_contain_text("In repair")
    expect(page.locator("#stream")).to_contain_text("orders-04 skipped")
    expect(page.locator(".figures")).to_contain_text("Skipped")


@THEMES
def test_a_release_is_put_on_hold_and_the_hold_lifted(
    open_page: Open, web: WebServer, owner: Person, paused: Rollout, theme: str
) -> None:
    path = f"/releases/{paused.release_id}/"
    page = open_page(owner, path, theme=theme)
    page.get_by_label("Why nobody may roll it out").fill("It loses orders")
    page.get_by_role("button", name="Put on hold").click()
    expect(page.get_by_role("heading", name="On hold: no rollout of it starts")).to_be_visible()
    check(page, path)
    page.goto(f"{web.origin}/services/orders/deploy/?release={paused.release_id}")
    expect(page.locator(".note")).to_contain_text("It loses orders")
    page.get_by_role("link", name="lift its hold").click()
    page.get_by_label("Why it may be rolled out again").fill("It was the network")
    page.get_by_role("button", name="Lift hold").click()
    expect(page.get_by_role("link", name="Deploy this release")).to_be_visible()


def test_rolling_back_says_before_where_to(
    open_page: Open, owner: Person, driver: Driver, orders: Service
) -> None:
    driver.deployed(orders, "1.0")
    driver.deployed(orders, "1.1")
    last = driver.deployed(orders, "1.2")
    page = open_page(owner, f"/rollouts/{last.id}/")
    page.get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog", name="Roll this back?")
    expect(dialog).to_contain_text("Back to 1.1.")
    expect(dialog).to_contain_text("1.2 is put on hold")
    dialog.get_by_label("Go back to").select_option(label="1.0")
    dialog.get_by_label("Reason").fill("1.1 has the same fault")
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("orders 1.0")


def test_without_javascript_targets_are_chosen_on_a_page(
    open_page: Open, owner: Person, paused: Rollout, complaints: list[str]
) -> None:
    page = open_page(owner, f"/rollouts/{paused.id}/", script=False)
    page.get_by_role("button", name="Skip targets").click()
    expect(page).to_have_url(re.compile("/skip/$"))
    page.get_by_label("Reason").fill("Its disk is broken")
    page.get_by_role("button", name="Skip targets").click()
    expect(page.locator(".wrong")).to_have_text("Choose at least one target.")
    assert all("422" in complaint for complaint in complaints)
    complaints.clear()
    page.get_by_label("orders-01").check()
    page.get_by_role("button", name="Skip targets").click()
    expect(page.locator(".tile[data-state=skipped]")).to_have_count(1)


def test_drift_comes_and_goes_on_the_targets_page(open_page: Open, owner: Person, paused: Rollout) -> None:
    target = Target.objects.get(name="orders-05")

    def drift(cause: str) -> None:
        since = paused.created_at if cause else None
        Target.objects.filter(id=target.id).update(drift=cause, drift_since=since)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [news.CHANNEL, str(target.id)])

    page = open_page(owner, f"/targets/{target.id}/")
    expect(page.locator("#live-state")).to_have_text("Live")
    expect(page.locator("#drift .note")).to_have_count(0)
    drift("process")
    expect(page.locator("#drift")).to_contain_text("It has drifted (process)")
    expect(page.locator("#drift")).to_contain_text("The process of 1.0 does not run")
    drift("")
    expect(page.locator("#drift .note")).to_have_count(0)


@THEMES
@pytest.mark.parametrize("width", [1440, 390])
def test_the_new_pages_are_whole(
    open_page: Open, web: WebServer, admin: Person, world: World, paused: Rollout, theme: str, width: int
) -> None:
    queued = start_rollout(
        actor=admin,
        service_id=paused.service_id,
        environment_id=world.prod.id,
        release_id=world.release(paused.service, "1.2").id,
        if_busy="queue",
    )
    page = open_page(admin, "/", width=width, theme=theme)
    for path in (
        "/queue/",
        f"/rollouts/{queued.id}/",
        *(f"/rollouts/{paused.id}/{action}/" for action in ("retry", "skip", "rollback")),
        "/environments/prod/",
        "/services/orders/",
    ):
        page.goto(web.origin + path)
        check(page, path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
