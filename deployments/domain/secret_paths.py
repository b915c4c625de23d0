"""Which secrets are a service's own: those at or below the path that the operator's template gives it.

The secret server knows one reader, Slipway; without this any team could name the secrets of any other.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from deployments.domain import config
from deployments.errors import Invalid

PLACEHOLDER = re.compile(r"\{(team|service|environment)\}")


def is_template(text: str) -> bool:
    """Whether `text` is a path with placeholders; empty is one, and restricts nothing.

    Two placeholders in one segment would let `a-b` of team `c` and `b` of team `c-a` share a path.
    """
    one_each = all(len(PLACEHOLDER.findall(segment)) <= 1 for segment in text.split("/"))
    return not text or (one_each and config.is_secret_path(PLACEHOLDER.sub("x", text)))


def depends_on_environment(template: str) -> bool:
    return "{environment}" in template


def prefix(template: str, *, team: str, service: str, environment: str = "") -> str:
    names = {"team": team, "service": service, "environment": environment}
    return PLACEHOLDER.sub(lambda match: names[match[1]], template)


def named_in(base: Mapping[str, Any], overlay: Mapping[str, Any]) -> list[str]:
    """Paths in the environment values of a configuration, merged."""
    env = config.merge(base, overlay).get("env", {})
    return sorted({path for path, _key in config.secret_refs(env)})


def check(paths: Collection[str], allowed: str, where: str) -> None:
    """Raise Invalid for a path that is neither `allowed` nor below it; an empty `allowed` allows all."""
    for path in paths:
        if allowed and path != allowed and not path.startswith(f"{allowed}/"):
            raise Invalid(
                f"{where}: the secret {path} is not this service's own. "
                f"Its secrets lie at {allowed} or below: move it there."
            )
