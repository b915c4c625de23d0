"""`make bench`: every measurement, as one table.

Each section runs in an interpreter of its own, since each has a database of its own and Django reads its
settings once. Nothing else should run on the machine meanwhile; where it must, compare the ratios.
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from bench import control_plane, dispatch, fanout, idle, liveness, pages, queue, rolling, scale
from bench.database import database
from bench.figures import Row, table, timed

COST_MS = 3.0
SOCKETS = 500


def whole_rolling(full: bool) -> list[Row]:
    return rolling.measure(rolling.FULL if full else rolling.QUICK)


def cost_of_control(_full: bool) -> list[Row]:
    with database():
        control_plane.run(20)
        return [
            timed(
                f"{targets} targets: rows, events and audit of one target",
                [control_plane.run(targets)[0] for _ in range(5)],
                "ms",
                most=COST_MS,
            )
            for targets in (100, 500)
        ]


def jobs(_full: bool) -> list[Row]:
    return queue.measure()


def handovers(_full: bool) -> list[Row]:
    return dispatch.measure()


def browsers(_full: bool) -> list[Row]:
    with database():
        return fanout.rows(SOCKETS)


def large_database(full: bool) -> list[Row]:
    return pages.measure(pages.FULL if full else pages.QUICK)


def many_rollouts(full: bool) -> list[Row]:
    return scale.measure(rounds=3 if full else 1)


def idle_agents(_full: bool) -> list[Row]:
    return idle.measure()


def deaths(_full: bool) -> list[Row]:
    return liveness.measure()


def reason(error: BaseException) -> str:
    """The first cause, on one short line."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


SECTIONS: dict[str, tuple[str, Callable[[bool], list[Row]]]] = {
    "control": ("Control plane alone", cost_of_control),
    "queue": ("Jobs", jobs),
    "dispatch": ("From batch to batch", handovers),
    "fanout": ("Event to browser", browsers),
    "pages": ("Pages and lists on a large database, p95", large_database),
    "scale": ("Many rollouts at once, 2,000 simulated agents", many_rollouts),
    "idle": ("Connected agents on one web process", idle_agents),
    "liveness": ("From death to notice", deaths),
    "rolling": ("Rolling update, 4.5 MB artifact, ten batches", whole_rolling),
}


def main() -> int:
    """Exit code 1 when a section could not be measured; a missed figure is in the table and no error."""
    parser = argparse.ArgumentParser(description="Measure, and print one table.")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="one section; may be repeated")
    parser.add_argument("--full", action="store_true", help="nothing scaled up; takes over an hour")
    options = parser.parse_args()
    done: list[tuple[str, list[Row]]] = []
    failed = 0
    for name in options.only or SECTIONS:
        title, measure = SECTIONS[name]
        title = f"{title} (load {os.getloadavg()[0]:.1f} at its start)"
        began = time.monotonic()
        print(f"{title} ...", file=sys.stderr, flush=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
            try:
                done.append((title, alone.submit(measure, options.full).result()))
            except Exception as error:
                failed += 1
                done.append((title, [Row(what="could not be measured", median="", note=reason(error))]))
        # At once too: an interrupted run keeps what it has measured.
        print(f"{table(done[-1:])}\n({time.monotonic() - began:.0f} s)\n", file=sys.stderr, flush=True)
    print(f"\n{os.cpu_count()} cores\n\n{table(done)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
