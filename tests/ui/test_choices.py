"""Pages on which somebody chooses: targets to retry or skip, a way back, holds, the queue, limits."""

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from deployments.models import Environment, Hold, Region, Rollout, Service, Target
from tests.engine.driver import Driver
from tests.fixtures import Login, Person, World
from tests.ui.conftest import Get

BECAUSE = {"reason": "Because"}


@pytest.fixture
def paused(driver: Driver, orders: Service, stable: Rollout) -> Rollout:
    """1.1 on its way: orders-01 failed, and the policy paused it."""
    rollout = driver.tick(driver.start(orders, "1.1", on_failure="pause"))
    driver.answer(rollout)
    driver.answer(rollout, failing=["orders-01"])
    assert rollout.state == "paused"
    return rollout


@pytest.fixture
def text(get: Get) -> Callable[[Person, str], str]:
    """What a page says, on one line and without entities."""

    def _text(person: Person, path: str) -> str:
        response = get(person, path)
        assert response.status_code == 200, path
        return said(response)

    return _text


def said(response: Any) -> str:
    bare = " ".join(re.sub(r"<[^>]+>", " ", response.content.decode()).split())
    return html.unescape(re.sub(r" ([.,:;)])", r"\1", bare))


def boxes(response: Any) -> dict[str, bool]:
    """Target id -> whether its box is ticked."""
    found = re.findall(
        r'<input type="checkbox" name="targets" value="([^"]+)"( checked)?', response.content.decode()
    )
    return {target: bool(ticked) for target, ticked in found}


def target_of(rollout: Rollout, name: str) -> str:
    return str(rollout.targets.get(target__name=name).target_id)


class TestWaiting:
    def test_the_page_says_what_for_who_can_end_it_and_how(
        self, text: Any, get: Get, owner: Person, paused: Rollout
    ) -> None:
        page = text(owner, f"/rollouts/{paused.id}/")
        assert "Waits for a person Paused: orders-01 failed" in page
        assert "Anyone who may resume rollouts of this service · since" in page
        body = get(owner, f"/rollouts/{paused.id}/").content.decode()
        group = body[body.index("What ends the wait") :].partition("</div>")[0]
        assert re.findall(r'id="open-(\w+)"', group) == ["resume", "retry", "skip", "rollback", "cancel"]

    def test_lists_say_it_too(self, text: Any, owner: Person, paused: Rollout) -> None:
        for path in ("/rollouts/", "/services/orders/", "/environments/prod/"):
            assert "Paused: orders-01 failed" in text(owner, path), path

    def test_somebody_who_may_not_steer_sees_the_reason_and_no_button(
        self, text: Any, viewer: Person, paused: Rollout
    ) -> None:
        page = text(viewer, f"/rollouts/{paused.id}/")
        assert "Waits for a person" in page
        assert "Retry" not in page
        assert "Skip targets" not in page


