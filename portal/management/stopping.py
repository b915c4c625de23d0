"""SIGTERM and SIGINT as an event, for commands that run until they are told to stop."""

import signal
import threading


def stop_event() -> threading.Event:
    """An event that is set by SIGTERM or SIGINT. Call it in the main thread."""
    event = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: event.set())
    return event
