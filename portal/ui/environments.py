"""Environments: where to, in which regions, and what changed there last."""

from typing import Any

from django import forms
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import SlipwayError
from deployments.models import Environment
from deployments.reads import overview, rollouts, targets
from deployments.services.catalog import change_environment
from deployments.services.rows import MAX_LIMIT
from portal.ui.errors import page, say
from portal.ui.lists import link, rollout_rows
from portal.ui.policies import params_lines


@page
def index(request: HttpRequest, actor: Actor) -> HttpResponse:
    environments = overview.environments()
    regions = targets.regions(actor, environments)
    rows = [
        (one, regions.get(one.id, []), sum(r.targets for r in regions.get(one.id, [])))
        for one in environments
    ]
    return render(request, "ui/environments.html", {"environments": rows})


class ObjectField(forms.JSONField):
    """An object; an empty text stands for an empty one, and no other value does."""

    def clean(self, value: Any) -> Any:
        if not (value or "").strip():
            return {}
        found = super().clean(value)
        if not isinstance(found, dict):
            raise forms.ValidationError(self.error_messages["invalid"], code="invalid")
        return found


class SettingsForm(forms.Form):
    version = forms.IntegerField(widget=forms.HiddenInput)
    max_active = forms.IntegerField(required=False, min_value=1, max_value=MAX_LIMIT)
    on_drift = forms.ChoiceField(choices=Environment.OnDrift.choices)
    strategy = ObjectField(
        required=False, error_messages={"invalid": "This is no JSON object. Write one, or nothing."}
    )


ON_DRIFT = {
    Environment.OnDrift.SHOW: "is shown, and left as it is",
    Environment.OnDrift.REPAIR: "is shown, and put right by a rollout",
}


@page
@require_http_methods(["GET", "HEAD", "POST"])
def show(request: HttpRequest, actor: Actor, name: str) -> HttpResponse:
    environment = access.get(actor, "environment.view", Environment.objects.all(), name=name)
    form = SettingsForm(request.POST or None, initial=_settings(environment))
    refusal, status = {}, 200
    if request.method == "POST":
        access.require(actor, "environment.change")
        status = 422
        if form.is_valid():
            given = form.cleaned_data
            try:
                change_environment(
                    actor=actor,
                    environment_id=environment.id,
                    if_version=given["version"],
                    max_active=given["max_active"],
                    on_drift=given["on_drift"],
                    strategy=given["strategy"],
                )
                messages.info(
                    request,
                    f"{name} is changed. The policy holds for rollouts that are made from now on, "
                    "all else at once.",
                )
                return redirect("environment", name=name)
            except SlipwayError as error:
                refusal, status = say(error), error.status
    history = rollouts.history(actor, environment=name, before=request.GET.get("before", ""))
    context = {
        "environment": environment,
        "form": form,
        "values": {field: form[field].value() for field in form.fields},
        "on_drift": ON_DRIFT[Environment.OnDrift(environment.on_drift)],
        "drift_choices": list(ON_DRIFT.items()),
        "strategy": params_lines(environment.strategy),
        "may_change": access.allowed(actor, "environment.change"),
        "regions": targets.regions(actor, [environment]).get(environment.id, []),
        "rollouts": rollout_rows(history.items, timezone.now()),
        "more_rollouts": history.next_before and link(request, before=history.next_before),
    }
    return render(request, "ui/environment.html", context | refusal, status=status)


def _settings(environment: Environment) -> dict[str, object]:
    return {
        "version": environment.version,
        "max_active": environment.max_active,
        "on_drift": environment.on_drift,
        "strategy": environment.strategy,
    }
