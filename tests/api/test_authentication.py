from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from audit.models import Entry
from portal.accounts.models import ApiToken, User
from tests.api.conftest import API, Api, created, problem


def test_without_a_credential_nothing_is_answered(api, orders):
    anonymous = api(None)
    for answer in (
        anonymous.get("/services"),
        anonymous.post("/teams", {"name": "x"}),
        anonymous.get("/nowhere"),
    ):
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "Authorization: Bearer" in problem(answer, 401, "bad-credential")["detail"]


@pytest.mark.parametrize("header", ["Bearer", "Bearer slw_wrong", "Bearer  ", "bearer slw_\xe9"])
def test_a_wrong_token_is_refused_and_no_session_stands_in_for_it(api, owner, header):
    client = api(owner)
    answer = client.get("/me", headers={"Authorization": header})
    assert "API token" in problem(answer, 401, "bad-credential")["detail"]


@pytest.mark.parametrize(
    "changed",
    [
        {"revoked_at": timezone.now()},
        {"expires_at": timezone.now() - timedelta(seconds=1)},
    ],
)
def test_a_token_ends(api, ci_token, changed):
    client = api(ci_token)
    assert client.get("/me").status_code == 200
    ApiToken.objects.update(**changed)
    problem(client.get("/me"), 401, "bad-credential")


def test_a_token_of_an_account_that_was_closed_is_refused(api, ci_token):
    User.objects.filter(username="ci").update(is_active=False)
    problem(api(ci_token).get("/me"), 401, "bad-credential")


def test_the_use_of_a_token_is_noted_once_a_minute(api, ci_token, django_assert_num_queries):
    client = api(ci_token)
    client.get("/me")
    noted = ApiToken.objects.get().last_used_at
    client.get("/me")
    assert noted is not None
    assert ApiToken.objects.get().last_used_at == noted


def test_a_session_needs_its_csrf_token_to_change_something(owner, world):
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner.user, backend="django.contrib.auth.backends.ModelBackend")
    body = {"team": "shop", "name": "orders"}
    refused = client.post(f"{API}/services", body, content_type="application/json")
    assert "X-CSRFToken" in problem(refused, 403, "csrf-failed")["detail"]
    client.cookies["csrftoken"] = token = "a" * 32
    headers = {"X-CSRFToken": token}
    created(client.post(f"{API}/services", body, content_type="application/json", headers=headers))


def test_a_token_needs_none(ci_token, world, admin):
    client = Client(enforce_csrf_checks=True)
    headers = {"Authorization": f"Bearer {ci_token.secret}"}
    answer = client.post(
        f"{API}/services", {"team": "shop", "name": "x"}, content_type="application/json", headers=headers
    )
    problem(answer, 403, "not-allowed")


def test_what_a_token_does_is_audited_as_the_tokens(api, ci_token, orders):
    config = {"service": "orders", "base": {"process": {"command": ["x"]}}}
    answer = api(ci_token).post("/configs", config, headers={"X-Request-ID": "build-17-step-3"})
    created(answer)
    assert answer.headers["X-Request-ID"] == "build-17-step-3"
    entry = Entry.objects.get()
    assert (entry.actor_kind, entry.actor_name) == ("token", "ci (ci)")
    assert entry.request_id == "build-17-step-3"
    assert entry.address == "127.0.0.1"


def test_me_says_who_and_where(api, teammate, ci_token, admin):
    body = Api(teammate).get("/me").json()
    assert (body["kind"], body["name"], body["is_administrator"]) == ("user", "teammate", False)
    assert [(one["team"]["name"], one["role"]) for one in body["teams"]] == [("shop", "deployer")]
    assert Api(ci_token).get("/me").json()["kind"] == "token"
    assert Api(admin).get("/me").json()["is_administrator"] is True
