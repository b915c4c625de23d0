"""Fetch one artifact: streamed, resumed by Range, hashed on the way, checked before anybody uses it."""

import hashlib
import http.client
import logging
import os
import threading
import time
from pathlib import Path

from deployments import protocol
from deployments.agent import http as web
from deployments.agent import work
from deployments.agent.backoff import Backoff
from deployments.agent.errors import TaskFailure
from deployments.agent.identity import Identity
from deployments.agent.state import digest_hex

log = logging.getLogger("slipway.agent.download")

CHUNK = 256 * 1024
ATTEMPTS = 5
"""In a row that bring nothing new; a slow and broken line may take many more."""
DEADLINE_SECONDS = 900.0
_REFUSALS = {
    401: "the control plane did not accept the agent's signature; check the clock of the target",
    403: "the control plane does not let this agent have it",
    404: "the control plane does not have it",
    410: "the control plane has deleted it",
}


class _Sink:
    """The partial file and the digest of what is in it so far."""

    def __init__(self, partial: Path) -> None:
        self.descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._digest = hashlib.sha256()
        self.size = 0
        while data := os.read(self.descriptor, CHUNK):
            self._digest.update(data)
            self.size += len(data)

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self.descriptor, view) :]
        self._digest.update(data)
        self.size += len(data)

    def empty(self) -> None:
        os.ftruncate(self.descriptor, 0)
        self._digest = hashlib.sha256()
        self.size = 0

    def hex(self) -> str:
        return self._digest.hexdigest()


def download(identity: Identity, ref: protocol.ArtifactRef, partial: Path, given_up: threading.Event) -> None:
    """Bring the artifact to the file `partial`, whole and verified; stops when it is `given_up`.

    What an earlier attempt left there is continued, and left again where the line breaks for good. Raises
    TaskFailure (`digest_mismatch`, `size_mismatch`, `download_failed`) or OSError for the disk.
    """
    sink = _Sink(partial)
    try:
        _fill(identity, ref, sink, given_up)
        os.fsync(sink.descriptor)
    except TaskFailure as failure:
        if failure.code != "download_failed":
            partial.unlink(missing_ok=True)
        raise
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(sink.descriptor)


def _fill(identity: Identity, ref: protocol.ArtifactRef, sink: _Sink, given_up: threading.Event) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    backoff = Backoff(0.2, 8.0)
    stalls, from_before = 0, sink.size > 0
    reason = "nobody waits for it any more"
    while stalls < ATTEMPTS and time.monotonic() < deadline and not _is_over(given_up):
        before, reason = sink.size, "the answer ended early"
        try:
            if sink.size < ref.size_bytes:
                _fetch_rest(identity, ref, sink, deadline, given_up)
        except web.Unreachable as error:
            reason = str(error)
        if sink.size >= ref.size_bytes:
            if sink.size == ref.size_bytes and sink.hex() == digest_hex(ref.digest):
                return
            if not from_before:
                raise TaskFailure(
                    "digest_mismatch",
                    f"The artifact's bytes do not match its digest {ref.digest}. Do not deploy it; "
                    "check the artifact store and register the artifact again.",
                )
            from_before = (
                False  # what an earlier attempt left may be what was wrong: once more, from the start
            )
            sink.empty()
            continue
        stalls = stalls + 1 if sink.size <= before else 0
        delay = backoff.next()
        progress = f"{sink.size} of {ref.size_bytes} bytes"
        log.warning(
            "Artifact %s broke off at %s (%s); going on in %.1f s", ref.digest, progress, reason, delay
        )
        work.stopping.wait(delay)
    raise TaskFailure(
        "download_failed",
        f"The artifact {ref.digest} could not be fetched from the control plane ({reason}). "
        "Check the network between them, then try again.",
    )


def _is_over(given_up: threading.Event) -> bool:
    return given_up.is_set() or work.stopping.is_set()


def _fetch_rest(
    identity: Identity, ref: protocol.ArtifactRef, sink: _Sink, deadline: float, given_up: threading.Event
) -> None:
    """Append what is missing; raises web.Unreachable when the line breaks."""
    headers = {"Authorization": identity.authorization("GET", ref.path), "Accept-Encoding": "identity"}
    if sink.size:
        headers["Range"] = f"bytes={sink.size}-"
    with web.open_stream("GET", identity.server + ref.path, headers) as answer:
        if answer.status in _REFUSALS:
            raise TaskFailure(
                "download_failed", f"The artifact cannot be fetched: {_REFUSALS[answer.status]}."
            )
        if answer.status not in (200, 206):
            if answer.status == 416:
                sink.empty()
            raise web.Unreachable(f"the server answered {answer.status}")
        if answer.status == 200 and sink.size:
            sink.empty()  # it does not resume
        if answer.status == 206 and not answer.getheader("Content-Range", "").startswith(
            f"bytes {sink.size}-"
        ):
            sink.empty()
            raise web.Unreachable("the server answered another range than was asked for")
        length = answer.getheader("Content-Length", "")
        if length.isdigit() and sink.size + int(length) > ref.size_bytes:
            raise _larger(ref)
        while data := _read(answer):
            if sink.size + len(data) > ref.size_bytes:
                raise _larger(ref)
            sink.write(data)
            if _is_over(given_up) or time.monotonic() > deadline:
                raise web.Unreachable("it took too long")


def _read(answer: http.client.HTTPResponse) -> bytes:
    try:
        return answer.read1(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise web.Unreachable(f"the connection broke ({type(error).__name__})") from None


def _larger(ref: protocol.ArtifactRef) -> TaskFailure:
    return TaskFailure(
        "size_mismatch",
        f"The control plane sends more than the {ref.size_bytes} bytes that {ref.digest} should have. "
        "Register the artifact again.",
    )