class TestRetry:
    def test_what_failed_is_ticked_and_tried_again(
        self, get: Get, login: Login, owner: Person, teammate: Person, paused: Rollout
    ) -> None:
        path = f"/rollouts/{paused.id}/retry/"
        assert boxes(get(owner, path)) == {target_of(paused, "orders-01"): True}
        assert boxes(get(owner, f"{path}choice/")) == boxes(get(owner, path))
        response = login(teammate).post(path, BECAUSE | {"targets": [target_of(paused, "orders-01")]})
        assert response["Location"] == f"/rollouts/{paused.id}/"
        paused.refresh_from_db()
        assert paused.state == "running"

    def test_without_a_target_or_a_reason_nothing_happens_and_the_choice_stays(
        self, login: Login, teammate: Person, paused: Rollout
    ) -> None:
        path, one = f"/rollouts/{paused.id}/retry/", target_of(paused, "orders-01")
        nobody = login(teammate).post(path, BECAUSE)
        assert nobody.status_code == 422
        assert "Choose at least one target." in said(nobody)
        assert boxes(nobody) == {one: False}
        silent = login(teammate).post(path, {"targets": [one]})
        assert "Say why" in said(silent)
        assert boxes(silent) == {one: True}
        assert login(teammate).post(path, BECAUSE | {"targets": ["nonsense"]}).status_code == 422
        paused.refresh_from_db()
        assert paused.state == "paused"

    def test_after_the_end_it_leads_to_the_new_rollout(
        self, get: Get, login: Login, teammate: Person, paused: Rollout
    ) -> None:
        client = login(teammate)
        client.post(f"/rollouts/{paused.id}/cancel/", BECAUSE)
        assert 'id="open-retry"' in client.get(f"/rollouts/{paused.id}/").content.decode()
        path = f"/rollouts/{paused.id}/retry/"
        chosen = boxes(client.get(path))
        assert len(chosen) == 10
        response = client.post(path, BECAUSE | {"targets": list(chosen)})
        again = Rollout.objects.get(retries=paused)
        assert response["Location"] == f"/rollouts/{again.id}/"
        assert "tries again what" in said(client.get(f"/rollouts/{again.id}/"))

    def test_of_more_than_can_be_shown_all_are_tried(
        self, monkeypatch: pytest.MonkeyPatch, login: Login, teammate: Person, paused: Rollout
    ) -> None:
        monkeypatch.setattr("deployments.reads.choices.OFFERED", 3)
        client = login(teammate)
        client.post(f"/rollouts/{paused.id}/cancel/", BECAUSE)
        path = f"/rollouts/{paused.id}/retry/"
        page = client.get(path)
        assert boxes(page) == {}
        assert "10 targets are tried again" in said(page)
        assert client.post(path, BECAUSE | {"everything": "on"}).status_code == 302
        assert Rollout.objects.get(retries=paused).targets.count() == 10


class TestSkip:
    def test_nothing_is_ticked_and_what_failed_comes_first(
        self, get: Get, login: Login, owner: Person, teammate: Person, paused: Rollout
    ) -> None:
        path, one = f"/rollouts/{paused.id}/skip/", target_of(paused, "orders-01")
        offered = boxes(get(owner, path))
        assert next(iter(offered)) == one
        assert len(offered) == 10
        assert not any(offered.values())
        login(teammate).post(path, {"reason": "Its disk is broken", "targets": [one]})
        page = get(owner, f"/rollouts/{paused.id}/").content.decode()
        tile = page[page.index('class="tile" id="target-') :]
        assert 'data-state="skipped" data-touched' in tile
        assert "Its disk is broken (teammate)" in page
        assert one not in boxes(get(owner, path))

    def test_the_last_one_is_not_offered(
        self, get: Get, login: Login, owner: Person, driver: Driver, world: World
    ) -> None:
        rollout = driver.tick(driver.start(world.service("bills", targets=2), "1.0"))
        client = login(owner)
        client.post(f"/rollouts/{rollout.id}/skip/", BECAUSE | {"targets": [target_of(rollout, "bills-01")]})
        assert 'id="open-skip"' not in client.get(f"/rollouts/{rollout.id}/").content.decode()
        refused = client.post(
            f"/rollouts/{rollout.id}/skip/", BECAUSE | {"targets": [target_of(rollout, "bills-02")]}
        )
        assert refused.status_code == 409
        assert "No target would be left in this rollout. Cancel it instead." in said(refused)


class TestRollback:
    def test_in_flight_it_says_where_the_targets_go_and_that_the_release_is_held(
        self, text: Any, owner: Person, paused: Rollout
    ) -> None:
        page = text(owner, f"/rollouts/{paused.id}/rollback/")
        assert "goes back to what it ran before. That is 3 targets to 1.0." in page
        assert "1.1 is put on hold" in page

    def test_afterwards_it_says_which_release_and_why_and_takes_an_older_one(
        self, text: Any, login: Login, owner: Person, driver: Driver, orders: Service, stable: Rollout
    ) -> None:
        driver.deployed(orders, "1.1")
        last = driver.deployed(orders, "1.2")
        page = text(owner, f"/rollouts/{last.id}/rollback/")
        assert "Back to 1.1. 1.1 is the release of the newest rollout here that succeeded and stayed." in page
        response = login(owner).post(
            f"/rollouts/{last.id}/rollback/", BECAUSE | {"release": str(stable.release_id)}
        )
        back = Rollout.objects.get(rolls_back=last)
        assert response["Location"] == f"/rollouts/{back.id}/"
        assert back.release_id == stable.release_id

    def test_a_hold_in_the_way_is_said_before_anything_is_done(
        self, text: Any, login: Login, owner: Person, paused: Rollout, stable: Rollout
    ) -> None:
        login(owner).post(f"/releases/{stable.release_id}/hold/", {"reason": "It loses orders"})
        page = text(owner, f"/rollouts/{paused.id}/rollback/")
        assert "It would go back to orders 1.0, which is on hold: It loses orders. Lift that hold" in page


