"""ETag, If-Match and If-None-Match for what carries a number that grows with each change."""

import re

from rest_framework.request import Request
from rest_framework.response import Response

from deployments.errors import StaleVersion

NUMBER = re.compile(r'"(\d{1,9})"')


def if_version(request: Request) -> int | None:
    """The version that If-Match names; None where anything goes.

    Raises StaleVersion for a tag that was never ours: it cannot match.
    """
    header = request.headers.get("If-Match", "").strip()
    if header in ("", "*"):
        return None
    match = NUMBER.fullmatch(header)
    if match is None:
        raise StaleVersion(
            f'If-Match is {header[:100]}, and the object has an ETag like "12". Read it again.'
        )
    return int(match[1])


def unless_known(request: Request, response: Response) -> Response:
    """304 instead of the body where If-None-Match names the answer's ETag."""
    known = request.headers.get("If-None-Match", "")
    etag = response.get("ETag", "")
    if etag and etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status=304, headers={"ETag": etag})
    return response
