"""Retry, skip, roll back, hold, queue up and set limits over REST: who may, and what is refused with what."""

import dataclasses
import uuid

import pytest

from deployments.models import Rollout, Target
from tests.api.conftest import created, problem, results
from tests.engine.driver import Driver

REASON = {"reason": "Because"}
ACTIONS = ("pause", "resume", "cancel", "rollback", "retry", "skip")


@pytest.fixture
def driver(catalog, owner):
    return Driver(catalog, owner)


@pytest.fixture
def lead(api, owner):
    return api(owner)


@pytest.fixture
def stable(driver, orders):
    """1.0 runs everywhere."""
    return driver.deployed(orders, "1.0")


@pytest.fixture
def paused(driver, orders, stable):
    """1.1 on its way: orders-01 failed, orders-02 and 03 are healthy, and the policy paused it."""
    rollout = driver.tick(driver.start(orders, "1.1", on_failure="pause"))
    driver.answer(rollout)
    driver.answer(rollout, failing=["orders-01"])
    assert rollout.state == "paused", rollout.outcome
    return rollout


@pytest.fixture
def moving(driver, orders, stable):
    """1.1 on its way: its first batch is being activated."""
    rollout = driver.tick(driver.start(orders, "1.1"))
    driver.answer(rollout)
    return rollout


def ids(rollout, *names):
    return [str(row.target_id) for row in rollout.targets.filter(target__name__in=names)]


def path(rollout, action):
    return f"/rollouts/{rollout.id}/{action}"


class TestWaiting:
    def test_every_rollout_that_is_not_at_its_end_says_what_for_since_when_and_who_can_end_it(
        self, lead, paused
    ):
        waiting = lead.get(f"/rollouts/{paused.id}").json()["waiting_on"]
        assert waiting["kind"] == "person"
        assert "orders-01 failed" in waiting["sentence"]
        assert waiting["who"] == "anyone who may resume rollouts of this service"
        assert waiting["unblock"] == ["resume", "retry", "skip", "rollback", "cancel"]
        assert waiting["since"]
        assert waiting["deadline"] is None

    def test_from_the_first_moment(self, lead, catalog, orders):
        catalog.release(orders, "1.0")
        body = {"service": "orders", "environment": "prod", "release": "1.0"}
        waiting = created(lead.post("/rollouts", body))["waiting_on"]
        assert (waiting["kind"], waiting["unblock"]) == ("engine", ["cancel"])
        assert waiting["since"]

    def test_with_the_deadline_at_which_the_engine_acts_by_itself(self, lead, moving):
        waiting = lead.get(f"/rollouts/{moving.id}").json()["waiting_on"]
        assert waiting["kind"] == "tasks"
        assert waiting["deadline"] > waiting["since"]

    def test_at_its_end_it_waits_for_nothing(self, lead, stable):
        assert lead.get(f"/rollouts/{stable.id}").json()["waiting_on"] is None


class TestRetry:
    def test_all_that_failed(self, lead, paused, driver):
        answer = lead.post(path(paused, "retry"), REASON)
        assert answer.status_code == 200
        assert answer.json()["id"] == str(paused.id)
        assert answer.json()["state"] == "running"
        driver.finish(paused)
        assert paused.state == "succeeded"

    def test_those_that_are_named(self, lead, paused):
        body = REASON | {"targets": ids(paused, "orders-01")}
        assert lead.post(path(paused, "retry"), body).status_code == 200

    def test_after_its_end_a_new_rollout_of_the_rest(self, lead, paused):
        assert lead.post(path(paused, "cancel"), REASON).status_code == 200
        again = lead.post(path(paused, "retry"), REASON).json()
        assert again["id"] != str(paused.id)
        assert again["retries"] == str(paused.id)
        assert sum(again["targets"].values()) == 10

    def test_of_what_is_running_is_refused(self, lead, moving):
        body = REASON | {"targets": ids(moving, "orders-01")}
        refused = problem(lead.post(path(moving, "retry"), body), 409, "move-not-allowed")
        assert refused["detail"] == "orders-01 is activating; only a failed target can be tried again."

    def test_of_nothing_is_refused(self, lead, moving):
        refused = problem(lead.post(path(moving, "retry"), REASON), 409, "move-not-allowed")
        assert refused["detail"] == "No target of this rollout has failed; there is nothing to try again."

    def test_of_an_empty_list_is_refused_and_does_not_mean_all(self, lead, paused):
        refused = problem(lead.post(path(paused, "retry"), REASON | {"targets": []}), 422, "invalid")
        assert "targets" in refused["errors"]
        paused.refresh_from_db()
        assert paused.state == "paused"

    def test_of_what_is_none_of_its_targets_is_refused(self, lead, paused):
        body = REASON | {"targets": [str(uuid.uuid4())]}
        assert "targets" in problem(lead.post(path(paused, "retry"), body), 422, "invalid")["errors"]
        body = REASON | {"targets": ["orders-01"]}
        assert "targets.0" in problem(lead.post(path(paused, "retry"), body), 422, "invalid")["errors"]


