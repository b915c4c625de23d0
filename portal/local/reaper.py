"""`python -m portal.local.reaper DIR [--remove]`: stops DIR/postgres as soon as standard input ends.

Whoever started that server holds the other end of the pipe. However it dies, by SIGKILL too, the kernel
closes the pipe, and no server stays behind. `--remove` removes DIR as well, for tests.
"""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from portal.env import CHECKOUT
from portal.local.postgres import EmbeddedPostgres


def start(directory: Path, *, remove: bool = False) -> "subprocess.Popen[bytes]":
    """A reaper for this process. Call `communicate()` on it to have it do its work now."""
    return subprocess.Popen(
        [sys.executable, "-m", "portal.local.reaper", str(directory), *(["--remove"] if remove else [])],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def main() -> None:
    directory = Path(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    EmbeddedPostgres(directory / "postgres").stop()
    if "--remove" in sys.argv:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
