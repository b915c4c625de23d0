"""Insert a row: its fields checked first, the database's constraint behind."""

from collections.abc import Sequence
from typing import TypeVar

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.db import models as db
from psycopg import errors as postgres

from deployments.errors import AlreadyExists, Invalid

M = TypeVar("M", bound=db.Model)
MAX_LIMIT = 10_000


def insert(row: M, *, exists: str) -> M:
    """Insert `row` and return it as the database has it.

    Raises Invalid naming the fields, or AlreadyExists with the sentence `exists` when a row with the
    same name got there first; the transaction around it stays usable.
    """
    check_fields(row)
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError as error:
        if isinstance(error.__cause__, postgres.UniqueViolation):
            raise AlreadyExists(exists) from None
        raise
    row.refresh_from_db(fields=["created_at"])
    return row


def check_fields(row: db.Model, names: Sequence[str] | None = None) -> None:
    """Check types, lengths and formats of all fields, or of `names`; raises Invalid naming each that fails.

    References are left out: a command looks them up through `access` and says more than "no such row".
    """
    skipped = {
        field.name
        for field in row._meta.concrete_fields
        if field.is_relation or (names is not None and field.name not in names) or _needs_no_check(row, field)
    }
    try:
        row.clean_fields(exclude=skipped)
    except ValidationError as error:
        raise Invalid(**{name: " ".join(texts) for name, texts in error.message_dict.items()}) from None
    for field in row._meta.concrete_fields:
        value = getattr(row, field.attname)
        if field.name not in skipped and isinstance(value, str) and "\0" in value:
            raise Invalid(**{field.name: "must not hold a NUL character"})


def check_limit(value: object) -> None:
    """Raise Invalid unless this is None or a count that lets something move."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_LIMIT:
        raise Invalid(
            max_active=f"must lie between 1 and {MAX_LIMIT}, or be null for no limit; with 0 nothing could "
            "ever move. To keep a release out, put it on hold."
        )


def _needs_no_check(row: db.Model, field: "db.Field[object, object]") -> bool:
    """Whether the database fills the field in, or it is JSON, which commands look into themselves."""
    value = getattr(row, field.attname)
    return isinstance(field, db.JSONField) or isinstance(value, db.expressions.DatabaseDefault)
