"""From an empty database to a full one, in one transaction: an interrupted seed leaves nothing behind."""

from collections.abc import Iterator

from django.db import connection, transaction

from deployments.models import Agent, Environment, Service, Team
from portal.accounts.models import User
from portal.local.seed import ids
from portal.local.seed.active import make_active
from portal.local.seed.catalog import make_catalog
from portal.local.seed.history import make_history
from portal.local.seed.size import Size

TABLES = {
    "services": "deployments_service",
    "targets": "deployments_target",
    "agents": "deployments_agent",
    "releases": "deployments_release",
    "rollouts": "deployments_rollout",
    "targets of rollouts": "deployments_rollouttarget",
    "plans": "deployments_plan",
    "events": "deployments_event",
    "audit entries": "audit_entry",
}


UNCOUNTED = ("deployments_artifact", "deployments_configsnapshot", "deployments_wave", "deployments_batch")


class NotEmpty(Exception):
    """The database holds something already."""


def make_all(size: Size) -> Iterator[str]:
    """Fill the database; yields what it does next. Raises NotEmpty, before anything is written."""
    _require_empty()
    with transaction.atomic(), connection.cursor() as cursor:
        # Nobody waits for this commit, and the checks of a million rows are not to pile up until then.
        cursor.execute("SET LOCAL synchronous_commit = off; SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("SET LOCAL work_mem = '256MB'; SET LOCAL jit = off")
        cursor.execute(ids.FUNCTIONS, ids.values(size))
        for part in (make_catalog, make_history, make_active):
            yield from part(size, cursor)
        yield "commit"
    if connection.in_atomic_block:
        return
    yield "statistics"
    with connection.cursor() as cursor:
        cursor.execute(f"VACUUM (ANALYZE) {', '.join([*TABLES.values(), *UNCOUNTED])}")


def count_rows() -> dict[str, int]:
    """Rows by what they are."""
    counts = {}
    with connection.cursor() as cursor:
        for name, table in TABLES.items():
            cursor.execute(f"SELECT count(*) FROM {table}")  # noqa: S608  # one of TABLES
            counts[name] = cursor.fetchone()[0]
    return counts


def _require_empty() -> None:
    for model in (Service, Team, Environment, Agent):
        if model.objects.exists():
            raise NotEmpty(
                f"The database holds {model._meta.verbose_name_plural} already, and seeded rows would mix "
                "with real ones. Create an empty database, name it in DATABASE_URL and run migrate."
            )
    if User.objects.filter(username__startswith="seeded-").exists():
        raise NotEmpty("The database has accounts of an earlier seed. Create an empty one.")
