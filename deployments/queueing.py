"""The only place that enqueues. A job is a wake-up: the truth is in the rows that it looks at.

Enqueue last in a transaction: the waiting job's row stays locked until the commit (see
`deployments.broker`), which is what keeps a wake-up from being lost.
"""

from uuid import UUID

from django_q.tasks import async_task

from deployments.broker import PostgresBroker

TICK = "deployments.tasks.tick"


def tick(rollout_id: UUID, *, delay_seconds: float = 0.0) -> None:
    """Have the engine look at this rollout, now or later; one waiting wake-up is enough, the earliest."""
    call(TICK, str(rollout_id), delay_seconds=delay_seconds)


def call(function: str, subject: str, *, delay_seconds: float = 0.0) -> None:
    """Have a worker call `function` with `subject`; one waiting call is enough."""
    key = f"{function.rpartition('.')[2]}:{subject}"
    broker = PostgresBroker().with_options(coalesce_key=key, delay_seconds=delay_seconds)
    async_task(function, subject, broker=broker)  # type: ignore[no-untyped-call]
