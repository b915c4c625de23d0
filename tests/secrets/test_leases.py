"""Secrets on their way to an agent: which task gets them, and what is left behind."""

import dataclasses
import logging
from datetime import timedelta

import nacl.signing
import pytest
from django.db import connection
from django.utils import timezone

from audit.models import Entry
from deployments.models import Batch, Rollout, RolloutTarget, Target, Task, Wave
from deployments.secrets import registry
from tests.fixtures import CONFIG
from tests.signed import AgentClient

pytestmark = pytest.mark.needs("openbao")

BASE = CONFIG | {"env": {"DB": "${secret:vault:shop/orders/db#password}"}}
OVERLAYS = {"prod": {"env": {"MAIL": "key ${secret:vault:shop/orders/mail#key}"}}}


@pytest.fixture(autouse=True)
def anew():
    """Each test signs in for itself."""
    registry.get.cache_clear()


@pytest.fixture
def task(catalog, orders) -> Task:
    """An activation that agent-1 works on."""
    return give(catalog, orders, "1.0")


def give(catalog, orders, version, kind=Task.Kind.ACTIVATE, state="accepted", target=None) -> Task:
    target = target or orders.targets.first()
    Rollout.objects.filter(service=orders).update(state="failed")
    release = catalog.release(orders, version, base=BASE, overlays=OVERLAYS)
    rollout = Rollout.objects.create(
        service=orders, environment=catalog.prod, release=release, requested_by="owner", state="running"
    )
    wave = Wave.objects.create(rollout=rollout, position=0, name="all")
    batch = Batch.objects.create(rollout=rollout, wave=wave, position=0)
    progress = RolloutTarget.objects.create(rollout=rollout, batch=batch, target=target, position=0)
    return Task.objects.create(
        rollout=rollout,
        progress=progress,
        target=target,
        agent=catalog.agent,
        release=release,
        kind=kind,
        state=state,
        attempt=1,
        fence=1,
        expires_at=timezone.now() + timedelta(minutes=1),
    )


def finish(task: Task) -> None:
    Task.objects.filter(pk=task.pk).update(state="succeeded")
    Target.objects.filter(pk=task.target_id).update(release=task.release)


def ask(catalog, task: Task, agent=None, key=None):
    client = AgentClient(agent or catalog.agent, key or catalog.agent_key)
    return client.post(f"/agent/v1/tasks/{task.pk}/secrets")


def test_an_agent_gets_a_lease_for_each_path_of_its_task(configured, catalog, task):
    answer = ask(catalog, task)
    assert answer.status_code == 200, answer.content
    assert answer.headers["Cache-Control"] == "no-store"
    body = answer.json()
    assert body["address"] == configured.address
    assert sorted(body["leases"]) == ["shop/orders/db", "shop/orders/mail"]
    assert configured.unwrap(body["leases"]["shop/orders/db"])["password"] == "s3cret-of-the-database"
    assert configured.unwrap(body["leases"]["shop/orders/mail"])["key"] == "s3cret-of-the-mail"


def test_value_and_token_are_in_no_row_and_no_log(configured, catalog, task, caplog):
    caplog.set_level(logging.DEBUG)
    leases = ask(catalog, task).json()["leases"]
    entry = Entry.objects.get()
    assert (entry.verb, entry.actor_kind, entry.actor_name) == ("secret.lease", "agent", "agent-1")
    assert entry.after["paths"] == ["shop/orders/db", "shop/orders/mail"]
    for secret in ("s3cret", *leases.values()):
        assert secret not in caplog.text
        assert secret not in everything_in_the_database()


def test_an_agent_may_start_again_what_it_was_last_told_to_run(configured, catalog, task):
    finish(task)
    assert ask(catalog, task).status_code == 200


def test_what_ran_before_gets_no_secrets_any_more(configured, catalog, orders, task):
    finish(task)
    later = give(catalog, orders, "1.1")
    assert ask(catalog, later).status_code == 200
    assert ask(catalog, task).status_code == 404
    finish(later)
    assert ask(catalog, task).status_code == 404


