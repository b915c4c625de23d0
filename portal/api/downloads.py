"""An artifact's bytes as an answer: chunk by chunk, whole or one range of it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

from django.core.files import File
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from deployments.artifacts import ranges, store
from deployments.errors import NotFound, RangeNotSatisfiable
from deployments.models import Artifact
from portal.api.problems import problem

CHUNK_BYTES = 256 * 1024


class Chunks:
    """Reads `length` bytes from where `file` stands, for either kind of server.

    Django would gather a plain iterator in memory under ASGI, all of it, and an asynchronous one under WSGI.
    """

    def __init__(self, file: File, length: int) -> None:
        self._file = file
        self._left = length

    def _next(self) -> bytes:
        data: bytes = self._file.read(min(CHUNK_BYTES, self._left))
        self._left -= len(data)
        return data

    def __iter__(self) -> Iterator[bytes]:
        while data := self._next():
            yield data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await asyncio.to_thread(self._next):
            yield data

    def close(self) -> None:
        self._file.close()


class StreamedFile(StreamingHttpResponse):
    """Closes its file when it has been sent, or the client has gone."""

    def __init__(self, chunks: Chunks, **kwargs: Any) -> None:
        super().__init__(chunks, **kwargs)
        self._chunks = chunks

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._chunks.__aiter__()


def artifact_response(request: HttpRequest, artifact: Artifact) -> HttpResponseBase:
    """200, 206, 304 or 416, by Range, If-Range and If-None-Match; the ETag is the digest."""
    etag = f'"{artifact.digest}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        # Named by digest: what a private cache holds under this address can never be stale.
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f'attachment; filename="{artifact.digest.replace(":", "-")}"',
        "X-Content-Type-Options": "nosniff",
    }
    if etag in (tag.strip() for tag in request.headers.get("If-None-Match", "").split(",")):
        return HttpResponse(status=304, headers=headers)
    try:
        span = _span(request, etag, artifact.size_bytes)
    except RangeNotSatisfiable as error:
        refused = problem(error)
        refused["Content-Range"] = f"bytes */{artifact.size_bytes}"
        return refused
    part = span or ranges.Span(0, artifact.size_bytes)
    headers["Content-Length"] = str(part.length)
    if span is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{artifact.size_bytes}"
    return StreamedFile(
        _open(artifact, part),
        status=206 if span is not None else 200,
        content_type=artifact.media_type,
        headers=headers,
    )


def _span(request: HttpRequest, etag: str, size: int) -> ranges.Span | None:
    header = request.headers.get("Range", "")
    if not header or request.headers.get("If-Range", etag) != etag:
        return None
    return ranges.parse(header, size)


def _open(artifact: Artifact, part: ranges.Span) -> Chunks:
    file = store.open_artifact(artifact.digest)
    try:
        if file.size != artifact.size_bytes:
            raise NotFound
        file.seek(part.start)
    except BaseException:
        file.close()
        raise
    return Chunks(file, part.length)
