"""The agents' socket, over real connections to real web processes."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nacl.signing
import pytest
from django.conf import settings
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from deployments import protocol
from deployments.agents import signing
from deployments.domain.states import TASK_OPEN, RolloutState
from deployments.models import Agent, LogChunk, QueuedJob, Rollout, Service, Target, Task, TaskReport
from deployments.services.rollouts import cancel_rollout
from tests.engine.driver import Driver
from tests.fixtures import World
from tests.live.web import AgentPeer, WebServer, closed_with, eventually

pytestmark = pytest.mark.django_db(transaction=True)

Connect = Callable[..., AgentPeer]


def test_an_agent_is_welcomed_with_its_targets(
    web: WebServer, catalog: World, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    welcome = agent.welcomed()
    assert welcome.heartbeat_seconds == settings.SLIPWAY.heartbeat_seconds
    assert sorted(welcome.targets.values())[0] == "orders-01"
    assert len(welcome.targets) == 12
    stored = Agent.objects.get(pk=catalog.agent.pk)
    assert stored.connected_to
    assert stored.connected_at is not None
    agent.close()
    eventually(lambda: Agent.objects.get(pk=catalog.agent.pk).connected_to == "")


def test_a_rollout_runs_over_the_socket_to_its_end(
    web: WebServer, rollout: Rollout, driver: Driver, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    kinds = []
    while driver.tick(rollout).state == RolloutState.RUNNING:
        waiting = Task.objects.filter(rollout=rollout, state__in=TASK_OPEN).count()
        for task in agent.instructions(waiting):
            kinds.append(type(task).__name__)
            agent.answer(task)
        assert {type(agent.read()) for _ in range(waiting)} == {protocol.Ack}
    assert rollout.state == RolloutState.SUCCEEDED
    assert kinds == ["Stage"] * 12 + ["Activate"] * 12


def test_an_instruction_is_signed_and_complete(
    web: WebServer, rollout: Rollout, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    signed = agent.read()
    assert isinstance(signed, protocol.Signed)
    assert signing.is_signed_by(bytes(signing._key().verify_key), signed.body.encode(), signed.signature)
    task = protocol.decode_instruction(signed.body)
    assert isinstance(task, protocol.Stage)
    target = Target.objects.get(pk=task.target_id)
    assert task.agent_id == str(agent.agent.id)
    assert task.release.env == {"PORT": target.variables["port"], "VERSION": "1.0"}
    assert task.release.health.port == int(target.variables["port"])
    assert task.release.artifact.path == f"/agent/v1/artifacts/{task.release.artifact.digest}"
    assert Task.objects.get(pk=task.task_id).expires_at.timestamp() == pytest.approx(task.expires_at)


def test_tasks_reach_an_agent_of_the_second_web_process(
    web: WebServer,
    second_web: WebServer,
    catalog: World,
    driver: Driver,
    orders: Service,
    connect_agent: Connect,
) -> None:
    elsewhere = catalog.agent_named("elsewhere", key := nacl.signing.SigningKey.generate())
    first, second = connect_agent(web), connect_agent(second_web, elsewhere, key=key)
    first.welcomed()
    second.welcomed()
    Target.objects.filter(service=orders, region__name="us").update(agent=elsewhere)
    driver.tick(driver.start(orders, "1.0"))
    assert {task.target_name for task in second.instructions(4)} == set(
        Target.objects.filter(agent=elsewhere).values_list("name", flat=True)
    )
    assert len(first.instructions(8)) == 8


def test_open_tasks_are_sent_again_after_a_reconnect(
    web: WebServer, second_web: WebServer, rollout: Rollout, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    before = {task.task_id for task in agent.instructions(12)}
    agent.close()
    again = connect_agent(second_web)
    again.welcomed()
    assert {task.task_id for task in again.instructions(12)} == before


def test_an_agent_is_told_which_of_its_tasks_were_cancelled_also_after_a_reconnect(
    web: WebServer, second_web: WebServer, rollout: Rollout, driver: Driver, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    tasks = {task.task_id: task for task in agent.instructions(12)}
    cancel_rollout(actor=driver.actor, rollout_id=rollout.id, reason="enough")
    told = agent.instructions(12)
    assert {type(one) for one in told} == {protocol.Cancel}
    assert {one.cancels for one in told if isinstance(one, protocol.Cancel)} == tasks.keys()
    answered = next(iter(tasks.values()))
    agent.answer(answered, "cancelled")
    assert isinstance(agent.read(), protocol.Ack)
    agent.close()
    again = connect_agent(second_web)
    again.welcomed()
    told_again = {one.cancels for one in again.instructions(11) if isinstance(one, protocol.Cancel)}
    assert told_again == tasks.keys() - {answered.task_id}


def test_a_second_connection_ends_the_first_one(
    web: WebServer, second_web: WebServer, world: World, connect_agent: Connect
) -> None:
    for server in (web, second_web):
        first = connect_agent(web)
        first.welcomed()
        later = connect_agent(server)
        later.welcomed()
        assert first.close_code() == 4409
        place = Agent.objects.get(pk=world.agent.pk).connected_to
        later.say(protocol.Heartbeat(number=1))
        assert place
        assert Agent.objects.get(pk=world.agent.pk).connected_to == place


@pytest.mark.parametrize("who", ["wrong key", "unknown", "revoked", "no id"])
def test_who_cannot_prove_who_it_is_does_not_come_in(
    who: str, web: WebServer, world: World, connect_agent: Connect
) -> None:
    more: dict[str, Any] = {}
    if who == "wrong key":
        more["key"] = nacl.signing.SigningKey.generate()
    elif who == "unknown":
        more["said_id"] = "01890000-0000-7000-8000-000000000000"
    elif who == "no id":
        more["said_id"] = "agent-1"
    else:
        Agent.objects.filter(pk=world.agent.pk).update(revoked_at="2026-01-01T00:00:00Z")
    agent = connect_agent(web, **more)
    assert isinstance(agent.read(), protocol.Refused)
    assert agent.close_code() == 4401
    assert Agent.objects.get(pk=world.agent.pk).connected_to == ""


def test_revoking_an_agent_ends_its_connection(web: WebServer, world: World, connect_agent: Connect) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    Agent.objects.filter(pk=world.agent.pk).update(revoked_at="2026-01-01T00:00:00Z")
    assert agent.close_code() == 4401


def test_what_is_wrong_is_refused_and_the_connection_stays(
    web: WebServer, catalog: World, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    wrong = {
        "malformed": [
            "",
            "{",
            "[]",
            '{"type":"nothing"}',
            '{"type":"report"}',
            '{"type":"hello","agent_id":1}',
        ],
        "too_large": ['{"type":"log","target_id":"' + "x" * protocol.MAX_FRAME_BYTES + '"}'],
    }
    for code, frames in wrong.items():
        for frame in frames:
            agent.say(frame)
            refused = agent.read()
            assert isinstance(refused, protocol.Refused)
            assert refused.code == code
    agent.socket.send(b"\xff\xfe")
    assert isinstance(agent.read(), protocol.Refused)
    agent.say(protocol.Heartbeat(number=1, targets=(_healthy(catalog),)))
    eventually(lambda: Target.objects.filter(health="healthy").count() == 1)
    agent.close()
    (line,) = eventually(lambda: [one for one in web.logged("agent.disconnected") if one["refused"] == 8])
    assert line["agent_id"] == str(catalog.agent.id)


def test_the_log_tells_what_an_agent_brings_and_when_it_refuses_instructions(
    web: WebServer, world: World, connect_agent: Connect
) -> None:
    agent = connect_agent(web, open_tasks=("one", "two"))
    agent.welcomed()
    for number, refused in enumerate((0, 2, 2, 3)):
        agent.say(protocol.Heartbeat(number=number, refused=refused))

    def of_this_agent(event: str) -> list[dict[str, Any]]:
        return [line for line in web.logged(event) if line["agent_id"] == str(world.agent.id)]

    eventually(lambda: len(of_this_agent("agent.refuses_instructions")) == 2)
    told = of_this_agent("agent.refuses_instructions")
    assert [(line["refused"], line["more"]) for line in told] == [(2, 2), (3, 1)]
    assert [line["open_tasks"] for line in of_this_agent("agent.connected")] == [2]


def test_a_stranger_cannot_make_the_web_process_take_large_frames(
    web: WebServer,
) -> None:
    with connect(web.url + "/agent/v1/ws") as stranger:
        stranger.recv()
        with suppress(ConnectionClosed):
            stranger.send("x" * (2 * protocol.MAX_FRAME_BYTES + 1))
        assert closed_with(stranger) == 1009


def test_a_flood_is_refused_and_then_ended(web: WebServer, catalog: World, connect_agent: Connect) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    frame = protocol.encode(protocol.Heartbeat(number=1))
    with suppress(ConnectionClosed):
        for _ in range(10_000):
            agent.say(frame)
    told = []
    with suppress(ConnectionClosed):
        while True:
            told.append(agent.read())
    assert agent.close_code() == 4429
    assert {type(one) for one in told} == {protocol.Refused}
    assert len(told) < 10


def test_a_report_is_acknowledged_once_it_is_a_row_and_wakes_the_engine(
    web: WebServer, rollout: Rollout, connect_agent: Connect
) -> None:
    agent = connect_agent(web)
    agent.welcomed()
    task = agent.instructions(12)[0]
    QueuedJob.objects.all().delete()
    for _ in range(2):
        agent.answer(task)
        assert agent.read() == protocol.Ack(task_id=task.task_id, attempt=task.attempt, status="succeeded")
    report = TaskReport.objects.get()
    assert (str(report.task_id), report.rollout_id) == (task.task_id, rollout.id)
    assert QueuedJob.objects.get().coalesce_key == f"tick:{rollout.id}"


def test_a_report_of_another_agents_task_does_not_count(
    web: WebServer, rollout: Rollout, world: World, connect_agent: Connect
) -> None:
    owner = connect_agent(web)
    owner.welcomed()
    task = owner.instructions(12)[0]
    stranger = connect_agent(
        web, world.agent_named("stranger", key := nacl.signing.SigningKey.generate()), key=key
    )
    stranger.welcomed()
    stranger.answer(task)
    assert isinstance(stranger.read(), protocol.Ack)
    assert not TaskReport.objects.exists()


def test_output_is_kept_for_the_agents_own_targets(
    web: WebServer, catalog: World, connect_agent: Connect
) -> None:
    foreign = Target.objects.get(name="orders-12")
    Target.objects.filter(pk=foreign.pk).update(agent=catalog.agent_named("other"))
    mine = Target.objects.get(name="orders-01")
    agent = connect_agent(web)
    agent.welcomed()
    for target in (foreign, mine):
        agent.say(
            protocol.LogChunk(target_id=str(target.id), text="password=1 Bearer abcdefghijkl\n", dropped=3)
        )
    chunk = eventually(lambda: LogChunk.objects.first())
    assert (chunk.target_id, chunk.dropped) == (mine.id, 3)
    assert "abcdefghijkl" not in chunk.text
    assert LogChunk.objects.count() == 1


def test_a_stopping_web_process_says_so_and_ends_soon(
    tmp_path: Any, catalog: World, connect_agent: Connect
) -> None:
    server = WebServer(tmp_path / "log")
    agent = connect_agent(server)
    agent.welcomed()
    assert server.stop() < 2.5
    assert agent.close_code() == 1012
    assert Agent.objects.get(pk=catalog.agent.pk).connected_to == ""
    assert "Traceback" not in server.log.read_text()


def _healthy(world: World) -> protocol.TargetReport:
    target = Target.objects.get(name="orders-01")
    return protocol.TargetReport(target_id=str(target.id), status="running", health="healthy")
