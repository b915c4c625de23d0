"""TCP ports of this machine: free ones to choose, taken ones to explain."""

import socket


class PortInUse(Exception):
    """Another program listens on the port."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now. A connection in TIME_WAIT does not count as taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def require_free(port: int, *, variable: str, purpose: str) -> None:
    """Raises PortInUse with a sentence that names the port and the variable that changes it."""
    if not is_free(port):
        raise PortInUse(
            f"Port {port}, wanted for {purpose}, is in use by another program. "
            f"Stop that program, or choose another port: {variable}={port + 1} make up"
        )
