"""What is deployed and where to: environments, services and their targets; teams stand in `teams`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from django.db import transaction
from django.utils import timezone
from msgspec import UNSET, UnsetType

from deployments import access, events
from deployments.domain.actor import Actor
from deployments.engine import slots
from deployments.errors import Invalid, RolloutActive, StaleVersion
from deployments.models import Agent, Environment, Region, Rollout, Service, Target, Team
from deployments.services import policies
from deployments.services.rows import check_fields, check_limit, insert
from deployments.services.teams import change_team, create_team, remove_membership, set_membership

__all__ = [
    "change_environment",
    "change_service",
    "change_target",
    "change_team",
    "create_environment",
    "create_region",
    "create_service",
    "create_target",
    "create_team",
    "remove_membership",
    "set_membership",
]

CHANGEABLE = ("description", "repository_url", "strategy")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
MAX_VARIABLES = 100
MAX_VARIABLE_LENGTH = 1000


@transaction.atomic
def create_environment(*, actor: Actor, name: str, tier: str, regions: Sequence[str] = ()) -> Environment:
    """Make an environment with its regions, which go in the order given."""
    access.require(actor, "environment.create")
    environment = insert(
        Environment(name=name, tier=tier), exists=f"There is an environment “{name}” already."
    )
    after = {"name": name, "tier": tier}
    changes = [events.done("environment.create", environment, after=after)]
    changes += [_add_region(environment, region, position) for position, region in enumerate(regions)]
    events.record(actor=actor, changes=changes)
    return environment


@transaction.atomic
def change_environment(
    *, actor: Actor, environment_id: UUID, if_version: int | None = None, **fields: Any
) -> Environment:
    """Change `strategy`, `max_active` (None: no limit) or `on_drift`.

    Raises Invalid, and StaleVersion when `if_version` is given and not the version any more.
    """
    environments = Environment.objects.select_for_update(no_key=True)
    access.require(actor, "environment.change")
    environment = access.get(actor, "environment.view", environments, id=environment_id)
    if if_version is not None and if_version != environment.version:
        raise StaleVersion(
            f"The environment is at version {environment.version}, and you changed version {if_version}. "
            "Read it again and decide anew."
        )
    known = ("strategy", "max_active", "on_drift")
    if unknown := sorted(set(fields) - set(known)):
        raise Invalid(**{name: f"cannot be changed; {', '.join(known)} can" for name in unknown})
    if "strategy" in fields:
        fields["strategy"] = policies.check_of_environment(fields["strategy"])
    if "max_active" in fields:
        check_limit(fields["max_active"])
    changed = {name: value for name, value in fields.items() if getattr(environment, name) != value}
    if not changed:
        return environment
    before = {name: getattr(environment, name) for name in changed}
    for name, value in changed.items():
        setattr(environment, name, value)
    check_fields(environment, list(changed))
    environment.version += 1
    environment.save(update_fields=[*changed, "version"])
    if "max_active" in changed:
        slots.wake(timezone.now())
    change = events.done("environment.change", environment, before=before, after=changed)
    events.record(actor=actor, changes=[change])
    return environment


@transaction.atomic
def create_region(*, actor: Actor, environment_id: UUID, name: str, position: int = 0) -> Region:
    access.require(actor, "region.create")
    environment = access.get(actor, "environment.view", Environment.objects.all(), id=environment_id)
    events.record(actor=actor, changes=[_add_region(environment, name, position)])
    return environment.regions.get(name=name)


def _add_region(environment: Environment, name: str, position: int) -> events.Change:
    region = Region(environment=environment, name=name, position=position)
    insert(region, exists=f"Environment {environment} has a region “{name}” already.")
    return events.done("region.create", region, after={"name": name, "position": position})


@transaction.atomic
def create_service(
    *,
    actor: Actor,
    team_id: UUID,
    name: str,
    description: str = "",
    repository_url: str = "",
    strategy: Mapping[str, Any] | None = None,
) -> Service:
    """Raises Invalid for a strategy that is unknown or has unknown parameters."""
    team = access.get(actor, "service.create", Team.objects.all(), id=team_id)
    definition = policies.check_of_service(strategy or {})
    service = Service(
        team=team,
        name=name,
        description=description,
        repository_url=repository_url,
        strategy=definition,
    )
    insert(service, exists=f"There is a service “{name}” already; a name counts for all teams.")
    after = {"team": team.name, "name": name, "strategy": definition}
    events.record(actor=actor, changes=[events.done("service.create", service, after=after)])
    return service


@transaction.atomic
def change_service(
    *, actor: Actor, service_id: UUID, if_version: int | None = None, **fields: Any
) -> Service:
    """Change `description`, `repository_url` or `strategy`.

    Raises StaleVersion when `if_version` is given and not the service's version any more.
    """
    services = Service.objects.select_related("team").select_for_update(no_key=True, of=("self",))
    service = access.get(actor, "service.change", services, id=service_id)
    if if_version is not None and if_version != service.version:
        raise StaleVersion(
            f"The service is at version {service.version}, and you changed version {if_version}. "
            "Read it again and decide anew."
        )
    if unknown := sorted(set(fields) - set(CHANGEABLE)):
        raise Invalid(**{name: f"cannot be changed; {', '.join(CHANGEABLE)} can" for name in unknown})
    if "strategy" in fields:
        fields["strategy"] = policies.check_of_service(fields["strategy"])
    changed = {name: value for name, value in fields.items() if getattr(service, name) != value}
    if not changed:
        return service
    before = {name: getattr(service, name) for name in changed}
    for name, value in changed.items():
        setattr(service, name, value)
    check_fields(service, list(changed))
    service.version += 1
    service.save(update_fields=[*changed, "version"])
    change = events.done("service.change", service, before=before, after=changed)
    events.record(actor=actor, changes=[change])
    return service


@transaction.atomic
def create_target(
    *,
    actor: Actor,
    service_id: UUID,
    region_id: UUID,
    name: str,
    agent_id: UUID | None = None,
    variables: Mapping[str, str | int] | None = None,
) -> Target:
    service = access.get(actor, "target.create", Service.objects.select_related("team"), id=service_id)
    region = Region.objects.select_related("environment").filter(pk=region_id).first()
    if region is None:
        raise Invalid(region="There is no region with this id. Create it in its environment first.")
    target = Target(
        service=service,
        region=region,
        name=name,
        agent=_agent(actor, agent_id),
        variables=_variables(variables or {}),
    )
    insert(target, exists=f"Service {service} has a target “{name}” in {region} already.")
    after = {"service": service.name, "region": str(region), "agent": agent_id, "variables": target.variables}
    events.record(actor=actor, changes=[events.done("target.create", target, after=after)])
    return target


@transaction.atomic
def change_target(
    *,
    actor: Actor,
    target_id: UUID,
    agent_id: UUID | UnsetType | None = UNSET,
    variables: Mapping[str, str | int] | UnsetType = UNSET,
) -> Target:
    """Give the target another agent (None: no agent) or other variables; what is left out stays.

    Raises RolloutActive while a rollout moves the target.
    """
    targets = Target.objects.select_related("service__team", "region__environment")
    target = access.get(
        actor, "target.change", targets.select_for_update(no_key=True, of=("self",)), id=target_id
    )
    if Rollout.objects.active().filter(targets__target=target).exists():
        raise RolloutActive(
            f"A rollout moves {target} now. Wait for its end or cancel it, then change the target."
        )
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if not isinstance(agent_id, UnsetType) and agent_id != target.agent_id:
        before["agent"], after["agent"] = target.agent_id, agent_id
        target.agent = _agent(actor, agent_id)
    if not isinstance(variables, UnsetType) and (wanted := _variables(variables)) != target.variables:
        before["variables"], after["variables"] = target.variables, wanted
        target.variables = wanted
    if after:
        target.save(update_fields=sorted(after))
        change = events.done("target.change", target, before=before, after=after)
        events.record(actor=actor, changes=[change])
    return target


def _agent(actor: Actor, agent_id: UUID | None) -> Agent | None:
    """An agent that the actor may use: one that serves a target of a team of theirs already.

    Any other would let a team run its code on another team's machine.
    """
    if agent_id is None:
        return None
    agent = access.visible(actor, Agent.objects.all()).filter(pk=agent_id).first()
    if agent is None:
        raise Invalid(
            agent="There is no such agent among those that serve your teams. "
            "Ask an administrator for a join token that names the target."
        )
    if agent.revoked_at is not None:
        raise Invalid(agent=f"{agent} is revoked. Choose another agent.")
    return agent


def _variables(variables: Mapping[str, Any]) -> dict[str, str]:
    """Flat strings by name; raises Invalid."""
    if not isinstance(variables, Mapping):
        raise Invalid(variables='must be a JSON object like {"port": "9001"}')
    if len(variables) > MAX_VARIABLES:
        raise Invalid(variables=f"has {len(variables)} entries; the limit is {MAX_VARIABLES}")
    checked: dict[str, str] = {}
    for name, value in variables.items():
        if not isinstance(name, str) or not VARIABLE.fullmatch(name):
            raise Invalid(variables=f"{name!r} is not a name: use letters, digits and underscores")
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Invalid(variables=f"{name}: must be a string or a whole number")
        text = str(value)
        if len(text) > MAX_VARIABLE_LENGTH or "\0" in text:
            raise Invalid(variables=f"{name}: must have at most {MAX_VARIABLE_LENGTH} characters, and no NUL")
        checked[name] = text
    return checked
