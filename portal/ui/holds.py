"""Forms on a release's page: put it on hold, and lift the hold. Without the form, its page."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound, SlipwayError
from deployments.services.holds import hold_release, lift_hold
from portal.ui import releases
from portal.ui.errors import page
from portal.ui.steering import ReasonForm


@page
@require_POST
def place(request: HttpRequest, actor: Actor, release_id: UUID) -> HttpResponse:
    return _answer(request, actor, release_id, hold_release, "It is on hold: no rollout of it starts.")


@page
@require_POST
def lift(request: HttpRequest, actor: Actor, release_id: UUID) -> HttpResponse:
    return _answer(request, actor, release_id, lift_hold, "The hold is lifted: it can be rolled out again.")


def _answer(
    request: HttpRequest, actor: Actor, release_id: UUID, command: Callable[..., Any], done: str
) -> HttpResponse:
    form = ReasonForm(request.POST)
    if not form.is_valid():
        wrong = " ".join(map(str, form.errors["reason"]))
        return releases.render_page(request, actor, release_id, wrong, 422)
    try:
        command(actor=actor, release_id=release_id, reason=form.cleaned_data["reason"])
    except (NotFound, NotAllowed):
        raise
    except SlipwayError as error:
        return releases.render_page(request, actor, release_id, error.message, error.status)
    messages.info(request, done)
    return redirect("release", release_id=release_id)