class TestSkip:
    def test_one_target_and_the_rollout_goes_on(self, lead, paused, driver):
        body = {"reason": "Its disk is broken", "targets": ids(paused, "orders-01")}
        answer = lead.post(path(paused, "skip"), body).json()
        assert answer["targets"]["skipped"] == 1
        row = results(lead.get(path(paused, "targets"), state="skipped"))[0]
        assert row["name"] == "orders-01"
        assert "Its disk is broken" in row["error"]
        assert lead.post(path(paused, "resume"), REASON).status_code == 200
        driver.finish(paused)
        assert paused.state == "succeeded"

    def test_of_the_last_target_is_refused(self, lead, catalog):
        catalog.release(catalog.service("bills", targets=2), "1.0")
        body = {"service": "bills", "environment": "prod", "release": "1.0"}
        rollout = Rollout.objects.get(id=created(lead.post("/rollouts", body))["id"])
        first = REASON | {"targets": ids(rollout, "bills-01")}
        assert lead.post(path(rollout, "skip"), first).status_code == 200
        refused = lead.post(path(rollout, "skip"), REASON | {"targets": ids(rollout, "bills-02")})
        detail = problem(refused, 409, "move-not-allowed")["detail"]
        assert detail == "No target would be left in this rollout. Cancel it instead."
        refused = problem(lead.post(path(rollout, "skip"), first), 409, "move-not-allowed")
        assert refused["detail"] == "bills-01 is skipped already."

    def test_of_what_is_being_changed_is_refused(self, lead, moving):
        body = REASON | {"targets": ids(moving, "orders-01")}
        refused = problem(lead.post(path(moving, "skip"), body), 409, "move-not-allowed")
        assert "is being changed right now. Wait until that has ended." in refused["detail"]

    @pytest.mark.parametrize("targets", [None, []])
    def test_of_nobody_in_particular_is_refused(self, lead, paused, targets):
        body = REASON | ({} if targets is None else {"targets": targets})
        assert "targets" in problem(lead.post(path(paused, "skip"), body), 422, "invalid")["errors"]


class TestRollback:
    def test_to_an_older_stable_release(self, lead, driver, orders, stable):
        driver.deployed(orders, "1.1")
        last = driver.deployed(orders, "1.2")
        back = lead.post(path(last, "rollback"), REASON | {"release": "1.0"}).json()
        assert back["release"]["version"] == "1.0"
        assert back["kind"] == "rollback"
        assert back["priority"] == "hotfix"

    def test_puts_the_release_that_it_leaves_on_hold(self, lead, driver, orders, stable):
        last = driver.deployed(orders, "1.1")
        assert lead.post(path(last, "rollback"), {"reason": "Errors"}).json()["release"]["version"] == "1.0"
        hold = results(lead.get("/releases", version="1.1"))[0]["hold"]
        assert hold["reason"] == "Rolled back in prod: Errors (owner)"
        assert (hold["placed_by"], hold["rollout"]) == ("owner", str(last.id))

    def test_onto_a_release_on_hold_is_refused(self, lead, driver, orders, stable):
        driver.deployed(orders, "1.1")
        last = driver.deployed(orders, "1.2")
        lead.post(f"/releases/{stable.release_id}/hold", {"reason": "It loses orders"})
        refused = lead.post(path(last, "rollback"), REASON | {"release": "1.0"})
        detail = problem(refused, 409, "no-stable-release")["detail"]
        assert "1.0, is on hold: It loses orders. Lift its hold" in detail

    def test_in_flight_onto_a_release_on_hold_is_refused(self, lead, moving, stable):
        lead.post(f"/releases/{stable.release_id}/hold", {"reason": "It loses orders"})
        detail = problem(lead.post(path(moving, "rollback"), REASON), 409, "release-on-hold")["detail"]
        assert "orders 1.0, which is on hold: It loses orders. Lift that hold, or cancel" in detail

    def test_in_flight_takes_no_release(self, lead, moving):
        refused = lead.post(path(moving, "rollback"), REASON | {"release": "1.0"})
        assert "Cancel it first to choose" in problem(refused, 422, "invalid")["errors"]["release"]

    def test_to_a_release_that_does_not_exist_is_refused(self, lead, stable):
        refused = lead.post(path(stable, "rollback"), REASON | {"release": "9.9"})
        assert "Known: 1.0" in problem(refused, 422, "invalid")["errors"]["release"]


