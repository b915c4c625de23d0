"""Everything that can be wrong with a request: the exact status and type, and a sentence that helps."""

import json

import pytest
from django.db import connection

from audit.models import Entry
from deployments.models import Release, Rollout, Service
from portal.api.parsers import MAX_BODY_BYTES
from tests.api.conftest import API, created, problem
from tests.fixtures import CONFIG

UNKNOWN = "0190a1b2-0000-7000-8000-000000000000"
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def lead(api, owner, catalog):
    return api(owner)


@pytest.fixture
def released(catalog, orders):
    return catalog.release(orders, "1.0")


def deploy(lead, **changed):
    return lead.post("/rollouts", {"service": "orders", "environment": "prod", "release": "1.0"} | changed)


class TestReleases:
    def test_of_an_unknown_artifact(self, lead, catalog, orders):
        config = catalog.config(orders)
        body = {"service": "orders", "version": "1.0", "artifact": DIGEST, "config": str(config.number)}
        refused = problem(lead.post("/releases", body), 422, "invalid")
        assert "POST its bytes to /api/v1/artifacts first" in refused["errors"]["artifact"]
        assert not Release.objects.exists()

    def test_of_an_unknown_configuration(self, lead, orders):
        body = {"service": "orders", "version": "1.0", "artifact": DIGEST, "config": "7"}
        refused = problem(lead.post("/releases", body), 422, "invalid")
        assert "POST it to /api/v1/configs first" in refused["errors"]["config"]
        refused = problem(lead.post("/releases", body | {"config": "latest"}), 422, "invalid")
        assert "config" in refused["errors"]

    def test_of_a_version_that_means_something_else(self, lead, catalog, orders, released, owner):
        other = catalog.artifact(b"other", by=owner.user)
        body = {"service": "orders", "version": "1.0", "artifact": other.digest, "config": 1}
        refused = problem(lead.post("/releases", body), 409, "already-exists")
        assert "Take a new version" in refused["detail"]


class TestConfigs:
    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"base": {}}, "process"),
            ({"base": CONFIG | {"proces": {}}}, "proces"),
            ({"base": CONFIG, "overlays": {"moon": {}}}, "no environment moon. Known: prod"),
            ({"base": CONFIG | {"health": {"kind": "http", "timeout_ms": 0.5}}}, "float"),
            ({"base": "text"}, "dictionary"),
        ],
    )
    def test_that_are_not_valid(self, lead, given, text):
        refused = problem(lead.post("/configs", {"service": "orders"} | given), 422, "invalid")
        assert text in refused["detail"]


