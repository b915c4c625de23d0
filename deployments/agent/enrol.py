"""Enrolment: the join token is traded, once, for an identity that rests on the agent's own key."""

import asyncio
import base64
import logging
import socket

import msgspec

from deployments.agent import __version__, http, identity
from deployments.agent.backoff import Backoff
from deployments.agent.errors import CannotStart
from deployments.agent.identity import Identity
from deployments.agent.options import Options
from deployments.agent.state import StateDir
from deployments.agent.work import on_network

log = logging.getLogger("slipway.agent.enrol")

PATH = "/agent/v1/enrol"


class _Answer(msgspec.Struct, frozen=True):
    agent_id: str
    control_key: str


async def ensure_enrolled(options: Options, state: StateDir) -> Identity:
    """The agent's identity, enrolling first where it has none.

    An unreachable control plane is tried again until the agent is stopped; raises CannotStart for a
    token that the control plane refuses.
    """
    known = identity.load(state, options.server)
    if known is not None:
        return known
    if not options.server:
        raise CannotStart("Say where the control plane is: --server URL or SLIPWAY_AGENT_SERVER.")
    if not options.join_token:
        raise CannotStart(
            "This agent is not enrolled yet. Make a join token in the control plane and start it with "
            "--join-token-file FILE or SLIPWAY_AGENT_JOIN_TOKEN."
        )
    backoff = Backoff(0.5, 30.0)
    while True:
        try:
            return await _enrol(options, state)
        except http.Unreachable as error:
            delay = backoff.next()
            log.warning("Enrolment at %s failed (%s); next try in %.1f s", options.server, error, delay)
            await asyncio.sleep(delay)


async def _enrol(options: Options, state: StateDir) -> Identity:
    key = identity.load_key(state)
    body = msgspec.json.encode(
        {
            "join_token": options.join_token,
            "public_key": base64.b64encode(bytes(key.verify_key)).decode(),
            "name": options.name or socket.gethostname(),
            "hostname": socket.gethostname(),
            "version": __version__,
        }
    )
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    answer = await on_network(http.call, "POST", options.server + PATH, headers, body)
    if answer.status >= 500 or answer.status == 429:
        raise http.Unreachable(answer.problem())
    if answer.status not in (200, 201):
        raise CannotStart(f"The control plane refused to enrol this agent: {answer.problem()}")
    try:
        granted = msgspec.json.decode(answer.body, type=_Answer)
        identity.save(
            state, agent_id=granted.agent_id, server=options.server, control_key=granted.control_key
        )
    except (msgspec.DecodeError, ValueError):
        raise CannotStart(
            f"{options.server} answered enrolment with something else than a Slipway control plane does."
        ) from None
    enrolled = identity.load(state, options.server)
    assert enrolled is not None
    log.info("Enrolled as %s at %s", enrolled.agent_id, options.server)
    return enrolled
