"""The one place where a page meets a domain error, and where it asks who is there.

Not visible and not existing give the same page; what is visible but refused says the verb, the scope
and who can grant it. A command that is refused sends its form back with the reason (see `say`).
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from deployments.domain.actor import Actor
from deployments.errors import NotAllowed, NotFound, SlipwayError
from portal.accounts.actors import actor_of_request

P = ParamSpec("P")

PageView = Callable[Concatenate[HttpRequest, Actor, P], HttpResponse]


def page(view: PageView[P]) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """Give `view` the actor; anonymous people log in first, domain errors become pages."""

    @wraps(view)
    def wrapper(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            return _to_login(request)
        try:
            response = view(request, actor_of_request(request), *args, **kwargs)
        except SlipwayError as error:
            response = error_page(request, error)
        # What a page shows depends on who asks: no shared cache, and no page from before a log-out.
        response.headers.setdefault("Cache-Control", "private, no-store")
        return response

    return wrapper


def error_page(request: HttpRequest, error: SlipwayError) -> HttpResponse:
    if isinstance(error, NotFound):
        return render(request, "404.html", status=404)
    template = "403.html" if isinstance(error, NotAllowed) else "ui/refused.html"
    return render(request, template, {"message": error.message}, status=error.status)


def say(error: SlipwayError) -> dict[str, Any]:
    """Context of a form that was refused: shown above it, with what the person had typed."""
    return {"refusal": error.message}


def _to_login(request: HttpRequest) -> HttpResponse:
    path = request.get_full_path()
    if getattr(request, "htmx", False):
        # A fragment cannot show the log-in: send the whole window there, and back to the page after it.
        current = request.htmx.current_url_abs_path or "/"  # type: ignore[attr-defined]
        answer = HttpResponse(status=204)
        answer.headers["HX-Redirect"] = redirect_to_login(current).headers["Location"]
        return answer
    return redirect_to_login(path)
