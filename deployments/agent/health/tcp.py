"""TCP: the port accepts a connection."""

import asyncio

from deployments.agent.health.base import CheckFailed, Subject


async def check(subject: Subject) -> None:
    spec = subject.spec
    try:
        _, writer = await asyncio.open_connection(spec.host, spec.port)
    except OSError as error:
        raise CheckFailed(f"tcp {spec.host}:{spec.port}: {error.strerror or 'cannot connect'}") from None
    writer.close()
