"""Paths of the websockets."""

# Channels has no annotations.
# mypy: disable-error-code="no-untyped-call"

from channels.auth import AuthMiddlewareStack
from channels.routing import URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path, re_path

from portal.live.agents import AgentConsumer
from portal.live.browser import OverviewConsumer, RolloutConsumer, TargetConsumer, UnknownConsumer

browsers = URLRouter(
    [
        path("live/rollouts/<uuid:subject_id>/", RolloutConsumer.as_asgi()),
        path("live/targets/<uuid:subject_id>/", TargetConsumer.as_asgi()),
        path("live/overview/", OverviewConsumer.as_asgi()),
        re_path("", UnknownConsumer.as_asgi()),
    ]
)

# Agents are no browsers: they have no Origin and no session, and prove themselves by signature.
websockets = URLRouter(
    [
        path("agent/v1/ws", AgentConsumer.as_asgi()),
        re_path("", AllowedHostsOriginValidator(AuthMiddlewareStack(browsers))),
    ]
)
