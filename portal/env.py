"""The process environment, read once, typed and checked. Nothing else reads `os.environ`.

Every secret may be given by value (`SLIPWAY_SECRET_KEY`) or as the path of a file that holds it
(`SLIPWAY_SECRET_KEY_FILE`), which is how container platforms hand secrets over. A secret that is given
neither way is looked for in the state directory, where `make up` leaves the ones that it made.
"""

import base64
import binascii
import dataclasses
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import ImproperlyConfigured

from deployments.domain import secret_paths

T = TypeVar("T")
C = TypeVar("C", bound=StrEnum)

CHECKOUT = Path(__file__).resolve().parent.parent
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1", "testserver"})
GIB = 1024**3


class SettingsError(ImproperlyConfigured):
    """The environment cannot be used. One line for each variable, saying what to do about it."""


class Process(StrEnum):
    WEB = "web"
    WORKER = "worker"
    CLOCK = "clock"
    CLI = "cli"


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the operator decided. Secrets are kept out of `repr`. `docs/configuration.md` explains each."""

    process: Process
    debug: bool
    public_url: str
    secret_key: str = dataclasses.field(repr=False)
    signing_key: bytes = dataclasses.field(repr=False)
    database_url: str = dataclasses.field(repr=False)
    state_dir: Path
    static_root: Path | None
    artifact_dir: Path
    artifact_max_bytes: int
    vault_addr: str
    vault_agent_addr: str
    vault_role_id: str
    vault_secret_id: str = dataclasses.field(repr=False)
    vault_mount: str
    vault_path_template: str
    log_format: LogFormat
    log_level: LogLevel
    heartbeat_seconds: int
    worker_processes: int
    max_active_rollouts: int
    max_queued_rollouts: int

    @property
    def public_host(self) -> str:
        """Host name of the public URL, without the port."""
        return urlsplit(self.public_url).hostname or ""

    @property
    def is_https(self) -> bool:
        return urlsplit(self.public_url).scheme == "https"

    @property
    def is_loopback(self) -> bool:
        return self.public_host in LOOPBACK_HOSTS


def read(environ: Mapping[str, str], *, checkout: Path = CHECKOUT) -> Environment:
    """Read every variable. Raises SettingsError naming all that are wrong, not the first one only."""
    source = _Source(environ)
    state_dir = source.path("SLIPWAY_STATE_DIR", default=checkout / ".slipway")
    vault_addr = source.text("SLIPWAY_VAULT_ADDR").rstrip("/")
    environment = Environment(
        process=source.choice("SLIPWAY_PROCESS", Process, default=Process.CLI),
        debug=source.boolean("SLIPWAY_DEBUG", default=False),
        public_url=source.url("SLIPWAY_PUBLIC_URL", default="http://127.0.0.1:8000"),
        secret_key=source.secret("SLIPWAY_SECRET_KEY", fallback=state_dir / "secret-key"),
        signing_key=source.seed("SLIPWAY_SIGNING_KEY", fallback=state_dir / "signing-key"),
        database_url=source.secret("DATABASE_URL", fallback=state_dir / "database-url"),
        state_dir=state_dir,
        static_root=source.optional_path("SLIPWAY_STATIC_ROOT"),
        artifact_dir=source.path("SLIPWAY_ARTIFACT_DIR", default=state_dir / "artifacts"),
        artifact_max_bytes=source.integer("SLIPWAY_ARTIFACT_MAX_BYTES", default=2 * GIB, minimum=1),
        vault_addr=vault_addr,
        vault_agent_addr=source.text("SLIPWAY_VAULT_AGENT_ADDR", default=vault_addr).rstrip("/"),
        vault_role_id=source.text("SLIPWAY_VAULT_ROLE_ID"),
        vault_secret_id=source.secret("SLIPWAY_VAULT_SECRET_ID"),
        vault_mount=source.text("SLIPWAY_VAULT_MOUNT", default="secret").strip("/"),
        vault_path_template=source.path_template("SLIPWAY_VAULT_PATH_TEMPLATE", default="{team}/{service}"),
        log_format=source.choice("SLIPWAY_LOG_FORMAT", LogFormat, default=LogFormat.AUTO),
        log_level=source.choice("SLIPWAY_LOG_LEVEL", LogLevel, default=LogLevel.INFO),
        heartbeat_seconds=source.integer("SLIPWAY_HEARTBEAT_SECONDS", default=8, minimum=1),
        worker_processes=source.integer("SLIPWAY_WORKER_PROCESSES", default=4, minimum=1),
        max_active_rollouts=source.integer("SLIPWAY_MAX_ACTIVE_ROLLOUTS", default=200, minimum=1),
        max_queued_rollouts=source.integer("SLIPWAY_MAX_QUEUED_ROLLOUTS", default=1000, minimum=1),
    )
    source.raise_problems()
    return environment


class _Source:
    """Reads variables and gathers what is wrong with them, so that one start reports everything."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._problems: list[str] = []

    def raise_problems(self) -> None:
        if self._problems:
            raise SettingsError("\n".join(f"  {problem}" for problem in self._problems))

    def text(self, name: str, *, default: str = "") -> str:
        return self._environ.get(name, "").strip() or default

    def boolean(self, name: str, *, default: bool) -> bool:
        words = {"1": True, "true": True, "yes": True, "on": True}
        words |= {"0": False, "false": False, "no": False, "off": False}

        def parse(text: str) -> bool:
            return words[text.lower()]

        return self._parsed(name, parse, default, "set it to true or false")

    def integer(self, name: str, *, default: int, minimum: int) -> int:
        def parse(text: str) -> int:
            if (number := int(text)) < minimum:
                raise ValueError
            return number

        return self._parsed(name, parse, default, f"set it to a whole number of {minimum} or more")

    def choice(self, name: str, kind: type[C], *, default: C) -> C:
        words = {member.value.lower(): member for member in kind}

        def parse(text: str) -> C:
            return words[text.lower()]

        return self._parsed(name, parse, default, f"set it to one of: {', '.join(words)}")

    def path(self, name: str, *, default: Path) -> Path:
        return self.optional_path(name) or default

    def optional_path(self, name: str) -> Path | None:
        text = self.text(name)
        return Path(text).expanduser().absolute() if text else None

    def url(self, name: str, *, default: str) -> str:
        def parse(text: str) -> str:
            parts = urlsplit(text)
            if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
                raise ValueError
            return text.rstrip("/")

        return self._parsed(name, parse, default, "set it to http(s)://HOST[:PORT], without a path")

    def path_template(self, name: str, *, default: str) -> str:
        """Set to nothing is not the same as not set: it lifts the restriction."""

        def parse(text: str) -> str:
            if not secret_paths.is_template(text):
                raise ValueError
            return text

        remedy = "set it to a path without outer slashes, at most one of {team}, {service} and {environment} "
        remedy += "between two slashes"
        return self._parsed(name, parse, "" if name in self._environ else default, remedy)

    def secret(self, name: str, *, fallback: Path | None = None) -> str:
        """The value, or the content of `NAME_FILE`, or of `fallback` where that exists, or ""."""
        value, file = self.text(name), self.optional_path(f"{name}_FILE")
        if value and file:
            self._problems.append(f"{name} and {name}_FILE are both set: keep one of them.")
            return value
        if value:
            return value
        if file is None:
            return self._content(fallback, name) if fallback and fallback.exists() else ""
        return self._content(file, f"{name}_FILE")

    def seed(self, name: str, *, fallback: Path) -> bytes:
        """A 32-byte Ed25519 seed in base64, or b"" when there is none."""
        text = self.secret(name, fallback=fallback)
        if not text:
            return b""
        try:
            seed = base64.b64decode(text, validate=True)
        except binascii.Error:
            seed = b""
        if len(seed) != 32:
            self._problems.append(
                f"{name} is not 32 bytes in base64: make one with `head -c 32 /dev/urandom | base64`."
            )
        return seed

    def _content(self, file: Path, name: str) -> str:
        try:
            return file.read_text().strip()
        except OSError as error:
            self._problems.append(f"{name}: {file} cannot be read ({error.strerror}): fix path or rights.")
            return ""

    def _parsed(self, name: str, parse: Callable[[str], T], default: T, remedy: str) -> T:
        text = self.text(name)
        if not text:
            return default
        try:
            return parse(text)
        except (KeyError, ValueError):
            self._problems.append(f"{name} is {text!r}: {remedy}.")
            return default
