"""Forms that steer a rollout: pause, resume, retry, skip, roll back and cancel it.

Each works as a page of its own; on the rollout page a script shows the same form in a dialog. What there
is to choose (targets, what a rollback goes back to) is a fragment, read anew whenever it is opened.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from deployments import access
from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound, SlipwayError, StaleVersion
from deployments.models import Rollout
from deployments.reads import choices, rollouts
from deployments.services import retries, rollbacks
from deployments.services import rollouts as commands
from portal.ui.errors import page, say
from portal.ui.format import plural, words

LOOKS = 10
"""How often a rollout on which something happens at this very moment is looked at again."""
CHANGED = (
    "The rollout has changed since this was shown: rolling back would do something else now. Read what, and "
    "decide anew."
)


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=500, strip=True, error_messages={"required": "Say why: the audit trail keeps it."}
    )

    def arguments(self) -> dict[str, Any]:
        """What the command is called with."""
        return dict(self.cleaned_data)


class Targets(forms.TypedMultipleChoiceField):
    """Ids of targets; the command knows which of them there are."""

    def valid_value(self, value: Any) -> bool:
        return True


class SkipForm(ReasonForm):
    targets = Targets(coerce=UUID, error_messages={"required": "Choose at least one target."})


class RetryForm(ReasonForm):
    targets = Targets(coerce=UUID, required=False)
    everything = forms.BooleanField(required=False)
    """There are more than can be shown: all of them."""

    def clean(self) -> None:
        if not self.cleaned_data.get("targets") and not self.cleaned_data.get("everything"):
            self.add_error("targets", "Choose at least one target.")

    def arguments(self) -> dict[str, Any]:
        found = dict(self.cleaned_data)
        return found | {"targets": ()} if found.pop("everything") else found


class RollbackForm(ReasonForm):
    release = forms.UUIDField(
        required=False, error_messages={"invalid": "This is no release. Choose one of those named here."}
    )
    """Only where there are others than the last stable one."""
    seen = forms.CharField(required=False)
    """What the form said that it would do, as in `_deed`; empty where it said nothing."""

    def arguments(self) -> dict[str, Any]:
        given = dict(self.cleaned_data)
        return given | {"release_id": given.pop("release")}


def _deed(back: choices.Return) -> str:
    """What rolling back would do, for a form to name: turn round, or a release; empty for nothing."""
    if not back.is_possible:
        return ""
    return str(back.release.pk) if back.release else "turn"


def _roll_back(*, actor: Actor, rollout_id: UUID, reason: str, release_id: UUID | None, seen: str) -> Rollout:
    """Do what was shown, however far the rollout has come since; raises StaleVersion where it would be
    something else, as a rollout of its own where the one in flight has ended."""
    for _ in range(LOOKS):
        rollout = rollouts.get(actor, rollout_id)
        if seen and seen != _deed(choices.way_back_of(rollout)):
            break
        with contextlib.suppress(StaleVersion):
            return rollbacks.roll_back_rollout(
                actor=actor,
                rollout_id=rollout_id,
                reason=reason,
                release_id=release_id,
                if_version=rollout.event_count,
            )
    raise StaleVersion(CHANGED)


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
    form: type[ReasonForm] = ReasonForm

    @property
    def has_choice(self) -> bool:
        return self.form is not ReasonForm


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
            "retry",
            "rollout.retry",
            "Retry failed targets?",
            "Retry failed targets",
            "Nothing that succeeded is done again. After its end, a new rollout of the same release does it.",
            "plain",
            retries.retry_targets,
            RetryForm,
        ),
        Action(
            "skip",
            "rollout.skip",
            "Leave targets out?",
            "Skip targets",
            "The rollout goes on without them. What was changed on them stays as it is.",
            "plain",
            retries.skip_targets,
            SkipForm,
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
            "Targets that were not changed are left alone.",
            "danger",
            _roll_back,
            RollbackForm,
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


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """A target with its checkbox."""

    id: UUID
    name: str
    region: str
    state: str
    label: str
    error: str
    is_checked: bool


@page
@require_http_methods(["GET", "HEAD", "POST"])
def steer(request: HttpRequest, actor: Actor, rollout_id: UUID, action: str) -> HttpResponse:
    chosen, rollout = _asked(actor, rollout_id, action)
    form = chosen.form(request.POST or None)
    context: dict[str, Any] = {"rollout": rollout, "action": chosen, "form": form}
    status = 200
    if request.method == "POST":
        status = 422
        if form.is_valid():
            try:
                done = chosen.command(actor=actor, rollout_id=rollout_id, **form.arguments())
                return redirect("rollout", rollout_id=done.id)
            except (NotFound, NotAllowed):
                raise
            except SlipwayError as error:
                context |= say(error)
                status = error.status
    return render(request, "ui/steer.html", context | _choice(chosen, rollout, form), status=status)


@page
def choice(request: HttpRequest, actor: Actor, rollout_id: UUID, action: str) -> HttpResponse:
    """What there is to choose now, as a fragment for the dialog."""
    chosen, rollout = _asked(actor, rollout_id, action)
    context = {"rollout": rollout, "action": chosen} | _choice(chosen, rollout, chosen.form())
    return render(request, "ui/steer_choice.html", context)


def _asked(actor: Actor, rollout_id: UUID, action: str) -> tuple[Action, Rollout]:
    chosen = ACTIONS.get(action)
    if chosen is None:
        raise NotFound
    rollout = rollouts.get(actor, rollout_id)
    access.require(actor, chosen.verb, rollout)
    return chosen, rollout


def _choice(action: Action, rollout: Rollout, form: ReasonForm) -> dict[str, Any]:
    match action.name:
        case "retry":
            found = choices.retryable(rollout)
            return {
                "options": _options(found, _ticked(form, [row.target_id for row in found.rows])),
                "found": found,
                "takes_all": not found.is_whole,
            }
        case "skip":
            found = choices.skippable(rollout)
            return {"options": _options(found, _ticked(form, [])), "found": found}
        case "rollback":
            back = choices.way_back_of(rollout)
            targets = [
                (
                    f"{plural(number, 'target')} to {version}"
                    if version
                    else f"{plural(number, 'target')} to nothing"
                )
                for version, number in back.targets
            ]
            return {"back": back, "back_targets": targets, "seen": _deed(back)}
    return {}


def _ticked(form: ReasonForm, by_default: Sequence[UUID]) -> set[str]:
    if form.is_bound:
        return {str(one) for one in form["targets"].value() or ()}
    return {str(one) for one in by_default}


def _options(found: choices.Choosable, ticked: set[str]) -> list[Option]:
    return [
        Option(
            id=row.target_id,
            name=row.target.name,
            region=row.target.region.name,
            state=row.state,
            label=words(row.state),
            error=row.error,
            is_checked=str(row.target_id) in ticked,
        )
        for row in found.rows
    ]
