"""`python -m portal.local.reset`: forget the demo's data. A running `make up` is told to stop first."""

import fcntl
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from portal.local.layout import Layout
from portal.local.postgres import EmbeddedPostgres

STOP_SECONDS = 30.0


def main() -> int:
    layout = Layout.read()
    # Only what `make up` made is removed, whatever the variable says.
    if not (layout.state_dir / "secret-key").exists():
        return 0
    if not stop_running(layout.state_dir):
        print(f"The running `make up` did not stop within {STOP_SECONDS:.0f} s: stop it with Ctrl-C.")
        return 1
    # What a killed `make up` may have left.
    EmbeddedPostgres(layout.state_dir / "postgres").stop()
    shutil.rmtree(layout.state_dir)
    print("The demo's data is gone.")
    if os.environ.get("DATABASE_URL") or os.environ.get("DATABASE_URL_FILE"):
        print("The database that DATABASE_URL names is not ours to empty: do that yourself.")
    return 0


def stop_running(state_dir: Path) -> bool:
    """Whether no `make up` runs on the directory, after asking the one that does to stop."""
    file = state_dir / "lock"
    if not file.exists():
        return True
    until = time.monotonic() + STOP_SECONDS
    asked = False
    with file.open("r+") as lock:
        while time.monotonic() < until:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError:
                text = file.read_text().strip()
                if not asked and text.isdecimal():
                    os.kill(int(text), signal.SIGTERM)
                    asked = True
                time.sleep(0.1)
    return False


if __name__ == "__main__":
    sys.exit(main())
