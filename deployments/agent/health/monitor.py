"""Keeps the health of one running service current: thresholds upward and downward."""

import asyncio
import random
import time
from collections.abc import Callable
from typing import Literal

from deployments import protocol
from deployments.agent.health import registry
from deployments.agent.health.base import CheckFailed, Subject

SETTLE_SECONDS = 0.5
"""A service without a check counts as healthy when it has lived so long."""
WATCH_SECONDS = 3.0
"""Between checks of a service that has become healthy, about."""

Health = Literal["healthy", "unhealthy", "unknown"]


class Monitor:
    """One for each start of a service; `run` until cancelled."""

    def __init__(self, subject: Subject, on_change: Callable[[], None]) -> None:
        self._subject = subject
        self._on_change = on_change
        self.health: Health = "unknown"
        self.error = "it has not answered yet"
        self._answered = False
        self.settled = asyncio.Event()
        """Set when it first became healthy, or has not by its deadline."""

    def _become(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self._on_change()
        self.settled.set()

    async def run(self) -> None:
        spec = self._subject.spec
        if spec.kind == "none":
            await asyncio.sleep(SETTLE_SECONDS)
            self._become("healthy")
            return
        deadline = time.monotonic() + spec.deadline_seconds
        passes = failures = 0
        while True:
            limit = max(spec.timeout_ms, 1) / 1000
            if not self.settled.is_set():
                limit = max(min(limit, deadline - time.monotonic()), 0.001)
            if await self._passes(spec, limit):
                passes, failures = passes + 1, 0
                if passes >= spec.healthy_after:
                    self._become("healthy")
            else:
                passes, failures = 0, failures + 1
                if self.health == "healthy" and failures >= spec.unhealthy_after:
                    self._become("unhealthy")
            if not self.settled.is_set() and time.monotonic() >= deadline:
                self._become("unhealthy")
            seconds = max(spec.interval_ms, 10) / 1000
            if self.health == "healthy" and not failures:
                # Spread, or all that were activated together would be checked together for ever.
                seconds = max(seconds, WATCH_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311
            await asyncio.sleep(seconds)

    async def _passes(self, spec: protocol.HealthSpec, limit: float) -> bool:
        try:
            async with asyncio.timeout(limit):
                await registry.load(spec.kind)(self._subject)
        except TimeoutError:
            if limit < spec.timeout_ms / 1000 and self._answered:
                return False  # cut short by the deadline: what the check before it said tells more
            where = " ".join(spec.command[:1]) if spec.kind == "exec" else f"{spec.host}:{spec.port}"
            self.error = f"{spec.kind} {where}: no answer within {spec.timeout_ms} ms"
            return False
        except CheckFailed as error:
            self.error = str(error)
            self._answered = True
            return False
        self.error = ""
        self._answered = True
        return True
