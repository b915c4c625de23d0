"""The service that faults are tried on: starts in milliseconds, and writes down that it did.

Standard library only; it is packed into an artifact and never imports Slipway. Each start appends one
line to `EFFECTS/starts`: time, target, release, token of the start, process id, and whether another
instance of the target still lived. The lock that tells goes with the process, however it ends. One whose port
is in use ends by itself, and says so in `EFFECTS/failed` with its token.
"""

import fcntl
import os
import socket
import time
from pathlib import Path


def main() -> None:
    effects, target = Path(os.environ["EFFECTS"]), os.environ["SLIPWAY_TARGET_ID"]
    lock = os.open(effects / f"{target}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = "alone"
    except OSError:
        alone = "doubled"
    names = ("SLIPWAY_TARGET_ID", "SLIPWAY_RELEASE_ID", "SLIPWAY_START_TOKEN")
    words = [str(time.time()), *(os.environ[name] for name in names), str(os.getpid()), alone]
    starts = os.open(effects / "starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(starts, (" ".join(words) + "\n").encode())
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("127.0.0.1", int(os.environ["PORT"])))
    except OSError:
        with (effects / "failed").open("a") as failed:
            failed.write(os.environ["SLIPWAY_START_TOKEN"] + "\n")
        raise
    serve(server, int(os.environ["HARNESS"]), broken=Path("BROKEN").exists())


def serve(server: socket.socket, harness: int, *, broken: bool) -> None:
    """Answer with the version, or, when broken, do not listen at all; end with the harness."""
    if not broken:
        server.listen(64)
        server.settimeout(1)
    while Path(f"/proc/{harness}").exists():
        if broken:
            time.sleep(1)
            continue
        try:
            customer, _ = server.accept()
        except TimeoutError:
            continue
        with customer:
            customer.settimeout(1)
            try:
                customer.sendall(os.environ["SLIPWAY_VERSION"].encode())
            except OSError:
                continue


if __name__ == "__main__":
    main()
