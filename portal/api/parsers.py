"""Request bodies: bounded before they are read, and free of what PostgreSQL cannot keep."""

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.http import HttpRequest
from rest_framework.exceptions import ParseError
from rest_framework.parsers import BaseParser

from deployments.errors import TooLarge
from portal.api.problems import LengthRequired, Malformed

MAX_BODY_BYTES = 1024 * 1024


class JSONParser(BaseParser):
    media_type = "application/json"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        try:
            return read_json(stream.read(MAX_BODY_BYTES + 1))
        except Malformed as error:
            raise ParseError(error.message) from None


def check_length(request: HttpRequest, limit: int = MAX_BODY_BYTES) -> None:
    """Refuse a body that is too large, or of unknown length, before a byte of it is read into memory."""
    length = request.META.get("CONTENT_LENGTH") or ""
    if not length and request.headers.get("Transfer-Encoding"):
        raise LengthRequired
    if length.isdecimal() and int(length) > limit:
        raise TooLarge(f"The request's body has {length} bytes; the limit is {limit}.")


def read_json(raw: bytes) -> Any:
    """Decode JSON; raises Malformed for what is none, or holds NUL, lone surrogates, NaN or double keys."""
    try:
        value = json.loads(raw, parse_constant=_refuse_constant, object_pairs_hook=_unique)
        text = json.dumps(value, ensure_ascii=False)
        text.encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Malformed(f"The body is not JSON that can be used: {reason}") from None
    if "\\u0000" in text.replace("\\\\", ""):
        raise Malformed("The body holds a NUL character, which cannot be kept. Leave it out.")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found
