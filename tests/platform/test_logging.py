"""Logs are JSON, carry the request id, and hold no secret."""

import io
import json
import logging
import logging.config

import pytest
import structlog

from portal.env import LogFormat, LogLevel
from portal.logging import logging_config, redact_text


@pytest.fixture
def log():
    """Reads what was logged, as objects, from the real configuration."""
    stream = io.StringIO()
    config = logging_config(log_format=LogFormat.JSON, level=LogLevel.INFO)
    config["handlers"]["stderr"]["stream"] = stream
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.config.dictConfig(config)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_line_is_one_object_with_level_logger_and_time(log):
    structlog.get_logger("slipway.test").info("rollout started", rollout="r-1")
    (line,) = log()
    assert line["event"] == "rollout started"
    assert (line["rollout"], line["level"], line["logger"]) == ("r-1", "info", "slipway.test")
    assert line["at"].endswith("Z")


def test_the_standard_librarys_loggers_take_the_same_road(log):
    with structlog.contextvars.bound_contextvars(request_id="req-12345678"):
        logging.getLogger("django.request").warning("Not Found: %s", "/x", extra={"status_code": 404})
    (line,) = log()
    assert line["event"] == "Not Found: /x"
    assert (line["request_id"], line["status_code"]) == ("req-12345678", 404)


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "join_token",
        "password",
        "Authorization",
        "secret_id",
        "client_secret",
        "cookies",
        "database_url",
    ],
)
def test_values_of_secret_sounding_keys_are_cut_out(log, key):
    structlog.get_logger("t").info("called", **{key: "hunter2", "nested": {key: ["hunter2"]}})
    assert "hunter2" not in json.dumps(log())


@pytest.mark.parametrize("key", ["token_id", "secret_path", "password_changed_at"])
def test_what_only_speaks_about_a_secret_stays(log, key):
    structlog.get_logger("t").info("called", **{key: "seen"})
    assert log()[0][key] == "seen"


@pytest.mark.parametrize(
    "secret",
    [
        "slw_AbCdEf0123456789AbCdEf",
        "hvs.CAESIAbCdEf0123456789AbCdEf",
        "s.AbCdEf0123456789AbCdEf01",
        "Bearer abcdefgh12345678",
        "postgresql://slipway:hunter2hunter2@db:5432/slipway",
    ],
)
def test_what_looks_like_a_secret_is_cut_out_of_any_text(log, secret):
    logging.getLogger("t").error("upstream said: %s", secret)
    try:
        raise ValueError(f"bad credential {secret}")
    except ValueError:
        structlog.get_logger("t").exception("failed")
    written = json.dumps(log())
    assert secret not in written
    assert "hunter2" not in written
    assert "[redacted]" in written


def test_ordinary_text_is_left_alone():
    text = "Batch 1 of 4: 3 targets to go back to the last stable release: orders-eu-1 (https://x.example/a)"
    assert redact_text(text) == text


def test_a_terminal_gets_lines_for_people():
    config = logging_config(log_format=LogFormat.CONSOLE, level=LogLevel.INFO)
    renderer = config["formatters"]["structured"]["processors"][-1]
    assert isinstance(renderer, structlog.dev.ConsoleRenderer)
