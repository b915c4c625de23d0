"""The form that starts a rollout."""

from typing import get_args
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound, SlipwayError
from deployments.models import Environment, Hold, Release, Rollout, Service
from deployments.reads import holds, overview
from deployments.services.planning import IfBusy
from deployments.services.rollouts import start_rollout
from portal.ui import services
from portal.ui.errors import page, say
from portal.ui.policies import policy

RELEASES_OFFERED = 50
PRIORITIES = [(priority.label, priority.label) for priority in Rollout.Priority]
BUSY = {
    "refuse": "refuse, and change nothing",
    "queue": "queue up behind it",
    "supersede": "queue up, in place of those that wait",
}


class DeployForm(forms.Form):
    release = forms.UUIDField(error_messages={"required": "Choose a release."})
    environment = forms.UUIDField(error_messages={"required": "Choose an environment."})
    priority = forms.ChoiceField(choices=PRIORITIES, required=False)
    if_busy = forms.ChoiceField(choices=[(name, BUSY[name]) for name in get_args(IfBusy)], required=False)
    reason = forms.CharField(max_length=500, strip=True, required=False)


FIELDS = tuple(DeployForm.base_fields)


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
                rollout = start_rollout(
                    actor=actor,
                    service_id=service.id,
                    environment_id=form.cleaned_data["environment"],
                    release_id=form.cleaned_data["release"],
                    reason=form.cleaned_data["reason"],
                    priority=Rollout.Priority[(form.cleaned_data["priority"] or "normal").upper()],
                    if_busy=form.cleaned_data["if_busy"] or "refuse",
                )
                return redirect("rollout", rollout_id=rollout.id)
            except (NotFound, NotAllowed):
                raise
            except SlipwayError as error:
                refusal, status = say(error), error.status
    chosen = {field: str(form[field].value() or "") for field in FIELDS}
    releases = _releases(service, chosen["release"])
    held = holds.of([release.id for release in releases])
    chosen_hold = next((hold for pk, hold in held.items() if str(pk) == chosen["release"]), None)
    environments = _environments(service)
    context = {
        "service": service,
        "form": form,
        "chosen": chosen | {"priority": chosen["priority"] or "normal"},
        "releases": [(str(release.id), _named(release, held)) for release in releases],
        "held": chosen_hold,
        "held_because": chosen_hold.reason.rstrip(".") if chosen_hold else "",
        "environments": environments,
        "priorities": PRIORITIES,
        "busy": list(BUSY.items()),
        "policy": policy(service, [one for one, _ in environments]),
    } | refusal
    return render(request, "ui/deploy.html", context, status=status)


def _asked(request: HttpRequest) -> dict[str, str]:
    return {name: request.GET.get(name, "")[:100] for name in FIELDS}


def _releases(service: Service, chosen: str) -> list[Release]:
    """The newest releases, and the chosen one even when it is older."""
    newest = list(Release.objects.filter(service=service).order_by("-id")[:RELEASES_OFFERED])
    if chosen and chosen not in {str(release.id) for release in newest}:
        try:
            newest += list(Release.objects.filter(service=service, id=UUID(chosen)))
        except ValueError:  # a mangled link chooses nothing
            return newest
    return newest


def _named(release: Release, held: dict[UUID, Hold]) -> str:
    mark = " (on hold)" if release.id in held else ""
    return f"{release.version}{mark}  {release.commit_message.partition(chr(10))[0][:60]}".strip()


def _environments(service: Service) -> list[tuple[Environment, overview.Cell]]:
    """Environments in which it has targets first: the others can only be refused."""
    cells = {cell.environment: cell for cell in overview.cells_of(service)}
    return [(one, cells[one.name]) for one in overview.environments() if cells[one.name].targets]
