"""A client of the sample service that balances over all targets, and counts what it could not get done."""

import http.client
import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

WORKERS = 4
PAUSE_SECONDS = 0.005
TIMEOUT_SECONDS = 5.0


@dataclass
class Tally:
    requests: int = 0
    failures: int = 0
    retries: int = 0
    """Connections refused or closed before an answer began, done again at the next target."""
    versions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


class Load:
    """Use as a context: requests go out from enter to exit. Read `tally` at any time."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.tally = Tally()
        self._ports = ports
        self._turn = itertools.count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(WORKERS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self._request()
            time.sleep(PAUSE_SECONDS)

    def _request(self) -> None:
        """One request, tried on target after target while no byte of an answer came, as a balancer does."""
        reason = ""
        for attempt in range(len(self._ports)):
            port = self._ports[next(self._turn) % len(self._ports)]
            try:
                status, version = _get(port)
            except (ConnectionError, http.client.RemoteDisconnected) as error:
                reason = f"no target took it: {error}"
                continue
            except (OSError, http.client.HTTPException) as error:
                reason, status, version = repr(error), 0, ""
            if status != 200:
                reason = reason or f"status {status}"
                break
            self._count(attempt, version, "")
            return
        self._count(0, "", reason)

    def _count(self, retries: int, version: str, failure: str) -> None:
        with self._lock:
            self.tally.requests += 1
            self.tally.retries += retries
            if failure:
                self.tally.failures += 1
                self.tally.reasons[failure] += 1
            else:
                self.tally.versions[version] += 1


def _get(port: int) -> tuple[int, str]:
    """Status and version. Raises ConnectionError only where it is certain that no answer had begun."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/orders")
        response = connection.getresponse()
        try:
            body = response.read()
        except ConnectionError as error:
            raise http.client.IncompleteRead(b"") from error
        version = body.partition(b'"version": "')[2].partition(b'"')[0].decode()
        return response.status, version
    finally:
        connection.close()
