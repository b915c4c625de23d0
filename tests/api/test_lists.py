"""Every list: only what one may see, in pages, narrowed by filters, in a constant number of queries."""

import pytest
from django.urls import get_resolver

from deployments.models import JobFault, Service
from portal.api.views import ListView
from tests.api.conftest import created, problem, results


@pytest.fixture
def full(catalog, orders, owner, outsider, admin, api):
    """Something in every list."""
    catalog.release(orders, "1.0")
    catalog.artifact(b"of another", by=outsider.user)
    created(api(admin).post("/join-tokens", {"agent_name": "host-7"}))
    created(api(owner).post("/rollouts", {"service": "orders", "environment": "prod", "release": "1.0"}))
    JobFault.objects.create(function="some.job", subject="x", error="ValueError: x", traceback="x")
    return catalog


NOUNS = (
    "teams",
    "memberships",
    "environments",
    "regions",
    "services",
    "targets",
    "agents",
    "join-tokens",
    "artifacts",
    "configs",
    "releases",
    "rollouts",
    "faults",
)


def test_every_list_is_tested_here():
    patterns = get_resolver("portal.api.urls").url_patterns
    lists = {str(p.pattern) for p in patterns if issubclass(p.callback.view_class, ListView)}
    assert {path for path in lists if "/" not in path} == set(NOUNS)


@pytest.mark.parametrize("noun", NOUNS)
def test_an_administrator_sees_all_and_each_by_its_id(api, full, admin, noun):
    boss = api(admin)
    rows = results(boss.get(f"/{noun}"))
    assert rows
    key = "digest" if noun == "artifacts" else "id"
    assert all(boss.get(f"/{noun}/{row[key]}").json() == row for row in rows[:3])


@pytest.mark.parametrize("noun", NOUNS)
def test_an_outsider_sees_what_is_everybodys_and_their_own(api, full, outsider, noun):
    own = {"teams": 1, "memberships": 1, "environments": 1, "regions": 3, "artifacts": 1}
    assert len(results(api(outsider).get(f"/{noun}"))) == own.get(noun, 0)


@pytest.mark.parametrize("noun", [noun for noun in NOUNS if noun not in ("join-tokens", "faults")])
def test_a_viewer_sees_what_the_team_sees(api, full, viewer, owner, noun):
    seen = results(api(viewer).get(f"/{noun}"))
    assert seen
    assert seen == results(api(owner).get(f"/{noun}"))


@pytest.mark.parametrize("noun", NOUNS)
def test_an_unknown_filter_is_refused(api, full, admin, noun):
    refused = problem(api(admin).get(f"/{noun}", sevrice="orders"), 422, "invalid")
    assert "Known:" in refused["errors"]["sevrice"]


def test_pages_follow_one_another_without_gap_or_repetition(api, full, owner):
    lead = api(owner)
    names: list[str] = []
    answer = lead.get("/targets", page_size=5)
    while True:
        body = answer.json()
        names += [row["name"] for row in body["results"]]
        if body["next"] is None:
            break
        answer = lead.client.get(body["next"])
    assert names == [f"orders-{number:02}" for number in range(12, 0, -1)]
    back = lead.client.get(body["previous"]).json()
    assert [row["name"] for row in back["results"]] == names[5:10]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"cursor": "nonsense"}, "cursor"),
        ({"page_size": "0"}, "page_size"),
        ({"page_size": "201"}, "page_size"),
        ({"page_size": "many"}, "page_size"),
        ({"health": "splendid"}, "health"),
    ],
)
def test_a_page_that_makes_no_sense_is_refused(api, full, owner, query, field):
    assert field in problem(api(owner).get("/targets", **query), 422, "invalid")["errors"]


@pytest.mark.parametrize(
    ("path", "query", "number"),
    [
        ("/targets", {"service": "orders", "environment": "prod", "region": "eu"}, 4),
        ("/targets", {"service": "bills"}, 0),
        ("/targets", {"agent": "agent-1", "name": "orders-01"}, 1),
        ("/rollouts", {"service": "orders", "environment": "prod", "active": "true"}, 1),
        ("/rollouts", {"active": "false"}, 0),
        ("/rollouts", {"release": "1.0"}, 1),
        ("/releases", {"service": "orders", "version": "1.0"}, 1),
        ("/releases", {"version": "9"}, 0),
        ("/memberships", {"team": "shop", "user": "owner"}, 1),
        ("/environments", {"tier": "dev"}, 0),
        ("/agents", {"revoked": "true"}, 0),
        ("/agents", {"revoked": "false"}, 1),
        ("/join-tokens", {"used": "false"}, 1),
    ],
)
def test_filters_narrow(api, full, admin, path, query, number):
    assert len(results(api(admin).get(path, **query))) == number


def test_a_filter_takes_an_id_too(api, full, owner):
    service = Service.objects.get(name="orders")
    assert len(results(api(owner).get("/targets", service=service.id))) == 12


@pytest.mark.parametrize("noun", NOUNS)
def test_a_list_costs_the_same_for_many_rows_as_for_few(
    api, full, admin, noun, django_assert_max_num_queries
):
    full.service("bills", targets=30)
    boss = api(admin)
    with django_assert_max_num_queries(8):
        results(boss.get(f"/{noun}", page_size=100))


def test_events_go_on_from_a_number(api, full, owner):
    lead = api(owner)
    rollout = results(lead.get("/rollouts"))[0]
    created_events = results(lead.get(f"/rollouts/{rollout['id']}/events"))
    assert [event["number"] for event in created_events] == list(range(1, rollout["event_count"] + 1))
    later = results(lead.get(f"/rollouts/{rollout['id']}/events", after=1))
    assert later == created_events[1:]
    refused = lead.get(f"/rollouts/{rollout['id']}/events", after="x")
    assert "after" in problem(refused, 422, "invalid")["errors"]


def test_targets_of_a_rollout_come_in_order(api, full, owner):
    lead = api(owner)
    rollout = results(lead.get("/rollouts"))[0]
    targets = results(lead.get(f"/rollouts/{rollout['id']}/targets"))
    assert [target["position"] for target in targets] == list(range(12))
    assert {target["state"] for target in targets} == {"pending"}
    assert results(lead.get(f"/rollouts/{rollout['id']}/targets", state="healthy")) == []
    assert results(lead.get(f"/rollouts/{rollout['id']}/tasks")) == []
