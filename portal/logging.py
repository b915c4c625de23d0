"""Structured logs: one JSON object a line, or colours on a terminal. Secrets are cut out on the way.

Both `structlog` and the standard library's loggers (Django, django-q2, uvicorn) end in the same chain,
so every line carries the request id and passes the same redaction.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from portal.env import LogFormat, LogLevel

REDACTED = "[redacted]"

# The last word of a key decides: `token` and `agent_token` hide their value, `token_id` does not.
SECRET_KEY = re.compile(
    r"(token|secret|secret_id|password|passphrase|authorization|cookie|credential"
    r"|private_key|signing_key|secret_key|api_key|database_url)s?$",
    re.IGNORECASE,
)
# What gives itself away wherever it stands: our tokens, Vault's, bearer headers, passwords in URLs.
SECRET_VALUES = (
    (re.compile(r"\bslw_[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}"), REDACTED),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {REDACTED}"),
    (re.compile(r"(\w+://[^/\s:@]*):[^@\s/]+@"), rf"\1:{REDACTED}@"),
)
DEEPEST = 6


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """structlog processor: hide the values of secret-sounding keys and of secret-looking strings."""
    return {key: _redacted(key, value, 0) for key, value in event_dict.items()}


def redact_text(text: str) -> str:
    """`text` without what looks like a secret. For text that leaves by another road than the log."""
    for pattern, replacement in SECRET_VALUES:
        text = pattern.sub(replacement, text)
    return text


def _redacted(key: object, value: Any, depth: int) -> Any:
    if isinstance(key, str) and SECRET_KEY.search(key) and value not in (None, "", True, False):
        return REDACTED
    if isinstance(value, str):
        return redact_text(value)
    if depth >= DEEPEST:
        return value
    if isinstance(value, Mapping):
        return {inner: _redacted(inner, item, depth + 1) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(None, item, depth + 1) for item in value]
    return value


def _shared_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.UnicodeDecoder(),
    ]


def configure_structlog() -> None:
    """Send `structlog.get_logger()` into the standard library's loggers, where the level is decided."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared_processors(),
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logging_config(*, log_format: LogFormat, level: LogLevel) -> dict[str, Any]:
    """Django's LOGGING: one handler on standard error, for everything."""
    console = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and sys.stderr.isatty())
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structured": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": [
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    structlog.processors.format_exc_info,
                    redact,
                    _renderer(console=console),
                ],
                "foreign_pre_chain": _shared_processors(),
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structured"}},
        "root": {"handlers": ["stderr"], "level": level.value},
        "loggers": {
            # Django's own handlers would print a second, unredacted copy.
            "django": {"handlers": [], "level": level.value, "propagate": True},
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
            # Several lines a job: with a tick every few milliseconds they are noise.
            "django-q": {"level": max(logging.WARNING, logging.getLevelName(level.value))},
            "httpx": {"level": "WARNING"},
            # A line or two for each socket that opens or closes, and there are thousands.
            "uvicorn.error": {"level": "WARNING"},
            "uvicorn.access": {"level": "WARNING"},
        },
    }


def _renderer(*, console: bool) -> Processor:
    if console:
        return structlog.dev.ConsoleRenderer(
            timestamp_key="at", exception_formatter=structlog.dev.plain_traceback
        )
    return structlog.processors.JSONRenderer(default=str)