class TestRollouts:
    def test_to_an_unknown_environment(self, lead, released):
        refused = problem(deploy(lead, environment="moon"), 422, "invalid")
        assert refused["errors"]["environment"].startswith(
            "There is no “moon” that you can see. Known: prod."
        )

    def test_of_an_unknown_release(self, lead, released):
        refused = problem(deploy(lead, release="9.9"), 422, "invalid")
        assert "Known: 1.0" in refused["errors"]["release"]

    def test_of_an_unknown_service(self, lead, released):
        assert "service" in problem(deploy(lead, service=UNKNOWN), 422, "invalid")["errors"]

    def test_with_an_unknown_strategy(self, lead, released):
        refused = problem(deploy(lead, strategy={"name": "teleport"}), 422, "invalid")
        assert "Known: rolling" in refused["errors"]["strategy"]

    def test_while_another_one_is_active(self, lead, released):
        created(deploy(lead))
        refused = problem(deploy(lead), 409, "rollout-active")
        assert "Wait for it, cancel it or roll it back" in refused["detail"] or "active" in refused["detail"]
        assert Rollout.objects.count() == 1

    def test_to_a_target_without_agent(self, lead, catalog):
        bills = catalog.service("bills", with_agent=False)
        catalog.release(bills, "1.0")
        refused = problem(deploy(lead, service="bills"), 422, "target-without-agent")
        assert "agent" in refused["detail"]
        assert not Rollout.objects.exists()

    def test_to_nowhere(self, lead, catalog):
        bills = catalog.service("bills", targets=0)
        catalog.release(bills, "1.0")
        problem(deploy(lead, service="bills"), 422, "no-targets")

    def test_paused_with_a_stale_if_match(self, lead, released):
        rollout = created(deploy(lead))
        path = f"/rollouts/{rollout['id']}/cancel"
        stale = {"If-Match": f'"{rollout["event_count"] - 1}"'}
        refused = problem(lead.post(path, {"reason": "why"}, stale), 412, "stale-version")
        assert "Read" in refused["detail"]
        problem(lead.post(path, {"reason": "why"}, {"If-Match": "something"}), 412, "stale-version")
        fresh = {"If-Match": f'"{rollout["event_count"]}"'}
        assert lead.post(path, {"reason": "why"}, fresh).json()["state"] == "cancelled"

    def test_steered_where_its_state_does_not_permit(self, lead, released):
        rollout = created(deploy(lead))
        refused = lead.post(f"/rollouts/{rollout['id']}/resume", {"reason": "why"})
        problem(refused, 409, "move-not-allowed")

    def test_steered_without_a_reason(self, lead, released):
        rollout = created(deploy(lead))
        for body in ({}, {"reason": ""}, {"reason": None}):
            refused = problem(lead.post(f"/rollouts/{rollout['id']}/cancel", body), 422, "invalid")
            assert "reason" in refused["errors"]


class TestServices:
    def test_changed_with_a_stale_if_match(self, lead, orders):
        path = f"/services/{orders.id}"
        assert lead.get(path).headers["ETag"] == '"1"'
        changed = lead.patch(path, {"description": "First"}, {"If-Match": '"1"'})
        assert changed.headers["ETag"] == '"2"'
        refused = lead.patch(path, {"description": "Second"}, {"If-Match": '"1"'})
        assert "version 2" in problem(refused, 412, "stale-version")["detail"]
        assert lead.get(path).json()["description"] == "First"

    def test_an_unchanged_one_is_not_sent_again(self, lead, orders):
        answer = lead.get(f"/services/{orders.id}", {"If-None-Match": '"1"'})
        assert (answer.status_code, answer.content) == (304, b"")

    def test_with_names_that_are_none(self, lead):
        refused = problem(lead.post("/services", {"team": "shop", "name": "My Service"}), 422, "invalid")
        assert "lower-case" in refused["errors"]["name"]
        problem(lead.post("/services", {"team": "shop", "name": "orders"}), 409, "already-exists")
        refused = problem(lead.post("/services", {"team": "other", "name": "x"}), 422, "invalid")
        assert "team" in refused["errors"]


class TestBodies:
    def test_unknown_fields_are_named(self, lead):
        refused = problem(
            lead.post("/services", {"team": "shop", "name": "x", "descripton": "?", "extra": 1}),
            422,
            "invalid",
        )
        assert sorted(refused["errors"]) == ["descripton", "extra"]
        assert "Known: description" in refused["errors"]["descripton"]
        assert not Service.objects.filter(name="x").exists()

    def test_missing_fields_are_all_named(self, lead):
        refused = problem(lead.post("/rollouts", {}), 422, "invalid")
        assert sorted(refused["errors"]) == ["environment", "release", "service"]

    @pytest.mark.parametrize(
        "raw",
        [
            b"{",
            b"\xff\xfe",
            b'{"name": NaN}',
            b'{"name": "a", "name": "b"}',
            b'{"name": "\\ud800"}',
            b'{"name": "a\\u0000b"}',
            b"[" * 100_000,
            b"",
        ],
        ids=["cut", "no-utf8", "nan", "twice", "surrogate", "nul", "deep", "empty"],
    )
    def test_that_are_no_usable_json(self, lead, raw):
        answer = lead.client.generic("POST", f"{API}/teams", raw, content_type="application/json")
        assert answer.status_code in (400, 422)
        problem(answer, answer.status_code, "malformed" if raw else "invalid")

    def test_that_are_no_objects(self, lead):
        for body in ("[]", '"text"', "7", "null"):
            answer = lead.client.generic("POST", f"{API}/teams", body, content_type="application/json")
            problem(answer, 422, "invalid")

    def test_that_are_too_large(self, lead):
        raw = json.dumps({"name": "x" * MAX_BODY_BYTES})
        answer = lead.client.generic("POST", f"{API}/teams", raw, content_type="application/json")
        assert f"limit is {MAX_BODY_BYTES}" in problem(answer, 413, "too-large")["detail"]

    def test_of_unknown_length(self, lead):
        answer = lead.client.generic(
            "POST",
            f"{API}/teams",
            b"",
            content_type="application/json",
            headers={"Transfer-Encoding": "chunked"},
        )
        problem(answer, 411, "length-required")

    def test_of_another_media_type(self, lead):
        answer = lead.client.post(f"{API}/teams", {"name": "x"})
        problem(answer, 415, "unsupported-media-type")


