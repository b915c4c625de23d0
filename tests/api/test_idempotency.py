import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.urls import get_resolver
from django.utils import timezone

from audit.models import Entry
from deployments.models import IdempotencyKey, JoinToken, Service, Team
from tests.api.conftest import Api, created, problem

KEY = {"Idempotency-Key": "5f2b0c8e-4f3d"}
BODY = {"team": "shop", "name": "orders"}


@pytest.fixture
def lead(api, owner):
    return api(owner)


def test_the_first_answer_is_given_again_and_nothing_is_done_twice(lead):
    first, again = lead.post("/services", BODY, KEY), lead.post("/services", BODY, KEY)
    assert created(first) == created(again)
    assert first.headers["ETag"] == again.headers["ETag"] == '"1"'
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert Service.objects.count() == Entry.objects.count() == 1


def test_another_request_under_the_same_key_is_refused(lead):
    created(lead.post("/services", BODY, KEY))
    for path, body in [("/services", BODY | {"name": "bills"}), ("/teams", BODY)]:
        assert "new key" in problem(lead.post(path, body, KEY), 422, "idempotency-mismatch")["detail"]
    assert Service.objects.count() == 1


def test_what_was_refused_may_be_tried_again_under_the_same_key(lead, world):
    bad = BODY | {"strategy": {"name": "teleport"}}
    problem(lead.post("/services", bad, KEY), 422, "invalid")
    assert not IdempotencyKey.objects.exists()
    created(lead.post("/services", BODY, KEY))


def test_two_people_may_choose_the_same_key(lead, api, admin):
    created(lead.post("/services", BODY, KEY))
    created(api(admin).post("/teams", {"name": "new"}, KEY))


def test_a_day_later_the_key_is_free_again(lead):
    created(lead.post("/services", BODY, KEY))
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(hours=24, seconds=1))
    created(lead.post("/services", BODY | {"name": "bills"}, KEY))
    assert IdempotencyKey.objects.count() == 1


def test_old_answers_are_purged(lead):
    created(lead.post("/services", BODY, KEY))
    assert IdempotencyKey.objects.outdated().delete()[0] == 0
    IdempotencyKey.objects.update(created_at=timezone.now() - timedelta(days=2))
    assert IdempotencyKey.objects.outdated().delete()[0] == 1


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "ä"])
def test_a_key_that_is_none_is_refused(lead, key):
    refused = problem(lead.post("/services", BODY, {"Idempotency-Key": key}), 422, "invalid")
    assert "Idempotency-Key" in refused["errors"]
    assert not Service.objects.exists()


def test_a_secret_is_shown_once_and_not_kept(api, admin, world):
    boss = api(admin)
    first = created(boss.post("/join-tokens", {"agent_name": "host-7"}, KEY))
    again = created(boss.post("/join-tokens", {"agent_name": "host-7"}, KEY))
    assert again == first | {"join_token": None}
    assert first["join_token"] not in IdempotencyKey.objects.get().body
    assert JoinToken.objects.count() == 1


def test_every_post_takes_a_key():
    from portal.api.artifacts import ArtifactList

    views = [p.callback.view_class for p in get_resolver("portal.api.urls").url_patterns]
    posts = [view.post for view in views if hasattr(view, "post")]
    assert len(posts) > 10
    assert all(getattr(post, "is_idempotent", False) for post in posts if post is not ArtifactList.post)


@pytest.mark.django_db(transaction=True)
def test_of_two_at_once_one_is_told_to_wait(admin, world, monkeypatch):
    started, go_on = threading.Event(), threading.Event()

    def slow(**given):
        started.set()
        assert go_on.wait(10)
        return create_team(**given)

    from deployments.services.catalog import create_team

    monkeypatch.setattr("portal.api.teams.create_team", slow)
    outcomes: list[int] = []

    def first() -> None:
        outcomes.append(Api(admin).post("/teams", {"name": "new"}, KEY).status_code)
        connection.close()

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(10)
    refused = Api(admin).post("/teams", {"name": "new"}, KEY)
    go_on.set()
    thread.join(10)
    assert "Wait" in problem(refused, 409, "request-in-progress")["detail"]
    assert outcomes == [201]
    assert Team.objects.filter(name="new").count() == 1
