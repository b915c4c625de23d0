"""`python -m portal.local.reaper DIR`: stops DIR/postgres and removes DIR as soon as standard input ends.

Whoever started that server holds the other end of the pipe. However it dies, by SIGKILL too, the kernel
closes the pipe, and nothing stays behind.
"""

import shutil
import sys
from pathlib import Path

from portal.local.postgres import EmbeddedPostgres


def main() -> None:
    directory = Path(sys.argv[1])
    sys.stdin.buffer.read()
    EmbeddedPostgres(directory / "postgres").stop()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
