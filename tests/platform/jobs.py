"""Jobs for the real worker of the queue's tests to run."""

import os
import signal
import time
from pathlib import Path


def append(file: str, text: str) -> None:
    """Add one line: when it ran (monotonic seconds), in which process, and `text`."""
    with Path(file).open("a") as lines:
        lines.write(f"{time.monotonic()} {os.getpid()} {text}\n")


def append_then_sleep(file: str, text: str, seconds: float) -> None:
    append(file, text)
    time.sleep(seconds)


def append_then_hang(file: str, text: str, seconds: float) -> None:
    """Deaf to the alarm that ends a job after its time, as a call into C may be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    append_then_sleep(file, text, seconds)


def append_then_die(file: str, text: str) -> None:
    append(file, text)
    os.kill(os.getpid(), signal.SIGKILL)