class TestFinished:
    @pytest.mark.parametrize(
        ("action", "words"),
        [
            ("resume", "The rollout is at its end: succeeded. Retry its targets, or start a new rollout."),
            ("skip", "The rollout is succeeded: none of its targets can be skipped any more."),
            ("retry", "Every target of this rollout runs the release; there is nothing to try again."),
        ],
    )
    def test_what_is_finished_is_not_steered(self, lead, stable, action, words):
        body = REASON | ({"targets": ids(stable, "orders-01")} if action == "skip" else {})
        assert problem(lead.post(path(stable, action), body), 409, "move-not-allowed")["detail"] == words


class TestHolds:
    def test_one_keeps_the_release_out_until_it_is_lifted(self, lead, driver, orders, stable):
        release = f"/releases/{stable.release_id}"
        held = lead.post(f"{release}/hold", {"reason": "It loses orders"}).json()
        assert held["hold"]["reason"] == "It loses orders"
        assert held["hold"]["placed_by"] == "owner"
        assert held["hold"]["rollout"] is None
        assert held == lead.get(release).json()
        assert [row["version"] for row in results(lead.get("/releases", on_hold="true"))] == ["1.0"]
        body = {"service": "orders", "environment": "prod", "release": "1.0"}
        refused = problem(lead.post("/rollouts", body), 409, "release-on-hold")
        assert "(owner): It loses orders. Lift its hold first, or choose another" in refused["detail"]
        assert lead.post(f"{release}/lift", {"reason": "It was the network"}).json()["hold"] is None
        created(lead.post("/rollouts", body))

    def test_twice_and_lifted_twice_is_said(self, lead, stable):
        release = f"/releases/{stable.release_id}"
        assert "is not on hold" in problem(lead.post(f"{release}/lift", REASON), 409, "conflict")["detail"]
        lead.post(f"{release}/hold", REASON)
        assert "on hold already" in problem(lead.post(f"{release}/hold", REASON), 409, "conflict")["detail"]

    @pytest.mark.parametrize("action", ["hold", "lift"])
    def test_without_a_reason_nothing_happens(self, lead, stable, action):
        refused = lead.post(f"/releases/{stable.release_id}/{action}", {"reason": " "})
        assert "reason" in problem(refused, 422, "invalid")["errors"]


class TestWho:
    @pytest.mark.parametrize("action", ACTIONS)
    def test_an_outsider_learns_nothing(self, api, outsider, paused, action):
        body = REASON | ({"targets": ids(paused, "orders-01")} if action == "skip" else {})
        theirs = problem(api(outsider).post(path(paused, action), body), 404, "not-found")
        missing = problem(api(outsider).post(f"/rollouts/{uuid.uuid4()}/{action}", body), 404, "not-found")
        assert theirs == missing

    @pytest.mark.parametrize("action", ACTIONS)
    def test_a_viewer_is_told_what_is_needed(self, api, viewer, paused, action):
        body = REASON | ({"targets": ids(paused, "orders-01")} if action == "skip" else {})
        refused = problem(api(viewer).post(path(paused, action), body), 403, "not-allowed")
        assert f"rollout.{action}" in refused["detail"]
        paused.refresh_from_db()
        assert paused.state == "paused"

    @pytest.mark.parametrize("action", ["hold", "lift"])
    def test_holds_are_the_teams(self, api, viewer, outsider, stable, action):
        address = f"/releases/{stable.release_id}/{action}"
        problem(api(outsider).post(address, REASON), 404, "not-found")
        assert "release.hold" in problem(api(viewer).post(address, REASON), 403, "not-allowed")["detail"]

    def test_limits_are_an_administrators(self, api, owner, catalog):
        environment = api(owner).patch(f"/environments/{catalog.prod.id}", {"max_active": 2})
        assert "environment.change" in problem(environment, 403, "not-allowed")["detail"]
        team = api(owner).patch(f"/teams/{catalog.team.id}", {"max_active": 2})
        assert "team.limit" in problem(team, 403, "not-allowed")["detail"]