class TestHolds:
    def test_somebody_puts_a_release_on_hold_and_lifts_it(
        self, text: Any, login: Login, owner: Person, teammate: Person, stable: Rollout
    ) -> None:
        path = f"/releases/{stable.release_id}/"
        response = login(teammate).post(f"{path}hold/", {"reason": "It loses orders"})
        assert response["Location"] == path
        page = text(owner, path)
        assert "On hold: no rollout of it starts It loses orders teammate" in page
        assert "Deploy this release" not in page
        assert "1.0 on hold" in text(owner, "/services/orders/")
        form = text(owner, f"/services/orders/deploy/?release={stable.release_id}")
        assert "This release is on hold (teammate): It loses orders. It will be refused." in form
        assert "1.0 (on hold)" in form
        login(teammate).post(f"{path}lift/", {"reason": "It was the network"})
        assert "On hold" not in text(owner, path)
        assert Hold.objects.get().lift_reason == "It was the network"

    def test_deploying_it_is_refused_with_the_way_out(
        self, login: Login, owner: Person, stable: Rollout, world: World
    ) -> None:
        client = login(owner)
        client.post(f"/releases/{stable.release_id}/hold/", {"reason": "It loses orders"})
        refused = client.post(
            "/services/orders/deploy/",
            {"release": str(stable.release_id), "environment": str(world.prod.id)},
        )
        assert refused.status_code == 409
        assert "It loses orders. Lift its hold first, or choose another release." in said(refused)

    @pytest.mark.parametrize(("action", "status"), [("hold", 422), ("lift", 422)])
    def test_without_a_reason_nothing_happens(
        self, login: Login, owner: Person, stable: Rollout, action: str, status: int
    ) -> None:
        response = login(owner).post(f"/releases/{stable.release_id}/{action}/", {"reason": " "})
        assert response.status_code == status
        assert "Say why" in said(response)
        assert not Hold.objects.exists()

    def test_it_is_the_teams_business(
        self, text: Any, login: Login, viewer: Person, outsider: Person, owner: Person, stable: Rollout
    ) -> None:
        path = f"/releases/{stable.release_id}/"
        assert login(outsider).post(f"{path}hold/", BECAUSE).status_code == 404
        refused = login(viewer).post(f"{path}hold/", BECAUSE)
        assert refused.status_code == 403
        assert "release.hold" in said(refused)
        login(owner).post(f"{path}hold/", BECAUSE)
        page = text(viewer, path)
        assert "On hold" in page
        assert "Lift hold" not in page


class TestQueue:
    def test_one_queues_up_from_the_form_and_stands_in_the_queue(
        self, text: Any, login: Login, teammate: Person, driver: Driver, paused: Rollout, world: World
    ) -> None:
        release = world.release(paused.service, "1.2")
        form = {
            "release": str(release.id),
            "environment": str(world.prod.id),
            "priority": "hotfix",
            "if_busy": "queue",
        }
        login(teammate).post("/services/orders/deploy/", form)
        queued = Rollout.objects.get(release=release)
        driver.tick(queued)
        page = text(teammate, "/queue/")
        assert "paused orders 1.1" in page
        assert "1 orders 1.2 hotfix another rollout of the service moves there" in page
        assert "Waits for its turn Number 1 of 1 in the queue" in text(teammate, f"/rollouts/{queued.id}/")
        assert "1.2 queued. Number 1 of 1 in the queue" in text(teammate, "/services/orders/")
        # The overview goes on showing the one that moves.
        assert "1.1 paused" in text(teammate, "/")

    def test_others_count_and_have_no_name(
        self, text: Any, teammate: Person, outsider: Person, paused: Rollout, world: World
    ) -> None:
        theirs = text(outsider, "/queue/")
        assert "prod 1 moves · 0 wait 1 of other teams" in theirs
        assert "orders" not in theirs

    def test_an_empty_one_says_so(self, text: Any, owner: Person, stable: Rollout) -> None:
        assert "Nothing moves and nothing waits" in text(owner, "/queue/")


