"""Slipway's settings with django-q2's own ORM broker, as its documentation sets it up: the thing to beat."""

from portal.settings import *  # noqa: F403
from portal.settings import Q_CLUSTER as SLIPWAY_CLUSTER

Q_CLUSTER = {key: value for key, value in SLIPWAY_CLUSTER.items() if key != "broker_class"} | {
    "orm": "default"
}
