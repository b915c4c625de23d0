"""The agent's own log: text on a terminal, JSON lines elsewhere, with the ids of the task at hand."""

import contextvars
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

_fields: contextvars.ContextVar[dict[str, str]] = contextvars.ContextVar("log_fields")


@contextmanager
def fields(**values: str) -> Iterator[None]:
    """Every line logged inside carries these; empty values are left out."""
    token = _fields.set({**_fields.get({}), **{name: value for name, value in values.items() if value}})
    try:
        yield
    finally:
        _fields.reset(token)


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
            f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields.get({}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        context = "".join(f" {name}={value}" for name, value in _fields.get({}).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {record.getMessage()}{context}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def configure(*, json_lines: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if json_lines else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # Frames may carry what a service printed; the library logs them on DEBUG and failed handshakes on INFO.
    logging.getLogger("websockets").setLevel(logging.CRITICAL)