class TestQueue:
    BODY = {"service": "orders", "environment": "prod"}

    def start(self, lead, **given):
        return created(lead.post("/rollouts", self.BODY | given))

    def test_a_second_one_queues_up_where_asked_and_knows_its_place(
        self, lead, catalog, orders, moving, driver
    ):
        catalog.release(orders, "1.2")
        queued = self.start(lead, release="1.2", if_busy="queue", priority="low")
        driver.tick(Rollout.objects.get(id=queued["id"]))
        shown = lead.get(f"/rollouts/{queued['id']}").json()
        assert (shown["state"], shown["priority"]) == ("queued", "low")
        assert shown["waiting_on"]["kind"] == "queue"
        place = shown["queue"]
        assert (place["place"], place["waiting"]) == (1, 1)
        assert (place["blocked_by"], place["limit"]) == ("service", 1)
        assert place["estimate"]
        assert lead.get(f"/rollouts/{moving.id}").json()["queue"] is None
        listed = [row["queue"] for row in results(lead.get("/rollouts", active="true"))]
        assert [one and one["place"] for one in listed] == [1, None]

    def test_a_newer_one_takes_the_place_of_those_that_wait(self, lead, catalog, orders, moving):
        catalog.release(orders, "1.2")
        older = self.start(lead, release="1.2", if_busy="queue")
        self.start(lead, release="1.2", if_busy="supersede", priority="hotfix")
        assert lead.get(f"/rollouts/{older['id']}").json()["state"] == "superseded"

    def test_others_count_and_have_no_name(self, api, lead, catalog, admin, outsider, moving):
        secret = catalog.service("secret", team=catalog.other_team, targets=1)
        catalog.release(secret, "5.0")
        boss = api(admin)
        assert boss.patch(f"/environments/{catalog.prod.id}", {"max_active": 1}).status_code == 200
        self.start(api(outsider), service="secret", release="5.0")
        bills = catalog.service("bills", targets=1)
        catalog.release(bills, "2.0")
        mine = self.start(lead, service="bills", release="2.0", priority="low")
        answer = lead.get("/queue")
        assert "secret" not in answer.content.decode()
        (prod,) = answer.json()["environments"]
        assert prod["environment"]["name"] == "prod"
        assert (prod["max_active"], prod["moving_total"], prod["waiting_total"]) == (1, 1, 2)
        assert [one["id"] for one in prod["moving"]] == [str(moving.id)]
        first, second = prod["waiting"]
        assert (first["place"], first["rollout"]) == (1, None)
        assert (second["place"], second["rollout"]["id"]) == (2, mine["id"])
        assert (second["blocked_by"], second["limit"]) == ("environment", 1)
        theirs = api(outsider).get("/queue").json()["environments"][0]
        assert (theirs["moving"], theirs["moving_total"]) == ([], 1)
        assert [one["rollout"] is None for one in theirs["waiting"]] == [False, True]

    def test_nothing_in_it_is_an_empty_list(self, lead, stable):
        assert lead.get("/queue").json() == {"environments": []}

    def test_a_full_one_refuses(self, lead, catalog, orders, moving, settings):
        settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, max_queued_rollouts=1)
        catalog.release(orders, "1.2")
        self.start(lead, release="1.2", if_busy="queue")
        refused = lead.post("/rollouts", self.BODY | {"release": "1.2", "if_busy": "queue"})
        assert "Cancel some that are not needed" in problem(refused, 429, "queue-full")["detail"]

    @pytest.mark.parametrize("field", ["priority", "if_busy"])
    def test_a_word_that_is_none_is_refused(self, lead, catalog, orders, field):
        catalog.release(orders, "1.0")
        refused = lead.post("/rollouts", self.BODY | {"release": "1.0", field: "at once"})
        assert field in problem(refused, 422, "invalid")["errors"]


