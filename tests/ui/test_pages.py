"""Every page, for everybody who may come."""

import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from deployments.models import Rollout, Service
from tests.engine.driver import Driver
from tests.fixtures import Person, World
from tests.ui.conftest import COMMON, Get


def test_an_owner_sees_every_page(get: Get, owner: Person, pages: dict[str, str]) -> None:
    for path in (*COMMON, *pages.values()):
        assert get(owner, path).status_code == 200, path


def test_a_viewer_sees_every_page_and_no_button(
    get: Get, viewer: Person, owner: Person, pages: dict[str, str]
) -> None:
    for path in pages.values():
        response = get(viewer, path)
        assert response.status_code == 200, path
        body = response.content.decode()
        for button in ("Pause", "Roll back", "Cancel rollout", ">Deploy"):
            assert button not in body, (path, button)
    assert "Roll back" in get(owner, pages["rollout"]).content.decode()
    assert ">Deploy</a>" in get(owner, pages["service"]).content.decode()


def test_an_outsider_gets_the_page_of_what_does_not_exist(
    get: Get, outsider: Person, pages: dict[str, str], text_of: Callable[[Any], str]
) -> None:
    for path in pages.values():
        missing = re.sub(r"[0-9a-f-]{36}", str(uuid.uuid4()), path).replace("orders", "nothing")
        refused, absent = get(outsider, path), get(outsider, missing)
        assert refused.status_code == absent.status_code == 404, path
        assert text_of(refused).replace(path, "") == text_of(absent).replace(missing, ""), path


def test_an_outsider_finds_nothing_of_the_team_in_any_list(
    get: Get, outsider: Person, pages: dict[str, str]
) -> None:
    for path in COMMON:
        assert "orders" not in get(outsider, path).content.decode(), path


def test_anonymous_people_are_sent_to_log_in_and_back(get: Get, pages: dict[str, str]) -> None:
    for path in (*COMMON, *pages.values(), "/audit/"):
        response = get(None, path)
        assert response.status_code == 302, path
        assert response["Location"] == f"/login/?next={path}"


def test_a_fragment_sends_the_whole_window_to_log_in(get: Get, pages: dict[str, str]) -> None:
    response = get(None, pages["status"], hx_request="true", hx_current_url="http://testserver/rollouts/")
    assert response.status_code == 204
    assert response["HX-Redirect"] == "/login/?next=/rollouts/"


def test_the_audit_log_is_for_administrators(
    get: Get, admin: Person, owner: Person, rollout: Rollout
) -> None:
    refused = get(owner, "/audit/")
    assert refused.status_code == 403
    assert "audit.view" in refused.content.decode()
    assert "an administrator" in refused.content.decode()
    body = get(admin, f"/audit/?object_kind=rollout&object_id={rollout.id}").content.decode()
    assert "rollout.create" in body
    assert "target.staged" not in body


def test_the_overview_says_what_runs_and_what_is_changing(get: Get, owner: Person, rollout: Rollout) -> None:
    body = get(owner, "/").content.decode()
    assert f"/rollouts/{rollout.id}/" in body
    assert "1.1 running, 0 of 12" in body
    assert "1.1 on 3" in body


def test_an_unchanged_overview_is_not_sent_again(
    get: Get, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    seen = get(owner, "/", hx_request="true").context["seen"]
    assert get(owner, f"/?seen={seen}", hx_request="true").status_code == 204
    driver.answer(rollout)
    assert get(owner, f"/?seen={seen}", hx_request="true").status_code == 200


def test_a_rollout_says_what_it_waits_for(get: Get, owner: Person, rollout: Rollout) -> None:
    body = get(owner, f"/rollouts/{rollout.id}/").content.decode()
    assert rollout.waiting_on
    assert rollout.waiting_on["sentence"] in body
    assert rollout.plan.digest in body
    assert f'data-after="{Rollout.objects.get(id=rollout.id).event_count}"' in body


def test_a_failure_is_shown_with_its_reason(
    get: Get, owner: Person, driver: Driver, rollout: Rollout
) -> None:
    driver.finish(rollout, failing=["orders-01"])
    assert rollout.state == "rolled_back"
    body = get(owner, f"/rollouts/{rollout.id}/").content.decode()
    assert "unhealthy on purpose" in body
    assert rollout.outcome.replace("'", "&#x27;") in body


def test_the_event_stream_gives_what_comes_after_a_number(get: Get, owner: Person, rollout: Rollout) -> None:
    count = Rollout.objects.get(id=rollout.id).event_count
    body = get(owner, f"/rollouts/{rollout.id}/events/?after={count - 2}").content.decode()
    assert re.findall(r'data-number="(\d+)"', body) == [str(count), str(count - 1)]


def test_secrets_are_shown_as_references(get: Get, owner: Person, catalog: World, orders: Service) -> None:
    base = {"process": {"command": ["run"]}, "env": {"TOKEN": "${secret:vault:orders/db#password}"}}
    release = catalog.release(orders, "2.0", base=base, overlays={"prod": {"env": {"LEVEL": "warning"}}})
    body = get(owner, f"/releases/{release.id}/").content.decode()
    assert "${secret:vault:orders/db#password}" in body
    assert "As in prod" in body


def test_text_of_others_is_escaped(get: Get, owner: Person, catalog: World, orders: Service) -> None:
    release = catalog.release(orders, "<script>alert(1)</script>")
    for path in ("/services/orders/", f"/releases/{release.id}/", "/services/orders/deploy/"):
        assert "<script>alert" not in get(owner, path).content.decode()


@pytest.mark.parametrize(
    "query", ["before=nonsense", "before=%00", "service=%00", "service=%27;--", "state=gone"]
)
def test_a_mangled_link_breaks_nothing(get: Get, owner: Person, rollout: Rollout, query: str) -> None:
    assert get(owner, f"/rollouts/?{query}").status_code == 200


def test_empty_places_say_what_to_do_next(get: Get, admin: Person, owner: Person, world: World) -> None:
    world.service("bare", targets=0)
    assert "/api/v1/targets" in get(owner, "/services/bare/").content.decode()
    assert "No release to deploy" in get(owner, "/services/bare/deploy/").content.decode()
    assert "No service matches" in get(owner, "/?text=nothing-like-it").content.decode()


def test_no_page_has_inline_script_or_style(get: Get, owner: Person, pages: dict[str, str]) -> None:
    for path in (*COMMON, *pages.values(), "/services/orders/deploy/"):
        body = get(owner, path).content.decode()
        assert not re.search(r"\sstyle=|<style|\son[a-z]+=", body), path
        assert not re.search(r"<script(?![^>]*\ssrc=)", body), path
