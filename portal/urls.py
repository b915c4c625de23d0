"""The house's addresses: what programs say, what agents say, what people see."""

from django.urls import include, path

from portal.api import problems

urlpatterns = [
    path("api/v1/", include("portal.api.urls")),
    path("agent/v1/", include("portal.api.agent_urls")),
    path("problems/", problems.index, name="problems"),
    path("problems/<slug:code>", problems.page, name="problem"),
    path("", include("portal.ui.urls")),
]