class TestEnvironments:
    FORM = {"version": "1", "max_active": "2", "on_drift": "repair", "strategy": '{"on_failure": "pause"}'}

    def test_an_administrator_sets_what_holds_there(
        self, text: Any, login: Login, admin: Person, owner: Person, catalog: World
    ) -> None:
        response = login(admin).post("/environments/prod/", self.FORM)
        assert response["Location"] == "/environments/prod/"
        prod = Environment.objects.get(name="prod")
        assert (prod.max_active, prod.on_drift, prod.strategy) == (2, "repair", {"on_failure": "pause"})
        page = text(owner, "/environments/prod/")
        assert "Rollouts at once 2" in page
        assert "put right by a rollout" in page
        assert "On failure pause" in page
        assert "Save" not in page

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"max_active": "0"}, "greater than or equal to 1"),
            ({"strategy": "{"}, "This is no JSON object"),
            *(
                ({"strategy": value}, "This is no JSON object")
                for value in ("[]", "0", "false", '""', "null")
            ),
            ({"strategy": '{"batch": 1}'}, "batches and bake time belong to the service"),
            ({"version": "7"}, "Read it again and decide anew"),
        ],
    )
    def test_what_makes_no_sense_is_refused_and_kept(
        self, login: Login, admin: Person, catalog: World, changed: dict[str, str], words: str
    ) -> None:
        response = login(admin).post("/environments/prod/", self.FORM | changed)
        assert response.status_code in (412, 422)
        assert words in said(response)
        for name in ("max_active", "strategy"):
            value = (self.FORM | changed)[name]
            assert value in html.unescape(response.content.decode())
        assert Environment.objects.get(name="prod").version == 1

    def test_nobody_else_may(self, login: Login, owner: Person, catalog: World) -> None:
        refused = login(owner).post("/environments/prod/", self.FORM)
        assert refused.status_code == 403
        assert "environment.change" in said(refused)


def test_a_service_says_how_it_rolls_out_in_each_environment(
    text: Any, owner: Person, orders: Service, catalog: World
) -> None:
    stage = Environment.objects.create(name="stage", tier="stage")
    region = Region.objects.create(environment=stage, name="eu")
    Target.objects.create(service=orders, region=region, name="orders-s1")
    orders.strategy = {"batch": 2, "environments": {"prod": {"bake_seconds": 600}}}
    orders.save(update_fields=["strategy"])
    catalog.release(orders, "1.0")
    for path in ("/services/orders/", "/services/orders/deploy/"):
        page = text(owner, path)
        assert "Batch 2" in page
        assert "Only in stage Bake none" in page
        assert "Only in prod Bake 10 min" in page


def test_what_has_drifted_is_said_where_it_runs(text: Any, owner: Person, stable: Rollout) -> None:
    target = Target.objects.get(name="orders-01")
    target.drift, target.drift_since = "process", stable.created_at
    target.reported = {"target_id": str(target.id), "ended": "was killed by signal 9"}
    target.save(update_fields=["drift", "drift_since", "reported"])
    page = text(owner, f"/targets/{target.id}/")
    assert "It has drifted (process)" in page
    assert "The process of 1.0 does not run: it was killed by signal 9." in page
    assert "prod only shows what has drifted" in page
    target.drift_since = timezone.now() - timedelta(hours=2)
    target.save(update_fields=["drift_since"])
    assert "1 drifted: process, 2 h ago" in text(owner, "/")
    other = Target.objects.get(name="orders-02")
    other.drift, other.drift_since = "release", timezone.now() - timedelta(days=3)
    other.save(update_fields=["drift", "drift_since"])
    assert "2 drifted: release, process, 3 d ago" in text(owner, "/")
    other.drift, other.drift_since = "", None
    other.save(update_fields=["drift", "drift_since"])
    service = text(owner, "/services/orders/")
    assert "1 drifted" in service
    assert "orders-01: The process of 1.0 does not run: it was killed by signal 9." in service
