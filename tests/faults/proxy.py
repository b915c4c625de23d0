"""What lies between agents and control plane: a way that delays, loses, doubles and mixes up messages.

HTTP is passed through as it is. A websocket is passed frame by frame (RFC 6455, section 5.2), so that
whole messages can be lost or doubled, which TCP by itself never does, but a process that dies between two
sockets does. The first messages of a connection, with which the two sides recognise one another, and all
control frames are spared.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

HANDSHAKE_FRAMES = 2
CONTROL = 0x8
TEXT = 0x1
HELD_SECONDS = (0.05, 0.4)
READ_BYTES = 64 * 1024


@dataclass
class Weather:
    """What happens to messages, as probabilities, and `delay_seconds`, the longest time that one takes."""

    delay_seconds: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0


@dataclass
class Proxy:
    """One agent's way to the web processes at `upstreams`; the first that takes a connection gets it."""

    upstreams: Sequence[int]
    seed: int = 0
    weather: Weather = field(default_factory=Weather)
    seen: Counter[str] = field(default_factory=Counter)
    """What was done, by name: dropped, duplicated, reordered."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._next: list[tuple[str, bytes]] = []
        self._open: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._passable = asyncio.Event()
        self._passable.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # What tests say, from any thread.

    def partition(self) -> None:
        """From now on nothing arrives, and nobody is told: a black hole."""
        self._loop.call_soon_threadsafe(self._passable.clear)

    def heal(self) -> None:
        """Everything passes again; what was on its way arrives now."""
        self.weather = Weather()
        self._next.clear()
        self._loop.call_soon_threadsafe(self._passable.set)

    def cut(self) -> None:
        """Break every connection."""
        self._loop.call_soon_threadsafe(self._abort)

    def once(self, what: str, pattern: bytes) -> None:
        """Do `what` (drop, duplicate, reorder) to the next message that contains `pattern`."""
        self._next.append((what, pattern))

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    # On the loop.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._listener))
        self._loop.run_forever()
        server.close()
        self._abort()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.append(writer)
        try:
            await self._passable.wait()
            up_reader, up_writer = await self._dial()
            self._open.append(up_writer)
            head = await reader.readuntil(b"\r\n\r\n")
            up_writer.write(head)
            if b"upgrade: websocket" in head.lower():
                writer.write(await up_reader.readuntil(b"\r\n\r\n"))
                await self._both(self._messages(reader, up_writer), self._messages(up_reader, writer))
            else:
                await self._both(self._bytes(reader, up_writer), self._bytes(up_reader, writer))
        except (OSError, EOFError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()
            with contextlib.suppress(UnboundLocalError):
                up_writer.transport.abort()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        for port in self._random.sample(list(self.upstreams), len(self.upstreams)):
            with contextlib.suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", port)
        raise ConnectionRefusedError

    async def _both(self, *ways: "asyncio._CoroutineLike[None]") -> None:
        tasks = [asyncio.ensure_future(way) for way in ways]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _bytes(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(READ_BYTES):
            await self._passable.wait()
            writer.write(data)
            await writer.drain()
        await writer.drain()
        writer.write_eof()

    async def _messages(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = 0
        while True:
            opcode, frame, text = await _read_frame(reader)
            await self._passable.wait()
            if opcode != TEXT:
                writer.write(frame)
                continue
            number += 1
            if self.weather.delay_seconds:
                await asyncio.sleep(self._random.uniform(0, self.weather.delay_seconds))
            match self._fate(text) if number > HANDSHAKE_FRAMES else "pass":
                case "drop":
                    continue
                case "duplicate":
                    writer.write(frame)
                    writer.write(frame)
                case "reorder":
                    # Others overtake it.
                    self._loop.call_later(self._random.uniform(*HELD_SECONDS), _late, writer, frame)
                case _:
                    writer.write(frame)
            await writer.drain()

    def _fate(self, text: bytes) -> str:
        for item in self._next:
            if item[1] in text:
                self._next.remove(item)
                self.seen[item[0]] += 1
                return item[0]
        roll, weather = self._random.random(), self.weather
        for name in ("drop", "duplicate", "reorder"):
            roll -= getattr(weather, name)
            if roll < 0:
                self.seen[name] += 1
                return name
        return "pass"


def _late(writer: asyncio.StreamWriter, frame: bytes) -> None:
    if not writer.is_closing():
        writer.write(frame)


async def _read_frame(reader: asyncio.StreamReader) -> tuple[int, bytes, bytes]:
    """Return opcode, the frame as it came, and its payload unmasked."""
    head = await reader.readexactly(2)
    opcode, masked, length = head[0] & 0x0F, head[1] & 0x80, head[1] & 0x7F
    if length >= 126:
        extended = await reader.readexactly(2 if length == 126 else 8)
        length = struct.unpack(">H" if length == 126 else ">Q", extended)[0]
        head += extended
    mask = await reader.readexactly(4) if masked else b""
    payload = await reader.readexactly(length)
    text = _unmask(payload, mask) if masked else payload
    final = head[0] & 0x80
    return (opcode if final else CONTROL), head + mask + payload, text


def _unmask(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(repeated)).to_bytes(len(payload))
