"""The one websocket to the control plane: dialled outward, and again and again when it breaks."""

import asyncio
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from deployments import protocol
from deployments.agent import __version__
from deployments.agent.backoff import Backoff
from deployments.agent.identity import Identity

log = logging.getLogger("slipway.agent.link")

PATH = "/agent/v1/ws"
FIRST_DELAY_SECONDS = 0.5
LAST_DELAY_SECONDS = 30.0
REVOKED_CODE = 4401
REVOKED_DELAY_SECONDS = 30.0
HANDSHAKE_SECONDS = 10.0
MAX_WAITING = 4000
"""Messages that wait to be sent; beyond that new ones are dropped, and results are sent again later."""
MESSAGES_PER_SECOND = protocol.MAX_MESSAGES_PER_SECOND * 0.9
BURST = int(MESSAGES_PER_SECOND * 10)
"""The control plane averages over ten seconds; a tenth is left for clocks that differ."""


class Handler(Protocol):
    """What the agent does with what it hears."""

    def open_tasks(self) -> tuple[str, ...]: ...

    def connected(self, welcome: protocol.Welcome) -> None: ...

    def disconnected(self) -> None: ...

    def heard(self, message: protocol.Signed | protocol.Ack | protocol.Refused) -> None: ...


class Link:
    def __init__(
        self, identity: Identity, handler: Handler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._identity = identity
        self._handler = handler
        self._clock = clock
        self._waiting: OrderedDict[Hashable, protocol.Message] = OrderedDict()
        self._more = asyncio.Event()
        self._allowance = float(BURST)
        self.up = False
        """Whether the control plane has said Welcome on the present connection."""

    def send(self, message: protocol.Message) -> bool:
        """Queue a message; False when it was dropped, for want of a connection or of room."""
        if not self.up or len(self._waiting) >= MAX_WAITING:
            return False
        key: Hashable = object()
        if isinstance(message, protocol.TaskReport):
            key = (message.task_id, message.attempt)
            if message.status == "accepted" and key in self._waiting:
                return True
        # A result takes the place of an acceptance that has not left yet, and of itself.
        self._waiting[key] = message
        self._more.set()
        return True

    @property
    def congested(self) -> bool:
        """Whether what can be left out, such as logs, should be."""
        return len(self._waiting) > 200 or self._allowance < BURST // 3

    async def run(self) -> None:
        """Keep connected until cancelled."""
        backoff = Backoff(FIRST_DELAY_SECONDS, LAST_DELAY_SECONDS)
        base = self._identity.server
        url = ("wss" if base.startswith("https") else "ws") + base[base.index(":") :] + PATH
        while True:
            delay = None
            try:
                async with connect(
                    url,
                    max_size=protocol.MAX_FRAME_BYTES,
                    compression=None,  # a compressor costs more memory than all of the rest of a connection
                    open_timeout=HANDSHAKE_SECONDS,
                    close_timeout=2,
                    ping_interval=20,
                    ping_timeout=20,
                ) as socket_:
                    await self._session(socket_, backoff)
                reason = "closed"
            except ConnectionClosed as error:
                reason = f"closed with {error.rcvd.code} {error.rcvd.reason}" if error.rcvd else "broken off"
                if error.rcvd is not None and error.rcvd.code == REVOKED_CODE:
                    delay = REVOKED_DELAY_SECONDS
                    log.error(
                        "The control plane does not know this agent, or has revoked it. Enrol it again with "
                        "a new join token and an empty state directory; trying again in %.0f s",
                        delay,
                    )
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI, EOFError) as error:
                reason = str(error) or "no answer in time"
            except protocol.ProtocolError as error:
                reason = f"the peer does not speak the protocol: {error}"
            if delay is None:
                delay = backoff.next()
                log.warning("The connection is %s; dialling again in %.1f s", reason, delay)
            await asyncio.sleep(delay)

    async def _session(self, connection: ClientConnection, backoff: Backoff) -> None:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            challenge = protocol.decode_downward(await connection.recv())
            if not isinstance(challenge, protocol.Challenge):
                raise protocol.ProtocolError("no challenge came first")
            hello = protocol.Hello(
                agent_id=self._identity.agent_id,
                signature=self._identity.sign_hello(challenge.nonce),
                version=__version__,
                hostname=socket.gethostname(),
                open_tasks=self._handler.open_tasks(),
            )
            await connection.send(protocol.encode(hello))
            welcome = protocol.decode_downward(await connection.recv())
            if not isinstance(welcome, protocol.Welcome):
                said = welcome.reason if isinstance(welcome, protocol.Refused) else "no welcome came"
                raise protocol.ProtocolError(said)
        backoff.reset()
        log.info("Connected to %s", self._identity.server)
        self._waiting.clear()
        self.up = True
        self._handler.connected(welcome)
        writer = asyncio.create_task(self._write(connection), name="write")
        try:
            async for frame in connection:
                self._dispatch(frame)
        finally:
            self.up = False
            writer.cancel()
            self._handler.disconnected()
            await asyncio.gather(writer, return_exceptions=True)

    def _dispatch(self, frame: str | bytes) -> None:
        try:
            message = protocol.decode_downward(frame)
        except protocol.ProtocolError as error:
            log.warning("A message cannot be read and is ignored: %s", error)
            return
        if isinstance(message, protocol.Signed | protocol.Ack | protocol.Refused):
            self._handler.heard(message)

    async def _write(self, connection: ClientConnection) -> None:
        """Send what waits, no faster than the control plane takes it."""
        self._allowance, last = float(BURST), self._clock()
        while True:
            while not self._waiting:
                self._more.clear()
                await self._more.wait()
            now = self._clock()
            self._allowance = min(BURST, self._allowance + (now - last) * MESSAGES_PER_SECOND)
            last = now
            if self._allowance < 1:
                await asyncio.sleep((1 - self._allowance) / MESSAGES_PER_SECOND)
                continue
            self._allowance -= 1
            _, message = self._waiting.popitem(last=False)
            try:
                frame = protocol.encode(message)
            except (TypeError, ValueError) as error:  # a text in it that is none
                log.error("A %s cannot be sent and is left out: %s", type(message).__name__, error)
                continue
            await connection.send(frame)
