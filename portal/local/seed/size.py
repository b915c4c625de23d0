"""How much is made, and what follows from it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

SERVICES_PER_TEAM = 25
TARGETS_PER_AGENT = 100
PLACES = {"dev": ("eu",), "stage": ("eu", "us"), "prod": ("eu", "us", "ap")}
"""Environments, named like their tiers, and their regions; an ordinary service has a target in each."""
TARGETS_PER_SERVICE = sum(map(len, PLACES.values()))
SHOWCASE = 1
"""Number of the service with the large rollout."""
SHOWCASE_ROLLOUTS = 2
ACTIVE_KINDS = 5
"""Pending, queued, running, paused, rolling back."""
MOST_ACTIVE = 20
QUIET = timedelta(hours=1)
"""Before the end: what is older has ended, what is younger may be active."""


@dataclass(frozen=True, kw_only=True)
class Size:
    services: int
    rollouts: int
    """All together: the history, the active ones and the two of the showcase."""
    targets: int
    """In the showcase's rollout."""
    history_days: int
    seed: int
    until: datetime
    """Nothing is younger."""

    def problem(self) -> str:
        """What is wrong with these numbers; empty when nothing is."""
        if self.services < 2:
            return "--services must be 2 or more: one is the showcase."
        if self.rollouts < SHOWCASE_ROLLOUTS + 1:
            return f"--rollouts must be {SHOWCASE_ROLLOUTS + 1} or more: two are the showcase's."
        if not 1 <= self.targets <= 100_000:
            return "--targets must lie between 1 and 100000."
        if not 1 <= self.history_days <= 3650:
            return "--history-days must lie between 1 and 3650."
        if not 0 <= self.seed <= 4095:
            return "--seed must lie between 0 and 4095."
        return ""

    @property
    def teams(self) -> int:
        return max(2, self.services // SERVICES_PER_TEAM)

    @property
    def large_team(self) -> int:
        """Services of the first team; the others share what is left."""
        return max(1, self.services // 5)

    @property
    def agents(self) -> int:
        return 1 + (self.services * TARGETS_PER_SERVICE + self.targets) // TARGETS_PER_AGENT

    @property
    def releases(self) -> int:
        """Of each service."""
        return min(50, max(2, self.rollouts // self.services // 10))

    @property
    def active_each(self) -> int:
        """Rollouts in each active state; a service has at most one that moves, and one behind it."""
        return min(MOST_ACTIVE, (self.services - 1) // ACTIVE_KINDS, self.rollouts // 50)

    @property
    def history(self) -> int:
        """Rollouts that have ended, but for the showcase's."""
        return self.rollouts - SHOWCASE_ROLLOUTS - ACTIVE_KINDS * self.active_each

    @property
    def start(self) -> datetime:
        """When the first rollout was asked for; what it needs is older."""
        return self.until - timedelta(days=self.history_days)

    @property
    def founded(self) -> datetime:
        """When teams and services came into being."""
        return self.start - timedelta(days=30)


def milliseconds(moment: datetime) -> int:
    """Since 1970: the time in a UUIDv7, and what all times here are rounded to."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
