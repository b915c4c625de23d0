"""Forms that change something: deploy a release, and pause, resume, cancel or roll back a rollout.

Each works as a page of its own; on the rollout page a script shows the same form in a dialog.
"""

import dataclasses
from collections.abc import Callable
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound, SlipwayError
from deployments.models import Environment, Release, Rollout, Service
from deployments.reads import overview, rollouts
from deployments.services import rollbacks
from deployments.services import rollouts as commands
from portal.ui import services
from portal.ui.errors import page, say

RELEASES_OFFERED = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Action:
    name: str
    verb: str
    title: str
    button: str
    says: str
    """What will happen, in the dialog."""
    style: str
    command: Callable[..., Rollout]


ACTIONS = {
    action.name: action
    for action in (
        Action(
            "resume",
            "rollout.resume",
            "Resume this rollout?",
            "Resume",
            "It goes on from where it stopped. Targets that failed are tried again.",
            "primary",
            commands.resume_rollout,
        ),
        Action(
            "pause",
            "rollout.pause",
            "Pause this rollout?",
            "Pause",
            "No further target is changed. What is under way on a target ends.",
            "plain",
            commands.pause_rollout,
        ),
        Action(
            "rollback",
            "rollout.rollback",
            "Roll this back?",
            "Roll back",
            "Every target that was changed goes back to its last stable release.",
            "danger",
            rollbacks.roll_back_rollout,
        ),
        Action(
            "cancel",
            "rollout.cancel",
            "Cancel this rollout?",
            "Cancel rollout",
            "It ends where it stands: targets that were changed stay changed.",
            "plain",
            commands.cancel_rollout,
        ),
    )
}


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=500, strip=True, error_messages={"required": "Say why: the audit trail keeps it."}
    )


class DeployForm(forms.Form):
    release = forms.UUIDField(error_messages={"required": "Choose a release."})
    environment = forms.UUIDField(error_messages={"required": "Choose an environment."})
    reason = forms.CharField(max_length=500, strip=True, required=False)


@page
@require_http_methods(["GET", "HEAD", "POST"])
def steer(request: HttpRequest, actor: Actor, rollout_id: UUID, action: str) -> HttpResponse:
    chosen = ACTIONS.get(action)
    if chosen is None:
        raise NotFound
    rollout = rollouts.get(actor, rollout_id)
    access.require(actor, chosen.verb, rollout)
    form = ReasonForm(request.POST or None)
    context = {"rollout": rollout, "action": chosen, "form": form}
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                done = chosen.command(actor=actor, rollout_id=rollout_id, reason=form.cleaned_data["reason"])
                return redirect("rollout", rollout_id=done.id)
            except (NotFound, NotAllowed):
                raise
            except SlipwayError as error:
                context |= say(error)
                status = error.status
    return render(request, "ui/steer.html", context, status=status)


@page
@require_http_methods(["GET", "HEAD", "POST"])
def deploy(request: HttpRequest, actor: Actor, name: str) -> HttpResponse:
    service = services.get(actor, name, "rollout.create")
    form = DeployForm(request.POST or None, initial=_asked(request))
    refusal, status = {}, 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                rollout = commands.start_rollout(
                    actor=actor,
                    service_id=service.id,
                    environment_id=form.cleaned_data["environment"],
                    release_id=form.cleaned_data["release"],
                    reason=form.cleaned_data["reason"],
                )
                return redirect("rollout", rollout_id=rollout.id)
            except (NotFound, NotAllowed):
                raise
            except SlipwayError as error:
                refusal, status = say(error), error.status
    chosen = {field: str(form[field].value() or "") for field in ("release", "environment", "reason")}
    context = {
        "service": service,
        "form": form,
        "chosen": chosen,
        "releases": _releases(service, chosen["release"]),
        "environments": _environments(service),
        "strategy": services.strategy_lines(service.strategy),
    } | refusal
    return render(request, "ui/deploy.html", context, status=status)


def _asked(request: HttpRequest) -> dict[str, str]:
    return {name: request.GET.get(name, "")[:100] for name in ("release", "environment", "reason")}


def _releases(service: Service, chosen: str) -> list[tuple[str, str]]:
    """The newest releases, and the chosen one even when it is older."""
    newest = list(Release.objects.filter(service=service).order_by("-id")[:RELEASES_OFFERED])
    if chosen and chosen not in {str(release.id) for release in newest} and len(chosen) == 36:
        newest += list(Release.objects.filter(service=service, id=chosen))
    return [
        (str(release.id), f"{release.version}  {release.commit_message.partition(chr(10))[0][:60]}".strip())
        for release in newest
    ]


def _environments(service: Service) -> list[tuple[Environment, overview.Cell]]:
    """Environments in which it has targets first: the others can only be refused."""
    cells = {cell.environment: cell for cell in overview.cells_of(service)}
    return [(one, cells[one.name]) for one in overview.environments() if cells[one.name].targets]