class TestStrategies:
    @pytest.mark.parametrize(
        ("strategy", "field", "words"),
        [
            ({"batch": "0%"}, "batch", "'0%' must lie between 1% and 100%"),
            ({"batch": 0}, "batch", "must lie between 1 and the number of targets (12)"),
            ({"max_unavailable": 13}, "max_unavailable", "must lie between 1 and the number of targets (12)"),
            (
                {"on_failure": "rollback"},
                "strategy",
                "no target of orders in prod has a stable release to go back to yet. Choose pause or abort",
            ),
        ],
    )
    def test_that_make_no_sense_are_refused(self, lead, catalog, orders, strategy, field, words):
        catalog.release(orders, "1.0")
        body = {"service": "orders", "environment": "prod", "release": "1.0", "strategy": strategy}
        refused = problem(lead.post("/rollouts", body), 422, "invalid")
        assert words in refused["errors"][field]
        assert not Rollout.objects.exists()

    def test_of_a_service_may_differ_by_environment(self, lead, orders):
        strategy = {"batch": "25%", "environments": {"prod": {"bake_seconds": 600}}}
        answer = lead.patch(f"/services/{orders.id}", {"strategy": strategy})
        assert answer.json()["strategy"] == strategy
        refused = lead.patch(f"/services/{orders.id}", {"strategy": {"environments": {"moon": {}}}})
        assert "no environment 'moon'" in problem(refused, 422, "invalid")["errors"]["strategy"]


class TestLimits:
    def test_an_environment_has_a_limit_a_policy_and_a_word_on_drift(self, api, admin, catalog):
        boss, address = api(admin), f"/environments/{catalog.prod.id}"
        before = boss.get(address)
        assert before["ETag"] == '"1"'
        changes = {"max_active": 2, "on_drift": "repair", "strategy": {"on_failure": "pause"}}
        answer = boss.patch(address, changes, {"If-Match": before["ETag"]})
        assert answer["ETag"] == '"2"'
        assert {name: answer.json()[name] for name in changes} == changes
        stale = boss.patch(address, {"max_active": None}, {"If-Match": before["ETag"]})
        assert "Read it again" in problem(stale, 412, "stale-version")["detail"]
        assert boss.get(address, {"If-None-Match": '"2"'}).status_code == 304
        assert boss.patch(address, {"max_active": None}).json()["max_active"] is None

    @pytest.mark.parametrize("limit", [0, -1, 10_001])
    def test_of_zero_is_refused(self, api, admin, catalog, limit):
        for address in (f"/environments/{catalog.prod.id}", f"/teams/{catalog.team.id}"):
            refused = problem(api(admin).patch(address, {"max_active": limit}), 422, "invalid")
            assert "with 0 nothing could ever move" in refused["errors"]["max_active"]

    @pytest.mark.parametrize(
        "strategy",
        [{"batch": 1}, {"on_failure": "explode"}, {"max_unavailable": "0%"}, {"silent_seconds": 0}],
    )
    def test_a_policy_that_makes_no_sense_is_refused(self, api, admin, catalog, strategy):
        refused = api(admin).patch(f"/environments/{catalog.prod.id}", {"strategy": strategy})
        problem(refused, 422, "invalid")

    def test_a_team_has_a_limit(self, api, admin, catalog):
        address = f"/teams/{catalog.team.id}"
        assert api(admin).patch(address, {"max_active": 3}).json()["max_active"] == 3
        assert api(admin).patch(address, {"max_active": None}).json()["max_active"] is None
        assert "max_active" in problem(api(admin).patch(address, {}), 422, "invalid")["errors"]


def test_a_target_says_how_it_has_drifted_and_since_when(lead, stable):
    target = Target.objects.get(name="orders-01")
    assert lead.get(f"/targets/{target.id}").json()["drift"] is None
    target.drift, target.drift_since = "files", stable.created_at
    target.reported = {"target_id": str(target.id), "modified": ["app.py"]}
    target.save(update_fields=["drift", "drift_since", "reported"])
    assert lead.get(f"/targets/{target.id}").json()["drift"] == {
        "cause": "files",
        "since": stable.created_at.isoformat().replace("+00:00", "Z"),
        "sentence": "Files of 1.0 were changed on the target: app.py.",
    }
    assert [row["name"] for row in results(lead.get("/targets", drifted="true"))] == ["orders-01"]
    assert len(results(lead.get("/targets", drifted="false"))) == 11
