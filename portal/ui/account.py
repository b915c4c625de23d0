"""Log in, log out, and how the pages look."""

from typing import Any

from django.contrib.auth.views import LoginView, LogoutView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

THEME_COOKIE = "slipway_theme"
THEMES = ("system", "light", "dark")
A_YEAR_SECONDS = 365 * 24 * 3600


class LogIn(LoginView):
    template_name = "ui/login.html"
    redirect_authenticated_user = True

    def form_invalid(self, form: Any) -> HttpResponse:
        """A refused log-in is not a success: 401 tells programs and password managers so."""
        return self.render_to_response(self.get_context_data(form=form), status=401)


log_in = LogIn.as_view()
log_out = LogoutView.as_view()


@require_POST
def set_theme(request: HttpRequest) -> HttpResponse:
    """Remember the theme in a cookie, so that the server renders it and nothing flashes."""
    theme = request.POST.get("theme", "")
    back = request.POST.get("next", "")
    if not url_has_allowed_host_and_scheme(back, allowed_hosts={request.get_host()}):
        back = "/"
    response = redirect(back)
    if theme in THEMES:
        response.set_cookie(
            THEME_COOKIE, theme, max_age=A_YEAR_SECONDS, samesite="Lax", secure=request.is_secure()
        )
    return response
