"""`python -m portal.local.up`: Slipway on this machine, with a demo, until Ctrl-C.

Nothing is left behind by a stop: what is started here is stopped here, in the reverse order.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  whoever starts this may have an older one
    sys.exit("Slipway needs Python 3.11 or newer.")

import contextlib
import dataclasses
import fcntl
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import django
from django.core.management import call_command
from django.db import connections
from rich.console import Console

from portal.env import SettingsError
from portal.local import bao, processes, reaper
from portal.local.api import Api, Refused
from portal.local.demo import Demo, DemoFailed
from portal.local.files import private_directory, write_private
from portal.local.keys import ensure_keys
from portal.local.layout import BadPort, Layout, Memory, StrangeDatabase
from portal.local.ports import PortInUse
from portal.local.postgres import EmbeddedPostgres, PostgresUnavailable


class Stopped(BaseException):
    """SIGTERM or Ctrl-C came before the supervisor was there to take it."""


class Signals:
    """SIGTERM and SIGINT as Stopped, but not in the middle of what must not be left half done."""

    def __init__(self) -> None:
        self._holding = False
        self._came = False

    def take(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        if not self._holding:
            raise Stopped

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Until the end of the block a signal only waits."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._came:
            raise Stopped


_SIGNALS = Signals()


class AlreadyUp(Exception):
    """Another `make up` uses this state directory."""


def main() -> int:
    console = Console(highlight=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _SIGNALS.take)
    try:
        layout = Layout.read()
        if (memory := Memory.load(layout)) is not None:
            # The targets know their ports already.
            layout = dataclasses.replace(layout, demo_port=memory.demo_port)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_only_one(layout))
            layout.require_ports()
            return _run(layout, console, stack)
    except Stopped:
        return 0
    except (
        AlreadyUp,
        BadPort,
        PortInUse,
        PostgresUnavailable,
        SettingsError,
        bao.SecretServerUnavailable,
        StrangeDatabase,
    ) as error:
        console.print(f"Slipway did not start. {error}", style="red", markup=False)
        return 1


def _run(layout: Layout, console: Console, stack: contextlib.ExitStack) -> int:
    began = time.monotonic()
    with console.status("Starting PostgreSQL and the secret server ..."):
        private_directory(layout.log_dir)
        ensure_keys(layout.state_dir)
        variables = {
            "SLIPWAY_STATE_DIR": str(layout.state_dir),
            "SLIPWAY_STATIC_ROOT": str(layout.state_dir / "static"),
            "SLIPWAY_PUBLIC_URL": layout.url,
            "DJANGO_SETTINGS_MODULE": "portal.settings",
            **_database(layout, stack),
        }
        server = bao.start(layout.log_dir / "openbao.log")
        stack.callback(server.stop)
        variables |= server.variables()
    with console.status("Preparing the database ..."):
        memory, tokens = _prepare(layout, variables)
    processes.tie_children_to_us()
    logs = processes.LogFiles(layout.log_dir)
    stack.callback(logs.close)
    manager = processes.build(layout, variables, tokens, logs)
    show = Show(layout, memory, console, logs, began)
    threading.Thread(target=show.run, daemon=True).start()
    manager.loop()  # type: ignore[no-untyped-call]
    if logs.dead and not show.was_stopped_by_user(manager.returncode):
        console.print(f"[red]{logs.dead} ended by itself.[/] The end of {logs.path(logs.dead)}:")
        console.print(logs.tail(logs.dead), markup=False)
        return 1
    console.print("Stopped.")
    return 1 if show.failed else 0


def _database(layout: Layout, stack: contextlib.ExitStack) -> dict[str, str]:
    """The address of the embedded PostgreSQL, or nothing where the environment names another."""
    if os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE"):
        return {}
    server = EmbeddedPostgres(layout.state_dir / "postgres")
    stack.callback(reaper.start(layout.state_dir).communicate)
    with _SIGNALS.held():
        url = server.start()
    # For other commands of this checkout: `manage.py shell` finds it there.
    write_private(layout.state_dir / "database-url", url)
    return {"DATABASE_URL": url}


def _prepare(layout: Layout, variables: dict[str, str]) -> tuple[Memory, dict[str, Path]]:
    os.environ.update(variables)
    django.setup()
    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False, clear=True)
    # Models are there from now on only.
    from portal.local import world

    memory, tokens = world.ensure(layout), world.join_tokens(layout)
    connections.close_all()
    return memory, tokens


class Show:
    """What the terminal shows while the processes run: the demo at the first start, then where to go."""

    def __init__(
        self, layout: Layout, memory: Memory, console: Console, logs: processes.LogFiles, began: float
    ) -> None:
        self.failed = False
        self._layout, self._memory, self._console, self._logs = layout, memory, console, logs
        self._began = began

    def run(self) -> None:
        self._logs.started.wait()
        api = Api(self._layout.url, self._memory.token)
        from portal.local import world

        ports = self._layout.target_ports()
        demo = Demo(api, self._console, world.SERVICE, world.ENVIRONMENT, ports)
        try:
            if self._memory.demo_was_shown:
                demo.wait()
            else:
                demo.run()
                self._memory.demo_was_shown = True
                self._memory.save(self._layout)
        except (DemoFailed, Refused) as error:
            if not self._logs.dead:
                self._fail(f"The demo failed: {error}")
        except Exception:
            if not self._logs.dead:
                self._console.print_exception()
                self._fail("The demo failed.")
        else:
            self._where_to_go()

    def was_stopped_by_user(self, returncode: int | None) -> bool:
        return self.failed or returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)

    def _where_to_go(self) -> None:
        ready = time.monotonic() - self._began
        print_, url = self._console.print, self._layout.url
        print_(f"\n[bold]Slipway is up[/] ({ready:.0f} s): {url}")
        print_(f"Log in as [bold]{self._memory.username}[/] with [bold]{self._memory.password}[/]")
        print_(f"Logs: {self._layout.log_dir}    Start over: make demo-reset    Stop: Ctrl-C")

    def _fail(self, sentence: str) -> None:
        self.failed = True
        self._console.print(sentence, style="red", markup=False)
        self._console.print(f"The logs are in {self._layout.log_dir}")
        os.kill(os.getpid(), signal.SIGTERM)


@contextlib.contextmanager
def _only_one(layout: Layout) -> Iterator[None]:
    private_directory(layout.state_dir)
    with (layout.state_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise AlreadyUp(f"`make up` runs already with {layout.state_dir}; stop it first.") from None
        # Whom `make demo-reset` asks to stop.
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


if __name__ == "__main__":
    sys.exit(main())
