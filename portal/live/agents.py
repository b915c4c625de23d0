"""The agents' socket, `/agent/v1/ws`: see `deployments.protocol` for what is said on it.

What an agent says wrongly is refused and counted, and the connection stays. Codes that end it: 4400 no
valid Hello, 4401 unknown, revoked or not who it says, 4409 connected again elsewhere, 4429 flooding.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from channels.consumer import AsyncConsumer
from django.conf import settings

from deployments import protocol
from deployments.agents import connections
from deployments.agents.signing import is_signed_by
from deployments.agents.texts import as_id
from portal.live.dispatcher import AgentSocket, Beat, Said
from portal.live.outlet import FLOODING, MALFORMED, NOT_SIGNED_IN, Outlet
from portal.live.process import WebProcess, current

logger = structlog.get_logger(__name__)

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HELLO_SECONDS = 10
AVERAGED_SECONDS = 10
BURST = protocol.MAX_MESSAGES_PER_SECOND * AVERAGED_SECONDS
FLOOD = BURST
"""Messages beyond the limit, in one connection, that end it."""


class Gone(Exception):
    """The agent closed the connection."""


class NotWelcome(Exception):
    """The agent may not come in."""

    def __init__(self, close_code: int, code: str, reason: str) -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.code = code
        self.reason = reason


class Allowance:
    """A token bucket: MAX_MESSAGES_PER_SECOND, averaged over ten seconds."""

    __slots__ = ("exceeded", "left", "told", "updated")

    def __init__(self) -> None:
        self.left = float(BURST)
        self.updated = time.monotonic()
        self.exceeded = 0
        self.told = 0.0

    def admits(self) -> bool:
        now = time.monotonic()
        self.left = min(BURST, self.left + (now - self.updated) * protocol.MAX_MESSAGES_PER_SECOND)
        self.updated = now
        if self.left < 1:
            self.exceeded += 1
            return False
        self.left -= 1
        return True

    def should_tell(self) -> bool:
        """Whether to answer to an excess: once a second, lest the answers become a flood of their own."""
        if self.updated - self.told < 1:
            return False
        self.told = self.updated
        return True


class AgentConsumer(AsyncConsumer):
    """Straight-line: challenge, hello, welcome, then one message after the other.

    Channels' own dispatch is left out, see `browser.BrowserConsumer`.
    """

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        outlet = Outlet(send)
        try:
            await _serve(current(), await _introduce(current(), outlet, receive), receive)
        except NotWelcome as error:
            current().counts[f"refused_{error.code}"] += 1
            logger.warning("agent.not_welcome", code=error.code, reason=error.reason)
            outlet.write(protocol.encode(protocol.Refused(reason=error.reason, code=error.code)))
            outlet.close(error.close_code)
        except (Gone, OSError):
            return
        except asyncio.CancelledError:
            if not outlet.close_code:
                raise
        finally:
            outlet.abandon()


async def _introduce(process: WebProcess, outlet: Outlet, receive: Receive) -> AgentSocket:
    """Challenge, Hello, Welcome; raises NotWelcome."""
    nonce = secrets.token_urlsafe(24)
    outlet.write(protocol.encode(protocol.Challenge(nonce=nonce)))
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            hello = protocol.decode_upward(await _next(receive))
    except TimeoutError:
        raise NotWelcome(MALFORMED, "timeout", f"No hello within {HELLO_SECONDS} s.") from None
    except protocol.ProtocolError as error:
        raise NotWelcome(MALFORMED, "malformed", str(error)[:500]) from None
    if not isinstance(hello, protocol.Hello):
        raise NotWelcome(MALFORMED, "unexpected", "Say hello first.")
    if hello.protocol != protocol.VERSION:
        reason = f"This control plane speaks protocol {protocol.VERSION}, the agent {hello.protocol}."
        raise NotWelcome(MALFORMED, "protocol", f"{reason} Install the agent that it serves.")
    agent_id = as_id(hello.agent_id)
    key = await process.database.run(connections.key_of, agent_id) if agent_id else None
    said = protocol.hello_bytes(nonce, hello.agent_id)
    if agent_id is None or key is None or not is_signed_by(key, said, hello.signature):
        raise NotWelcome(NOT_SIGNED_IN, "unknown_agent", "Unknown, revoked, or wrong key.")
    place = process.place()
    targets = await process.database.run(
        connections.connect, agent_id, place, hostname=hello.hostname, software=hello.version
    )
    if targets is None:
        raise NotWelcome(NOT_SIGNED_IN, "unknown_agent", "Revoked.")
    heartbeat_seconds = settings.SLIPWAY.heartbeat_seconds
    outlet.write(protocol.encode(protocol.Welcome(heartbeat_seconds=heartbeat_seconds, targets=targets)))
    return AgentSocket(agent_id, place, outlet, open_tasks=len(hello.open_tasks))


async def _serve(process: WebProcess, socket: AgentSocket, receive: Receive) -> None:
    allowance = Allowance()
    process.dispatcher.arrived(socket)
    logger.info(
        "agent.connected",
        agent_id=str(socket.agent_id),
        place=socket.place,
        open_tasks=socket.open_tasks,
    )
    try:
        while True:
            frame = await _next(receive)
            if not allowance.admits():
                _refuse_excess(process, socket, allowance)
                continue
            try:
                _take(process, socket, protocol.decode_upward(frame))
            except protocol.ProtocolError as error:
                code = "too_large" if len(frame) > protocol.MAX_FRAME_BYTES else "malformed"
                _count(process, socket, code)
                socket.outlet.write(protocol.encode(protocol.Refused(reason=str(error)[:500], code=code)))
    finally:
        process.dispatcher.left(socket)
        logger.info(
            "agent.disconnected",
            agent_id=str(socket.agent_id),
            place=socket.place,
            refused=socket.refused,
            code=socket.outlet.close_code,
        )


def _take(process: WebProcess, socket: AgentSocket, message: protocol.Upward) -> None:
    """Hand a message to whom it concerns; raises ProtocolError for one that has no place here."""
    match message:
        case protocol.Heartbeat():
            process.dispatcher.beats.add(Beat(socket.agent_id, message.targets, time.monotonic()))
            _note_refusals(socket, message.refused)
        case protocol.TaskReport():
            process.dispatcher.reports.add(Said((socket.agent_id, message), time.monotonic()))
        case protocol.LogChunk():
            process.dispatcher.logs.add((socket.agent_id, message))
        case protocol.Hello():
            raise protocol.ProtocolError("The agent has said hello already.")


def _note_refusals(socket: AgentSocket, refused: int) -> None:
    """Warn when the agent refused more instructions: it does not know the key of their signatures."""
    if refused > socket.instructions_refused:
        logger.warning(
            "agent.refuses_instructions",
            agent_id=str(socket.agent_id),
            refused=refused,
            more=refused - socket.instructions_refused,
        )
    socket.instructions_refused = refused


def _refuse_excess(process: WebProcess, socket: AgentSocket, allowance: Allowance) -> None:
    _count(process, socket, "rate")
    if allowance.exceeded > FLOOD:
        socket.outlet.close(FLOODING)
    elif allowance.should_tell():
        reason = f"More than {protocol.MAX_MESSAGES_PER_SECOND} messages a second."
        socket.outlet.write(protocol.encode(protocol.Refused(reason=reason, code="rate")))


def _count(process: WebProcess, socket: AgentSocket, code: str) -> None:
    socket.refused += 1
    process.counts[f"refused_{code}"] += 1


async def _next(receive: Receive) -> str | bytes:
    """The next frame; raises Gone at the end of the connection."""
    message = await receive()
    if message["type"] == "websocket.disconnect":
        raise Gone
    frame: str | bytes | None = message.get("text")
    return frame if frame is not None else message["bytes"]
