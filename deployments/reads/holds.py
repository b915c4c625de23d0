"""Holds that are open, by release."""

from collections.abc import Collection
from uuid import UUID

from deployments.models import Hold


def of(releases: Collection[UUID]) -> dict[UUID, Hold]:
    """The open hold of each of these releases that is on hold; the caller may see the releases."""
    open_holds = Hold.objects.filter(release__in=list(releases), lifted_at__isnull=True)
    return {hold.release_id: hold for hold in open_holds}
