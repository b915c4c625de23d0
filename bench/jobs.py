"""Jobs for real workers to run."""

import os
import time


def note_start(file: str, enqueued_ns: int) -> None:
    """Append one line: nanoseconds from enqueueing to now. CLOCK_MONOTONIC is the same in all processes."""
    started_ns = time.monotonic_ns()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{started_ns - enqueued_ns}\n".encode())
    os.close(descriptor)
