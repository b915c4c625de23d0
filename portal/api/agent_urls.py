"""Addresses that agents know."""

from django.urls import path, re_path

from portal.api import agent_endpoints
from portal.api.urls import DIGEST

urlpatterns = [
    path("enrol", agent_endpoints.enrol),
    re_path(rf"^artifacts/{DIGEST}$", agent_endpoints.artifact, name="agent-artifact"),
    path("tasks/<uuid:task_id>/secrets", agent_endpoints.secrets),
    path("agent.pyz", agent_endpoints.program, name="agent-program"),
]