@pytest.mark.parametrize("state", ["failed", "expired", "cancelled"])
def test_a_task_that_came_to_nothing_gets_no_secrets(configured, catalog, task, state):
    Task.objects.filter(pk=task.pk).update(state=state)
    Target.objects.filter(pk=task.target_id).update(release=task.release)
    assert ask(catalog, task).status_code == 404
    assert not Entry.objects.exists()


def test_a_staging_gets_its_secrets_only_while_it_is_open(configured, catalog, orders):
    staging = give(catalog, orders, "1.0", kind=Task.Kind.STAGE)
    assert ask(catalog, staging).status_code == 200
    finish(staging)
    assert ask(catalog, staging).status_code == 404


def test_another_agent_learns_nothing(configured, catalog, task):
    key = nacl.signing.SigningKey.generate()
    other = catalog.agent_named("agent-2", key)
    refused = ask(catalog, task, other, key)
    assert refused.status_code == 404
    assert refused.json()["type"] == "/problems/not-found"
    assert not Entry.objects.exists()


def test_a_release_without_secrets_needs_no_secret_server(catalog, orders, task):
    plain = catalog.release(orders, "2.0")
    Task.objects.filter(pk=task.pk).update(release=plain)
    assert ask(catalog, task).json()["leases"] == {}


def test_a_refusal_names_the_path_and_hands_out_nothing(configured, catalog, orders, task):
    base = CONFIG | {"env": {"DB": "${secret:vault:shop/orders/nothing#password}"}}
    Task.objects.filter(pk=task.pk).update(release=catalog.release(orders, "2.0", base=base))
    refused = ask(catalog, task)
    assert refused.status_code == 502
    assert refused.json()["type"] == "/problems/secret-unavailable"
    assert "shop/orders/nothing" in refused.json()["detail"]
    assert not Entry.objects.exists()


def test_a_secret_of_another_service_is_not_leased_even_if_the_policy_allows_it(configured, catalog, task):
    """The configuration may be older than the template."""
    configured.write("shop/bills/db", password="of-bills")
    bills = catalog.service("bills", targets=1)
    base = CONFIG | {"env": {"DB": "${secret:vault:shop/bills/db#password}"}}
    Task.objects.filter(pk=task.pk).update(release=catalog.release(task.rollout.service, "2.0", base=base))
    refused = ask(catalog, task)
    assert refused.status_code == 422
    assert "shop/orders or below" in refused.json()["detail"]
    assert not Entry.objects.exists()
    theirs = give(catalog, bills, "1.0")
    Task.objects.filter(pk=theirs.pk).update(release=catalog.release(bills, "2.0", base=base))
    overlaid = ask(catalog, theirs)
    assert sorted(overlaid.json()["leases"]) == ["shop/bills/db"]


def test_the_template_may_name_the_environment(configured, catalog, task, settings):
    def under(template):
        settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, vault_path_template=template)
        return ask(catalog, task)

    refused = under("{team}/{service}/{environment}")
    assert refused.status_code == 422
    assert "shop/orders/prod or below" in refused.json()["detail"]
    assert under("").status_code == 200


def test_without_an_audit_entry_nothing_is_handed_out(configured, catalog, task, monkeypatch):
    def broken(**_given):
        raise RuntimeError("no audit")

    monkeypatch.setattr("deployments.services.agents.events.record", broken)
    with pytest.raises(RuntimeError, match="no audit"):
        ask(catalog, task)


def everything_in_the_database() -> str:
    tables = connection.introspection.table_names()
    rows: list[str] = []
    with connection.cursor() as cursor:
        for table in tables:
            cursor.execute(f'SELECT t::text FROM "{table}" AS t')
            rows += [row[0] for row in cursor.fetchall()]
    return "\n".join(rows)
