"""Configuration as data: a base and an overlay per environment, checked and merged into what a target gets.

A snapshot's body is JSON. `resolve` merges the overlay of the environment over the base (objects
key by key, everything else replaced), and fills `${target.NAME}`, `${service}`, `${environment}`,
`${region}` and `${version}`. Secrets stay as references, `${secret:vault:PATH#KEY}`, which only the
agent resolves, at start, in memory.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from deployments.errors import Invalid
from deployments.protocol import HealthSpec, ProcessSpec

PLACEHOLDER = re.compile(r"\$\{([^}]*)\}")
# No segment is empty or begins with a dot: `..` would lead out of the mount to whatever Slipway may read.
_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9_.-]*"
_SECRET_PATH = rf"{_SEGMENT}(?:/{_SEGMENT})*"
SECRET = re.compile(rf"secret:vault:(?P<path>{_SECRET_PATH})#(?P<key>[A-Za-z0-9_.-]+)")
ENV_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
MAX_CONFIG_BYTES = 128 * 1024
MAX_RESOLVED_BYTES = 96 * 1024
"""Environment, files and command of one target: with its envelope it has to fit into a frame."""


class Health(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As `HealthSpec`, but the port may be a placeholder."""

    kind: str = "none"
    host: str = "127.0.0.1"
    port: int | str = 0
    path: str = "/"
    command: tuple[str, ...] = ()
    timeout_ms: int = 2000
    interval_ms: int = 250
    healthy_after: int = 2
    unhealthy_after: int = 3
    deadline_seconds: int = 30


