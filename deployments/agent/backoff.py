"""Exponential backoff with jitter (Brooker, "Exponential Backoff And Jitter", AWS 2015)."""

import random


class Backoff:
    """Delays in seconds below a ceiling that doubles from `first` to `last`.

    Full jitter where many would come back at once (`floor` 0); a floor where trying at once is no use.
    """

    def __init__(self, first: float, last: float, floor: float = 0.0) -> None:
        self.first = first
        self.last = last
        self.floor = floor
        self._ceiling = first

    def reset(self) -> None:
        self._ceiling = self.first

    def next(self) -> float:
        delay = random.uniform(self.floor, 1.0) * self._ceiling  # noqa: S311 -- spreads load, guards nothing
        self._ceiling = min(self.last, self._ceiling * 2)
        return delay
