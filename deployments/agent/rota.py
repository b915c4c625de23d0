"""When to look at which tree for changes made by hand. Time is an argument."""

from collections.abc import Iterable

REST = 20
"""A look at a tree is followed by a rest of so many times its length: it costs 5 % of a CPU at most."""


class Rota:
    """Each tree has a rest of its own, so that a large one does not keep the small ones waiting."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}

    def due(self, trees: Iterable[str], now: float) -> list[str]:
        """Those of `trees` to look at now; a tree that is not named any more is forgotten."""
        self._due = {tree: self._due.get(tree, now) for tree in trees}
        return [tree for tree, at in self._due.items() if at <= now]

    def looked(self, tree: str, now: float, took: float, every: float) -> None:
        """A look has ended that took so many seconds; the next begins `every` seconds after it began."""
        self._due[tree] = now + max(every - took, took * REST)

    def all_at_once(self) -> None:
        self._due.clear()

    def seconds(self, now: float, every: float) -> float:
        """How long nothing is due; at most `every`, since trees may come."""
        return max(min((*self._due.values(), now + every)) - now, 0.0)
