"""`python -m tests.faults.launch NAME DIRECTORY PROGRAM ..`: a process of Slipway that dies where it is told.

PROGRAM is `manage.py` or `-m MODULE`, with its arguments. Nothing of the product knows of this: the
process is the real one, with a look-out at each point where it makes something last (a COMMIT, a statement
that commits by itself; in the agent a line of its journal, a file put in its place, a service started).

Every point that is passed is appended to `DIRECTORY/points` as `NAME WHEN PLACE`, where PLACE is the
function of Slipway that commits. `DIRECTORY/NAME.kill` with `WHEN PLACE N HOW` has the process end, all of
its forks included, before or after the N-th time from then that it comes there: with HOW of KILL by SIGKILL,
which leaves it no chance to clean up, with STOP it is suspended. `FAULT_CLOCK_SECONDS` sets its clock wrong.

`DIRECTORY/ticks` tells when the engine has looked at which rollout, `DIRECTORY/begun` which task an agent
was about to start a service for.
"""

import ctypes
import datetime
import fcntl
import functools
import json
import os
import re
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
OURS = ("deployments", "portal", "audit")
WRITES = re.compile(r"\s*(INSERT|UPDATE|DELETE|WITH)\b")


class Points:
    """The look-out of one process and its forks."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.plan = directory / f"{name}.kill"
        self.log = os.open(directory / "points", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.root = os.getpid()

    def reach(self, when: str, place: str) -> None:
        os.write(self.log, f"{self.name} {when} {place}\n".encode())
        if self.plan.exists() and (how := self._due(when, place)):
            # The first takes all forks along, but not at once; this one must not get any further.
            number = signal.SIGSTOP if how == "STOP" else signal.SIGKILL
            os.kill(self.root, number)
            os.killpg(0, number)

    def _due(self, when: str, place: str) -> str:
        try:
            with self.plan.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                wanted, where, count, how = file.read().split()
                if (wanted, where) != (when, place):
                    return ""
                if int(count) <= 1:
                    self.plan.unlink()
                    return how
                file.seek(0)
                file.truncate()
                file.write(f"{when} {place} {int(count) - 1} {how}")
                return ""
        except (OSError, ValueError):
            return ""  # another fork has just got there


def innermost() -> FrameType | None:
    """The innermost frame on the stack that runs a function of Slipway."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _file(frame).split("/")[0] not in OURS:
        frame = frame.f_back
    return frame


def here() -> str:
    """That function, as `deployments/engine/tick.py:_once`."""
    frame = innermost()
    return f"{_file(frame)}:{frame.f_code.co_name}" if frame else "elsewhere"


def _file(frame: FrameType) -> str:
    return frame.f_code.co_filename.removeprefix(f"{Path.cwd()}/")


def around(points: Points, function: Callable[..., Any], place: Callable[..., str]) -> Callable[..., Any]:
    """`function` with a point before and one after; `place` names them by the arguments, "" for neither."""

    @functools.wraps(function)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        where = place(*arguments, **named)
        if not where:
            return function(*arguments, **named)
        points.reach("before", where)
        result = function(*arguments, **named)
        points.reach("after", where)
        return result

    return wrapped


def watch_database(points: Points, effects: Path) -> None:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.utils import CursorWrapper

    def statement(cursor: Any, sql: Any, *_: Any, **__: Any) -> str:
        alone = cursor.db.get_autocommit() and not cursor.db.in_atomic_block
        return here() if alone and WRITES.match(str(sql)) else ""

    commit = around(points, BaseDatabaseWrapper._commit, lambda *_: here())

    def noted(database: Any) -> None:
        commit(database)
        frame = innermost()
        if frame is not None and frame.f_code.co_name == "_once":
            with (effects / "ticks").open("a") as file:
                file.write(f"{time.time()} {frame.f_locals['held'].rollout_id}\n")

    BaseDatabaseWrapper._commit = noted
    CursorWrapper.execute = around(points, CursorWrapper.execute, statement)


def watch_agent(points: Points, effects: Path) -> None:
    from deployments.agent import children
    from deployments.agent.journal import Journal
    from deployments.agent.releases import Releases
    from deployments.agent.supervisor import Supervisor

    Journal._write = around(
        points, Journal._write, lambda _, data: "journal:" + json.loads(data.splitlines()[0])["kind"]
    )
    Path.replace = around(points, Path.replace, _replaced)
    Releases.switch = around(points, Releases.switch, lambda *_: "current")
    children.spawn = around(points, children.spawn, lambda *_, **__: "service")
    start = Supervisor._start

    async def counted(self: Any, launch: Any) -> Any:
        record = self._record
        words = (time.time(), self.target_id, launch.token, record.task_id, record.attempt, record.restarts)
        with (effects / "begun").open("a") as file:
            file.write(" ".join(map(str, words)) + "\n")
        return await start(self, launch)

    Supervisor._start = counted


def _replaced(_: Path, into: Path) -> str:
    return "process.json" if Path(into).name == "process.json" else ""


def main() -> None:
    name, directory, *command = sys.argv[1:]
    # Processes go with the harness, however it ends.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if offset := float(os.environ.get("FAULT_CLOCK_SECONDS", "0")):
        import time_machine

        wrong = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=offset)
        time_machine.travel(wrong, tick=True).start()
    sys.path[0] = str(Path.cwd())
    points = Points(name, Path(directory))
    if command[0] == "-m":
        watch_agent(points, Path(directory))
        sys.argv = command[1:]
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        watch_database(points, Path(directory))
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    main()
