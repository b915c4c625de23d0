"""Where `make up` keeps its things, which ports it takes, and what it has to remember between starts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from portal.env import CHECKOUT
from portal.local.files import write_private
from portal.local.ports import require_free

REGIONS = ("eu", "us", "ap")
TARGETS_PER_REGION = 4
TARGETS = len(REGIONS) * TARGETS_PER_REGION


class BadPort(Exception):
    """A port variable holds something else than a port."""


class StrangeDatabase(Exception):
    """The database holds a demo whose log-in is not remembered here."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Decided by the environment alone, before anything is started."""

    state_dir: Path
    port: int
    demo_port: int

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> "Layout":
        state_dir = environ.get("SLIPWAY_STATE_DIR", "").strip()
        return cls(
            state_dir=Path(state_dir).expanduser().absolute() if state_dir else CHECKOUT / ".slipway",
            port=_port(environ, "SLIPWAY_PORT", 8000, room=1),
            demo_port=_port(environ, "SLIPWAY_DEMO_PORT", 9100, room=TARGETS),
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log_dir(self) -> Path:
        return self.state_dir / "logs"

    def require_ports(self) -> None:
        """Raises PortInUse before anything was started."""
        require_free(self.port, variable="SLIPWAY_PORT", purpose="the portal")
        for port in self.target_ports():
            require_free(port, variable="SLIPWAY_DEMO_PORT", purpose="a copy of the sample service")

    def target_ports(self) -> range:
        """One port for each target of the sample service, region by region."""
        return range(self.demo_port, self.demo_port + TARGETS)


class Memory(msgspec.Struct, kw_only=True):
    """What the first start made up and later ones need: how to log in, and how far the demo came."""

    username: str
    password: str
    token: str
    demo_port: int
    demo_was_shown: bool = False

    @classmethod
    def load(cls, layout: Layout) -> "Memory | None":
        file = _memory_file(layout)
        return msgspec.json.decode(file.read_bytes(), type=cls) if file.exists() else None

    def save(self, layout: Layout) -> None:
        write_private(_memory_file(layout), msgspec.json.encode(self).decode())


def _memory_file(layout: Layout) -> Path:
    return layout.state_dir / "demo.json"


def _port(environ: Mapping[str, str], variable: str, default: int, room: int) -> int:
    text = environ.get(variable, "").strip() or str(default)
    if not text.isdecimal() or not 1024 <= int(text) <= 65_536 - room:
        raise BadPort(f"{variable} is {text!r}: set it to a port number from 1024 to {65_536 - room}.")
    return int(text)
