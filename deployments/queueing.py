"""The only place that enqueues. A job is a wake-up: the truth is in the rows that it looks at.

Enqueue last in a transaction: the waiting job's row stays locked until the commit (see
`deployments.broker`), which is what keeps a wake-up from being lost.
"""

from uuid import UUID

from django_q.tasks import async_task

from deployments.broker import PostgresBroker


def tick(rollout_id: UUID) -> None:
    """Have the engine look at this rollout; one waiting wake-up is enough."""
    _enqueue("deployments.tasks.tick", f"tick:{rollout_id}", str(rollout_id))


def _enqueue(function: str, coalesce_key: str, *args: str) -> None:
    broker = PostgresBroker().with_options(coalesce_key=coalesce_key)
    async_task(function, *args, broker=broker)  # type: ignore[no-untyped-call]
