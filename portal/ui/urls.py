"""Addresses of the pages: nouns, names where people know them by name, ids where they do not."""

from django.urls import path

from portal.ui import (
    account,
    agents,
    audit,
    deploy,
    environments,
    faults,
    holds,
    overview,
    queue,
    releases,
    rollouts,
    services,
    steering,
    targets,
)

urlpatterns = [
    path("", overview.show, name="overview"),
    path("login/", account.log_in, name="login"),
    path("logout/", account.log_out, name="logout"),
    path("theme/", account.set_theme, name="theme"),
    path("services/<slug:name>/", services.show, name="service"),
    path("services/<slug:name>/deploy/", deploy.deploy, name="deploy"),
    path("releases/<uuid:release_id>/", releases.show, name="release"),
    path("releases/<uuid:release_id>/hold/", holds.place, name="hold-release"),
    path("releases/<uuid:release_id>/lift/", holds.lift, name="lift-hold"),
    path("queue/", queue.show, name="queue"),
    path("rollouts/", rollouts.index, name="rollouts"),
    path("rollouts/<uuid:rollout_id>/", rollouts.show, name="rollout"),
    path("rollouts/<uuid:rollout_id>/status/", rollouts.status, name="rollout-status"),
    path("rollouts/<uuid:rollout_id>/failures/", rollouts.failures, name="rollout-failures"),
    path("rollouts/<uuid:rollout_id>/events/", rollouts.events, name="rollout-events"),
    path("rollouts/<uuid:rollout_id>/<slug:action>/", steering.steer, name="steer"),
    path("rollouts/<uuid:rollout_id>/<slug:action>/choice/", steering.choice, name="steer-choice"),
    path("targets/<uuid:target_id>/", targets.show, name="target"),
    path("targets/<uuid:target_id>/drift/", targets.drift_note, name="target-drift"),
    path("targets/<uuid:target_id>/log/", targets.log, name="target-log"),
    path("environments/", environments.index, name="environments"),
    path("environments/<slug:name>/", environments.show, name="environment"),
    path("agents/", agents.index, name="agents"),
    path("audit/", audit.index, name="audit"),
    path("faults/", faults.index, name="faults"),
    path("faults/<int:fault_id>/release/", faults.release, name="release-fault"),
]
