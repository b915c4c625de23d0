"""Jobs for the real worker of the queue's tests to run."""

import os
import time
from pathlib import Path


def append(file: str, text: str) -> None:
    """Add one line: when it ran (monotonic seconds), in which process, and `text`."""
    with Path(file).open("a") as lines:
        lines.write(f"{time.monotonic()} {os.getpid()} {text}\n")


def append_then_sleep(file: str, text: str, seconds: float) -> None:
    append(file, text)
    time.sleep(seconds)
