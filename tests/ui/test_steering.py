"""Forms that change something."""

import re
import uuid
from typing import Any

import pytest

from deployments.models import Rollout, Service
from deployments.services import rollbacks
from tests.engine.driver import Driver
from tests.fixtures import Login, Person, World


def test_a_teammate_pauses_and_resumes_with_a_reason(
    login: Login, teammate: Person, rollout: Rollout
) -> None:
    client = login(teammate)
    response = client.post(f"/rollouts/{rollout.id}/pause/", {"reason": "Orders look odd"})
    assert response.status_code == 302
    assert response["Location"] == f"/rollouts/{rollout.id}/"
    rollout.refresh_from_db()
    assert rollout.state == "paused"
    assert "Orders look odd" in client.get(f"/rollouts/{rollout.id}/").content.decode()
    client.post(f"/rollouts/{rollout.id}/resume/", {"reason": "They were mine"})
    rollout.refresh_from_db()
    assert rollout.state == "running"


@pytest.mark.parametrize("action", ["pause", "rollback", "cancel"])
def test_without_a_reason_nothing_happens(
    login: Login, teammate: Person, rollout: Rollout, action: str
) -> None:
    response = login(teammate).post(f"/rollouts/{rollout.id}/{action}/", {"reason": "   "})
    assert response.status_code == 422
    assert "Say why" in response.content.decode()
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_a_move_that_the_state_forbids_is_explained_and_the_reason_kept(
    login: Login, teammate: Person, rollout: Rollout
) -> None:
    response = login(teammate).post(f"/rollouts/{rollout.id}/resume/", {"reason": "Go on, please"})
    assert response.status_code == 409
    body = response.content.decode()
    assert "Only a paused rollout can be resumed" in body
    assert "Go on, please" in body


def test_rolling_back_in_flight_turns_the_same_rollout_round(
    login: Login, teammate: Person, rollout: Rollout
) -> None:
    response = login(teammate).post(f"/rollouts/{rollout.id}/rollback/", {"reason": "Errors"})
    assert response["Location"] == f"/rollouts/{rollout.id}/"
    rollout.refresh_from_db()
    assert rollout.state == "rolling_back"


def test_rolling_back_a_finished_rollout_leads_to_the_new_one(
    login: Login, teammate: Person, driver: Driver, rollout: Rollout
) -> None:
    driver.finish(rollout)
    client = login(teammate)
    assert "Roll back" in client.get(f"/rollouts/{rollout.id}/").content.decode()
    response = client.post(f"/rollouts/{rollout.id}/rollback/", {"reason": "Errors"})
    back = Rollout.objects.get(rolls_back=rollout)
    assert response["Location"] == f"/rollouts/{back.id}/"
    assert back.release.version == "1.0"


def seen(response: Any) -> str:
    (found,) = re.findall(r'name="seen" value="([^"]*)"', response.content.decode())
    return str(found)


@pytest.mark.parametrize("page", ["", "choice/"])
def test_a_rollback_that_was_shown_in_flight_does_not_become_another_rollout(
    login: Login, teammate: Person, driver: Driver, rollout: Rollout, page: str
) -> None:
    client = login(teammate)
    path = f"/rollouts/{rollout.id}/rollback/"
    shown = seen(client.get(f"{path}{page}"))
    driver.finish(rollout)
    refused = client.post(path, {"reason": "Errors of old", "seen": shown})
    assert refused.status_code == 412
    body = refused.content.decode()
    assert "The rollout has changed since this was shown" in body
    assert "Errors of old" in body
    assert "Back to" in body
    assert not Rollout.objects.filter(rolls_back=rollout).exists()
    client.post(path, {"reason": "Errors of old", "seen": seen(refused)})
    assert Rollout.objects.filter(rolls_back=rollout).exists()


def test_a_rollback_is_not_refused_because_the_rollout_went_on(
    login: Login, teammate: Person, driver: Driver, rollout: Rollout
) -> None:
    client = login(teammate)
    path = f"/rollouts/{rollout.id}/rollback/"
    shown = seen(client.get(path))
    driver.answer(rollout)
    assert rollout.state == "running"
    assert client.post(path, {"reason": "Errors", "seen": shown}).status_code == 302
    rollout.refresh_from_db()
    assert rollout.state == "rolling_back"


