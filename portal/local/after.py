"""`python -m portal.local.after PORT COMMAND..`: becomes COMMAND as soon as the port answers.

An agent that dials before the portal listens backs off, and comes seconds later than it could.
"""

import os
import socket
import sys
import time

LOOK_SECONDS = 0.05


def main() -> None:
    port, command = int(sys.argv[1]), sys.argv[2:]
    while not answers(port):
        time.sleep(LOOK_SECONDS)
    os.execv(command[0], command)  # noqa: S606  the command line is ours, see `processes`


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


if __name__ == "__main__":
    main()
