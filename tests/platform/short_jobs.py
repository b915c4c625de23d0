"""Settings of a worker whose jobs may take a second.

What does not end by itself then is stopped after four, as after 23 in production, and handed out again
after nine, as after 30 in production.
"""

from portal.settings import *  # noqa: F403
from portal.settings import Q_CLUSTER

Q_CLUSTER = Q_CLUSTER | {"timeout": 1, "retry": 9}
