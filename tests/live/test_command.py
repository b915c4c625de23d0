"""`manage.py web` serves as the tests' web processes do, which uvicorn's own command starts."""

import sys
from typing import Any

import pytest
import uvicorn
from click.testing import CliRunner
from django.core.management import call_command
from uvicorn.main import main

from deployments import protocol
from tests.live.web import ARGUMENTS


def test_the_command_serves_sockets_as_the_tests_do(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[dict[str, Any]] = []
    monkeypatch.setattr(uvicorn, "run", lambda _app, **options: served.append(options))
    monkeypatch.setattr(sys.modules["uvicorn.main"], "run", uvicorn.run)
    call_command("web")
    CliRunner().invoke(main, ["portal.asgi:application", *ARGUMENTS], catch_exceptions=False)
    command, test_server = served
    for option in ("ws", "ws_per_message_deflate", "ws_max_size", "timeout_graceful_shutdown"):
        assert command[option] == test_server[option]
    # One that is too large for the protocol is still answered, see test_agents.
    assert command["ws_max_size"] == 2 * protocol.MAX_FRAME_BYTES
