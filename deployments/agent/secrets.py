"""Secrets by reference: resolved when a process starts, kept in memory and in that process, nowhere else.

The control plane hands out one response-wrapping token for each path; the agent trades it at the secret
server itself. Neither token nor value may reach a log, an exception's text, a frame or a file, so every
error here is made from fixed words and `from None`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from deployments.agent import http
from deployments.agent.errors import TaskFailure
from deployments.agent.identity import Identity
from deployments.agent.work import on_network

_REFERENCE = re.compile(r"\$\{secret:([^}]*)\}")
_REFERENCES = re.compile(r"(?:\$\{secret:[^}]*\})+")
MIN_REDACTED = 4
"""A value shorter than this is not looked for in logs: it would blacken every other word."""


class _Leases(msgspec.Struct, frozen=True):
    address: str
    leases: dict[str, str]


class _Version(msgspec.Struct, frozen=True):
    data: dict[str, object]


class _Unwrapped(msgspec.Struct, frozen=True):
    """A wrapped read of a key-value store, version 2: anything else that was wrapped is not a secret."""

    data: _Version


def has_references(env: Mapping[str, str]) -> bool:
    return any(_REFERENCE.search(value) for value in env.values())


def values_within(templates: Mapping[str, str], env: Mapping[str, str]) -> tuple[str, ...]:
    """What to blacken of a process that an earlier agent gave `env`, made from `templates`.

    That is each value with a reference as a whole, and the secrets cut out of it: a service may print either.
    """
    found: list[str] = []
    for name, template in templates.items():
        if name in env and has_references({name: template}):
            found += [env[name], *_cut(template, env[name])]
    return _redactable(found)


def _cut(template: str, value: str) -> Iterator[str]:
    """What stands in `value` where `template` has references; adjacent ones count as one.

    A secret may hold the text that stands between two references, so both outermost readings are given.
    """
    head, *between, tail = _REFERENCES.split(template)
    if not value.startswith(head) or not value.endswith(tail):
        return
    from_left = from_right = value[len(head) : len(value) - len(tail)]
    for text in between:
        secret, _, from_left = from_left.partition(text)
        yield secret
    yield from_left
    for text in reversed(between):
        from_right, _, secret = from_right.rpartition(text)
        yield secret
    yield from_right


def _redactable(values: Iterable[str]) -> tuple[str, ...]:
    """Longest first: what is part of another must not break that one up before it is found."""
    return tuple(sorted({value for value in values if len(value) >= MIN_REDACTED}, key=len, reverse=True))


class SecretSource:
    """Where the agent's secrets come from."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def resolve(self, env: Mapping[str, str], task_id: str) -> tuple[dict[str, str], tuple[str, ...]]:
        """`env` with each reference replaced, and the secret values in it.

        Raises TaskFailure `secret_unavailable`.
        """
        if not has_references(env):
            return dict(env), ()
        wanted = {_parse(found) for value in env.values() for found in _REFERENCE.findall(value)}
        paths = sorted({path for path, _ in wanted})
        granted = await self._leases(task_id)
        contents = {path: await _unwrap(granted, path) for path in paths}
        values: dict[str, str] = {}
        for path, key in wanted:
            value = contents[path].get(key)
            if not isinstance(value, str | int | float):
                raise TaskFailure(
                    "secret_unavailable",
                    f"The secret {path} has no key '{key}'. Add it there or correct the configuration.",
                )
            values[f"vault:{path}#{key}"] = str(value)
        resolved = {
            name: _REFERENCE.sub(lambda match: values[match[1]], value) for name, value in env.items()
        }
        return resolved, _redactable(values.values())

    async def _leases(self, task_id: str) -> _Leases:
        path = f"/agent/v1/tasks/{task_id}/secrets"
        headers = {
            "Authorization": self._identity.authorization("POST", path),
            "Content-Type": "application/json",
        }
        try:
            answer = await on_network(http.call, "POST", self._identity.server + path, headers, b"")
        except http.Unreachable:
            raise TaskFailure(
                "secret_unavailable",
                "The control plane could not be reached for this release's secrets. Try again.",
            ) from None
        if answer.status not in (200, 201):
            raise TaskFailure(
                "secret_unavailable",
                f"The control plane refused this release's secrets (status {answer.status}). Check that the "
                "service may read them and that the secret server is up.",
            )
        try:
            leases = msgspec.json.decode(answer.body, type=_Leases)
        except msgspec.DecodeError:
            leases = _Leases("", {})
        if urlsplit(leases.address).scheme not in ("http", "https"):
            raise TaskFailure(
                "secret_unavailable", "The control plane did not name a secret server; check its settings."
            )
        return leases


def _parse(reference: str) -> tuple[str, str]:
    provider, _, rest = reference.partition(":")
    path, _, key = rest.partition("#")
    if provider != "vault" or not path or not key:
        raise TaskFailure(
            "secret_unavailable",
            f"The reference secret:{reference[:200]} cannot be read; write ${{secret:vault:PATH#KEY}}.",
        )
    return path, key


async def _unwrap(granted: _Leases, path: str) -> dict[str, object]:
    token = granted.leases.get(path)
    if not token:
        raise TaskFailure(
            "secret_unavailable",
            f"The control plane gave no lease for the secret {path}. Check that the service may read it.",
        )
    url = f"{granted.address.rstrip('/')}/v1/sys/wrapping/unwrap"
    try:
        answer = await on_network(http.call, "POST", url, {"X-Vault-Token": token}, b"")
        if answer.status == 200:
            return msgspec.json.decode(answer.body, type=_Unwrapped).data.data
    except msgspec.DecodeError:
        raise TaskFailure(
            "secret_unavailable",
            f"The secret server's answer for {path} is not a secret of a key-value store, version 2. "
            "Check the path and SLIPWAY_VAULT_MOUNT.",
        ) from None
    except http.Unreachable:
        answer = None
    status = f"answered {answer.status}" if answer else "could not be reached"
    raise TaskFailure(
        "secret_unavailable",
        f"The secret server {status} for {path}. Check that it is up and unsealed, then try again.",
    ) from None
