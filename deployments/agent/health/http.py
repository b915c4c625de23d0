"""HTTP: one GET, answered by a status from 200 to 399."""

import asyncio

from deployments.agent.health.base import CheckFailed, Subject

MAX_DRAINED_BYTES = 64 * 1024
MAX_EXCERPT_BYTES = 200


async def check(subject: Subject) -> None:
    spec = subject.spec
    where = f"GET http://{spec.host}:{spec.port}{spec.path}"
    if not spec.path.startswith("/") or not spec.path.isprintable() or " " in spec.path:
        raise CheckFailed(f"{where}: the path is not a URL path")
    try:
        reader, writer = await asyncio.open_connection(spec.host, spec.port)
    except OSError as error:
        raise CheckFailed(f"{where}: {error.strerror or 'cannot connect'}") from None
    try:
        request = (
            f"GET {spec.path} HTTP/1.1\r\nHost: {spec.host}:{spec.port}\r\n"
            "User-Agent: slipway-agent\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        )
        writer.write(request.encode())
        status = _status(await reader.readline())
        if status is None:
            raise CheckFailed(f"{where}: the answer is not HTTP")
        if not 200 <= status < 400:
            raise CheckFailed(f"{where} answered {status}{await _excerpt(reader)}")
        # Let it finish: many servers log a peer that hangs up in the middle.
        drained = 0
        while drained < MAX_DRAINED_BYTES and (data := await reader.read(8192)):
            drained += len(data)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the answer broke off"
        raise CheckFailed(f"{where}: {reason}") from None
    finally:
        writer.close()


async def _excerpt(reader: asyncio.StreamReader) -> str:
    """What the answer says of itself, for people: the beginning of its body, printable."""
    while (await reader.readline()).strip():
        pass
    text = (await reader.read(MAX_EXCERPT_BYTES)).decode(errors="replace")
    words = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f": {words}" if words else ""


def _status(line: bytes) -> int | None:
    parts = line.split(None, 2)
    if len(parts) < 2 or not parts[0].startswith(b"HTTP/") or not parts[1].isdigit():
        return None
    return int(parts[1])
