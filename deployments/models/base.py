"""What all rows share: a UUIDv7 as primary key and public id, so that ids sort by time."""

from uuid import UUID

import uuid_utils.compat
from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Now


def new_id() -> UUID:
    """Return a UUIDv7 (RFC 9562)."""
    return uuid_utils.compat.uuid7()


SLUG = RegexValidator(
    r"^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$",
    "Use 1 to 63 lower-case letters, digits and hyphens; begin and end with a letter or digit.",
)


class Row(models.Model):
    id = models.UUIDField(primary_key=True, default=new_id, editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        abstract = True


def slug_field(**kwargs: object) -> models.CharField:
    return models.CharField(max_length=63, validators=[SLUG], **kwargs)  # type: ignore[arg-type]