class TestAddresses:
    def test_that_do_not_exist_answer_as_what_is_not_yours(self, lead, catalog, outsider, api):
        stranger = api(outsider)
        hidden = Service.objects.get(name="orders").id
        bodies = [
            problem(stranger.get(path), 404, "not-found")
            for path in (f"/services/{hidden}", f"/services/{UNKNOWN}", "/services/orders", "/nowhere")
        ]
        assert all(body == bodies[0] for body in bodies)

    @pytest.mark.parametrize(
        "action", ["pause", "resume", "cancel", "rollback", "events", "tasks", "targets"]
    )
    def test_of_a_rollout_that_is_not_yours_answer_as_a_missing_one(
        self, lead, released, outsider, api, action
    ):
        rollout = created(deploy(lead))
        stranger = api(outsider)
        ask = stranger.get if action in ("events", "tasks", "targets") else stranger.post
        args = () if action in ("events", "tasks", "targets") else ({"reason": "mine"},)
        hidden = problem(ask(f"/rollouts/{rollout['id']}/{action}", *args), 404, "not-found")
        assert hidden == problem(ask(f"/rollouts/{UNKNOWN}/{action}", *args), 404, "not-found")
        assert Rollout.objects.get().state != "cancelled"

    def test_take_their_methods_only(self, lead):
        answer = lead.delete("/services")
        problem(answer, 405, "method-not-allowed")
        assert "GET" in answer.headers["Allow"]

    def test_to_see_is_not_to_do(self, api, viewer, lead, released):
        refused = problem(deploy(api(viewer)), 403, "not-allowed")
        assert refused["verb"] == "rollout.create"
        assert "Ask owner" in refused["detail"]
        rollout = created(deploy(lead))
        refused = api(viewer).post(f"/rollouts/{rollout['id']}/cancel", {"reason": "why"})
        assert "rollout.cancel" in problem(refused, 403, "not-allowed")["detail"]


def test_what_goes_wrong_here_is_said_without_its_insides(lead, monkeypatch):
    def broken(**_given):
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr("portal.api.services.create_service", broken)
    lead.client.raise_request_exception = False
    answer = lead.post("/services", {"team": "shop", "name": "x"})
    problem(answer, 500, "internal-error")
    assert b"hunter2" not in answer.content


def test_a_database_that_does_not_answer_is_said_so(lead, monkeypatch):
    def slow(**_given):
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 10")
            cursor.execute("SELECT pg_sleep(1)")

    monkeypatch.setattr("portal.api.services.create_service", slow)
    answer = lead.post("/services", {"team": "shop", "name": "x"}, {"Idempotency-Key": "k"})
    problem(answer, 503, "busy")
    assert answer.headers["Retry-After"]


def test_nothing_that_is_refused_leaves_an_audit_entry(lead, released):
    deploy(lead, environment="moon")
    lead.post("/services", {"team": "shop", "name": "orders"})
    lead.post("/teams", {"name": "x"})
    assert not Entry.objects.exists()