class Process(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    command: tuple[str, ...]
    working_dir: str = "."
    stop_seconds: int = 10


class ConfigBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a service is run with, after merging."""

    process: Process
    env: dict[str, str] = {}
    files: dict[str, str] = {}
    health: Health = Health()
    runtime: str = "process"


class ResolvedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What one target gets; secrets still by reference."""

    runtime: str
    env: dict[str, str]
    files: dict[str, str]
    process: ProcessSpec
    health: HealthSpec


def merge(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with `overlay` over it; objects merge key by key, null removes a key."""
    merged = dict(base)
    for key, value in overlay.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def validate(base: Any, overlays: Any) -> None:
    """Check a snapshot's body as a whole and under each overlay; raises Invalid naming the path."""
    if not isinstance(base, dict):
        raise Invalid(base="must be a JSON object")
    if not isinstance(overlays, dict):
        raise Invalid(overlays="must be a JSON object: environment name -> overlay")
    if len(msgspec.json.encode([base, overlays])) > MAX_CONFIG_BYTES:
        raise Invalid(base=f"base and overlays together exceed {MAX_CONFIG_BYTES} bytes")
    for name, overlay in overlays.items():
        if not isinstance(overlay, dict):
            raise Invalid(overlays=f"{name}: must be a JSON object")
    for name, overlay in [("base", {}), *overlays.items()]:
        _check(_parse(merge(base, overlay), name), name)


def resolve(
    base: Mapping[str, Any],
    overlay: Mapping[str, Any],
    facts: Mapping[str, str],
    where: str = "config",
) -> ResolvedConfig:
    """Merge and fill in; `facts` maps placeholder names (`target.port`) to values.

    Raises Invalid when a placeholder has no value for this target, or what it gets is too large to send.
    """
    body = _parse(merge(base, overlay), where)

    def fill(text: str) -> str:
        def one(match: re.Match[str]) -> str:
            name = match.group(1)
            if name.startswith("secret:"):
                return match.group(0)
            if name not in facts:
                known = ", ".join(sorted(facts))
                raise Invalid(f"{where}: ${{{name}}} has no value here. Known: {known}.")
            return facts[name]

        return PLACEHOLDER.sub(one, text)

    port = fill(str(body.health.port))
    # isdigit alone takes "²", and int() refuses thousands of digits.
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise Invalid(f"{where}: health.port must be a number from 0 to 65535, not {port[:100]!r}")
    resolved = ResolvedConfig(
        runtime=body.runtime,
        env={name: fill(value) for name, value in body.env.items()},
        files={name: fill(value) for name, value in body.files.items()},
        process=ProcessSpec(
            command=tuple(fill(part) for part in body.process.command),
            working_dir=body.process.working_dir,
            stop_seconds=body.process.stop_seconds,
        ),
        health=HealthSpec(
            kind=body.health.kind,  # type: ignore[arg-type]  # checked by _check
            host=fill(body.health.host),
            port=int(port),
            path=fill(body.health.path),
            command=tuple(fill(part) for part in body.health.command),
            timeout_ms=body.health.timeout_ms,
            interval_ms=body.health.interval_ms,
            healthy_after=body.health.healthy_after,
            unhealthy_after=body.health.unhealthy_after,
            deadline_seconds=body.health.deadline_seconds,
        ),
    )
    _check_size(resolved, where)
    return resolved


def is_secret_path(path: str) -> bool:
    """Whether this is a plain path below the mount: no empty segment, no `.` or `..`, no outer slash."""
    return re.fullmatch(_SECRET_PATH, path) is not None


def secret_refs(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (path, key) of every secret reference in the environment values."""
    for value in env.values():
        for match in PLACEHOLDER.finditer(value):
            if found := SECRET.fullmatch(match.group(1)):
                yield found["path"], found["key"]


def _parse(merged: Mapping[str, Any], where: str) -> ConfigBody:
    try:
        return msgspec.convert(merged, ConfigBody)
    except msgspec.ValidationError as error:
        raise Invalid(f"{where}: {error}") from None


def _check(body: ConfigBody, where: str) -> None:
    if not body.process.command or not body.process.command[0]:
        raise Invalid(f"{where}: process.command must name a program")
    if not 0 <= body.process.stop_seconds <= 600:
        raise Invalid(f"{where}: process.stop_seconds must lie between 0 and 600")
    if body.health.kind not in ("http", "tcp", "exec", "none"):
        raise Invalid(f"{where}: health.kind must be http, tcp, exec or none, not {body.health.kind!r}")
    if body.health.kind == "exec" and not body.health.command:
        raise Invalid(f"{where}: health.kind exec needs health.command")
    for name in ("timeout_ms", "interval_ms", "healthy_after", "unhealthy_after", "deadline_seconds"):
        if not 1 <= getattr(body.health, name) <= 600_000:
            raise Invalid(f"{where}: health.{name} must be at least 1")
    for name in body.env:
        if not ENV_NAME.match(name):
            raise Invalid(f"{where}: env name {name!r} must be letters, digits and underscores")
    for path in (*body.files, body.process.working_dir):
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise Invalid(f"{where}: {path!r} must be a relative path inside the release")
    for name, value in _texts(body):
        for match in PLACEHOLDER.finditer(value):
            inner = match.group(1)
            if not inner.startswith("secret:"):
                continue
            if not SECRET.fullmatch(inner):
                raise Invalid(
                    f"{where}: {name}: write a secret as ${{secret:vault:PATH#KEY}}, "
                    "no part of the path empty or with a dot in front"
                )
            if not name.startswith("env."):
                raise Invalid(f"{where}: {name}: secrets are allowed in env only")


def _check_size(resolved: ResolvedConfig, where: str) -> None:
    pairs = (*resolved.env.items(), *resolved.files.items())
    texts = (*(text for pair in pairs for text in pair), *resolved.process.command, *resolved.health.command)
    size = sum(len(text.encode()) for text in texts)
    if size > MAX_RESOLVED_BYTES:
        raise Invalid(
            f"{where}: env, files and command have {size} bytes, filled in, of at most {MAX_RESOLVED_BYTES}. "
            "Shorten them, or put large files into the artifact."
        )


def _texts(body: ConfigBody) -> Iterator[tuple[str, str]]:
    yield from ((f"env.{name}", value) for name, value in body.env.items())
    yield from ((f"files.{name}", value) for name, value in body.files.items())
    yield from (("process.command", part) for part in body.process.command)
    yield from (("health.command", part) for part in body.health.command)
    yield "health.path", body.health.path
    yield "health.host", body.health.host
    yield "health.port", str(body.health.port)