def test_a_rollback_meets_what_happens_between_the_look_and_the_lock(
    monkeypatch: pytest.MonkeyPatch, login: Login, teammate: Person, driver: Driver, rollout: Rollout
) -> None:
    client = login(teammate)
    path = f"/rollouts/{rollout.id}/rollback/"
    shown = seen(client.get(path))
    command = rollbacks.roll_back_rollout

    def late(**arguments: Any) -> Rollout:
        if rollout.state == "running":
            driver.finish(rollout)
        return command(**arguments)

    monkeypatch.setattr(rollbacks, "roll_back_rollout", late)
    assert client.post(path, {"reason": "Errors", "seen": shown}).status_code == 412
    assert not Rollout.objects.filter(rolls_back=rollout).exists()


def test_a_mangled_release_to_go_back_to_is_refused_with_a_word(
    login: Login, teammate: Person, rollout: Rollout
) -> None:
    response = login(teammate).post(f"/rollouts/{rollout.id}/rollback/", {"reason": "Errors", "release": "x"})
    assert response.status_code == 422
    assert "This is no release." in response.content.decode()


def test_a_viewer_is_told_what_is_needed_and_who_grants_it(
    login: Login, viewer: Person, owner: Person, rollout: Rollout
) -> None:
    response = login(viewer).post(f"/rollouts/{rollout.id}/pause/", {"reason": "Me too"})
    assert response.status_code == 403
    body = response.content.decode()
    assert "rollout.pause" in body
    assert "owner" in body
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_an_outsider_steers_nothing(login: Login, outsider: Person, rollout: Rollout) -> None:
    client = login(outsider)
    for path in (
        f"/rollouts/{rollout.id}/pause/",
        f"/rollouts/{uuid.uuid4()}/pause/",
        "/services/orders/deploy/",
    ):
        assert client.post(path, {"reason": "Mine now"}).status_code == 404
    rollout.refresh_from_db()
    assert rollout.state == "running"


def test_deploying_leads_to_the_rollout(
    login: Login, teammate: Person, catalog: World, orders: Service
) -> None:
    release = catalog.release(orders, "1.0")
    client = login(teammate)
    form = client.get(f"/services/orders/deploy/?release={release.id}").content.decode()
    assert f'value="{release.id}" selected' in form
    response = client.post(
        "/services/orders/deploy/",
        {"release": str(release.id), "environment": str(catalog.prod.id), "reason": "First"},
    )
    rollout = Rollout.objects.get()
    assert response["Location"] == f"/rollouts/{rollout.id}/"
    assert rollout.reason == "First"
    assert rollout.requested_by == "teammate"


def test_a_second_deploy_is_refused_and_the_form_keeps_what_was_chosen(
    login: Login, teammate: Person, rollout: Rollout, catalog: World
) -> None:
    response = login(teammate).post(
        "/services/orders/deploy/",
        {"release": str(rollout.release_id), "environment": str(catalog.prod.id), "reason": "Again"},
    )
    assert response.status_code == 409
    body = response.content.decode()
    assert "or queue up behind it" in body
    assert "Again" in body
    assert f'value="{rollout.release_id}" selected' in body


@pytest.mark.parametrize("values", [{}, {"release": "x", "environment": "y"}, {"release": str(uuid.uuid4())}])
def test_a_deploy_form_that_is_not_filled_in_says_so(
    login: Login, teammate: Person, orders: Service, catalog: World, values: dict[str, str]
) -> None:
    catalog.release(orders, "1.0")
    response = login(teammate).post("/services/orders/deploy/", values)
    assert response.status_code == 422
    assert not Rollout.objects.exists()


def test_a_viewer_may_not_deploy(login: Login, viewer: Person, owner: Person, orders: Service) -> None:
    assert login(viewer).get("/services/orders/deploy/").status_code == 403


def test_a_form_without_its_token_is_refused(teammate: Person, rollout: Rollout) -> None:
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.force_login(teammate.user, backend="django.contrib.auth.backends.ModelBackend")
    response = client.post(f"/rollouts/{rollout.id}/cancel/", {"reason": "From elsewhere"})
    assert response.status_code == 403
    assert "form has expired" in response.content.decode()
