import threading
from datetime import timedelta

import nacl.signing
import pytest
from django.db import connection
from django.utils import timezone

from audit.models import Entry
from deployments.errors import AlreadyExists, Invalid, JoinTokenUsed
from deployments.models import Agent, JoinToken, Target
from deployments.services import agents as commands


def new_key() -> bytes:
    return bytes(nacl.signing.SigningKey.generate().verify_key)


def enrol(secret: str, key: bytes | None = None) -> Agent:
    return commands.enrol_agent(
        join_token=secret, public_key=key or new_key(), hostname="host-7", software="1.0"
    )


def test_who_joins_serves_the_targets_of_the_token(admin, orders):
    wanted = list(orders.targets.values_list("id", flat=True)[:3])
    token, secret = commands.create_join_token(actor=admin, agent_name="host-7", target_ids=wanted)
    agent = enrol(secret)
    assert set(Target.objects.filter(agent=agent).values_list("id", flat=True)) == set(wanted)
    token.refresh_from_db()
    assert (token.used_by, agent.hostname, agent.software) == (agent, "host-7", "1.0")


def test_a_token_is_kept_as_a_digest_only(admin, world):
    token, secret = commands.create_join_token(actor=admin, agent_name="host-7")
    assert secret.startswith("slj_")
    assert secret not in str(JoinToken.objects.values().get(pk=token.pk))
    assert secret not in str(list(Entry.objects.values()))


def test_a_token_lets_one_agent_in_and_no_second(admin, world):
    _token, secret = commands.create_join_token(actor=admin, agent_name="host-7")
    enrol(secret)
    with pytest.raises(JoinTokenUsed, match="Create a new one"):
        enrol(secret)
    assert Agent.objects.filter(name="host-7").count() == 1


def test_an_expired_or_unknown_token_is_as_good_as_a_used_one(admin, world):
    token, secret = commands.create_join_token(actor=admin, agent_name="host-7", ttl_seconds=60)
    JoinToken.objects.filter(pk=token.pk).update(expires_at=timezone.now() - timedelta(seconds=1))
    for text in (secret, "slj_never-made", ""):
        with pytest.raises(JoinTokenUsed):
            enrol(text)
    assert not Agent.objects.filter(name="host-7").exists()


def test_a_revoked_agent_comes_back_with_a_new_key_and_no_other_does(admin, world):
    with pytest.raises(AlreadyExists, match="Revoke it first"):
        commands.create_join_token(actor=admin, agent_name="agent-1")
    commands.revoke_agent(actor=admin, agent_id=world.agent.id, reason="New disk")
    _token, secret = commands.create_join_token(actor=admin, agent_name="agent-1")
    key = new_key()
    assert enrol(secret, key).id == world.agent.id
    agent = Agent.objects.get(pk=world.agent.pk)
    assert (bytes(agent.public_key), agent.revoked_at) == (key, None)


def test_to_revoke_takes_a_reason_and_counts_once(admin, world):
    with pytest.raises(Invalid, match="reason"):
        commands.revoke_agent(actor=admin, agent_id=world.agent.id, reason=" ")
    commands.revoke_agent(actor=admin, agent_id=world.agent.id, reason="Stolen")
    commands.revoke_agent(actor=admin, agent_id=world.agent.id, reason="Stolen")
    assert [(e.verb, e.reason) for e in Entry.objects.all()] == [("agent.revoke", "Stolen")]


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"agent_name": "Host 7"}, "agent_name"),
        ({"agent_name": "host-7", "ttl_seconds": 1}, "ttl_seconds"),
        ({"agent_name": "host-7", "target_ids": ["0190a1b2-0000-7000-8000-000000000000"]}, "targets"),
    ],
)
def test_a_token_for_nonsense_is_refused(admin, world, given, field):
    with pytest.raises(Invalid) as refused:
        commands.create_join_token(actor=admin, **given)
    assert field in refused.value.extra["errors"]
    assert not JoinToken.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_that_join_at_once_with_one_token_one_gets_in(admin, world):
    _token, secret = commands.create_join_token(actor=admin, agent_name="host-7")
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def join() -> None:
        try:
            barrier.wait(10)
            enrol(secret)
            outcomes.append("in")
        except JoinTokenUsed:
            outcomes.append("refused")
        finally:
            connection.close()

    threads = [threading.Thread(target=join) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["in", "refused"]
    assert Agent.objects.filter(name="host-7").count() == 1
