"""What agents write, made fit for a row: agents are not trusted to know the size of our columns."""

from uuid import UUID

MAX_LINES = 50
MAX_LINE = 500
SMALLINT_MAX = 2**15 - 1
BIGINT_MAX = 2**63 - 1


def column(text: str, length: int) -> str:
    """`text` cut to `length` characters, without NUL, which PostgreSQL does not store."""
    return text.replace("\0", "")[:length]


def tail(lines: tuple[str, ...]) -> list[str]:
    """The last lines, each cut."""
    return [column(line, MAX_LINE) for line in lines[-MAX_LINES:]]


def as_id(text: str) -> UUID | None:
    """`text` as an id of ours, or None where it is none."""
    try:
        return UUID(text)
    except ValueError:
        return None
