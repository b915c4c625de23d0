"""How the agent was started: command line first, then `SLIPWAY_AGENT_*`, then the defaults here."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from deployments.agent import __version__
from deployments.agent.errors import CannotStart

MIB = 1024 * 1024
GIB = 1024 * MIB


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the agent takes before it refuses; sizes in bytes."""

    artifact_bytes: int = 2 * GIB
    unpacked_bytes: int = 2 * GIB
    unpacked_files: int = 100_000
    cache_bytes: int = 5 * GIB
    releases_kept: int = 3
    log_file_bytes: int = 8 * MIB


@dataclass(frozen=True, kw_only=True)
class Options:
    server: str
    """URL without a slash at its end; empty: the one that the agent was enrolled at."""
    state_dir: Path
    join_token: str = field(default="", repr=False)
    name: str = ""
    json_logs: bool = False
    stop_services_on_exit: bool = False
    check_files_seconds: float = 0.0
    """How often active releases are compared with what was unpacked; 0: as often as heartbeats go out."""
    limits: Limits = Limits()


def parse(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> Options:
    """Read options; raises CannotStart where they make no sense, SystemExit for `--help`."""
    arguments = _parser(environ).parse_args(argv)
    server = arguments.server.rstrip("/")
    if server and (urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).hostname):
        raise CannotStart(f"--server must be an http or https URL, not {server!r}.")
    if not arguments.state_dir:
        raise CannotStart("Say where to keep state: --state-dir DIR or SLIPWAY_AGENT_STATE_DIR.")
    return Options(
        server=server,
        state_dir=Path(arguments.state_dir).absolute(),
        join_token=_join_token(arguments.join_token, arguments.join_token_file),
        name=arguments.name,
        json_logs=arguments.json_logs,
        stop_services_on_exit=arguments.stop_services_on_exit,
        check_files_seconds=arguments.check_files_seconds,
        limits=Limits(
            artifact_bytes=arguments.max_artifact_bytes,
            unpacked_bytes=arguments.max_unpacked_bytes,
            unpacked_files=arguments.max_unpacked_files,
            cache_bytes=arguments.cache_bytes,
            releases_kept=arguments.keep_releases,
            log_file_bytes=arguments.max_log_file_bytes,
        ),
    )


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    def env(name: str, default: str = "") -> str:
        return environ.get(f"SLIPWAY_AGENT_{name}", default)

    def flag(name: str) -> bool:
        return env(name).lower() in ("1", "true", "yes", "on")

    limits = Limits()
    parser = argparse.ArgumentParser(
        prog="slipway-agent",
        description="Serves deployment targets: fetches, verifies, runs and watches releases.",
        epilog="Each option has an environment variable: --state-dir is SLIPWAY_AGENT_STATE_DIR.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--version", action="version", version=f"slipway-agent {__version__}")
    add("--server", default=env("SERVER"), metavar="URL", help="the control plane, https://slipway.example")
    add("--state-dir", default=env("STATE_DIR"), metavar="DIR", help="where keys, journal and releases live")
    add(
        "--join-token",
        default=env("JOIN_TOKEN"),
        metavar="TOKEN",
        help="single-use, for the first start; the variable or the file keep it out of the process list",
    )
    add("--join-token-file", default=env("JOIN_TOKEN_FILE"), metavar="FILE", help="holds the join token")
    add("--name", default=env("NAME"), help="shown in the control plane (default: the host name)")
    add("--json-logs", action="store_true", default=flag("JSON_LOGS"), help="also on a terminal")
    add(
        "--stop-services-on-exit",
        action="store_true",
        default=flag("STOP_SERVICES_ON_EXIT"),
        help="stop the services with the agent (default: leave them running, adopt them at the next start)",
    )
    numbers: list[tuple[str, type[int] | type[float], float, str]] = [
        ("--max-artifact-bytes", int, limits.artifact_bytes, "largest artifact"),
        ("--max-unpacked-bytes", int, limits.unpacked_bytes, "largest unpacked artifact"),
        ("--max-unpacked-files", int, limits.unpacked_files, "most files in an artifact"),
        ("--cache-bytes", int, limits.cache_bytes, "artifact cache; what is in use is never evicted"),
        ("--keep-releases", int, limits.releases_kept, "releases kept for each target, at least 2"),
        ("--max-log-file-bytes", int, limits.log_file_bytes, "a service's log file before it is rotated"),
        ("--check-files-seconds", float, 0.0, "how often active files are checked; 0: with each heartbeat"),
    ]
    for name, kind, default, text in numbers:
        variable = name[2:].replace("-", "_").upper()
        add(
            name,
            type=kind,
            default=env(variable, str(default)),
            metavar="N",
            help=f"{text} (default {default})",
        )
    return parser


def _join_token(token: str, token_file: str) -> str:
    if token or not token_file:
        return token.strip()
    try:
        return Path(token_file).read_text().strip()
    except OSError as error:
        raise CannotStart(f"The join token file {token_file} cannot be read: {error.strerror}.") from None
