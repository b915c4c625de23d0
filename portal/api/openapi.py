"""The OpenAPI document, and the page that shows it."""

from typing import Any

from csp.decorators import csp_update
from django.utils.decorators import method_decorator
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from portal.api import problems
from portal.api.idempotency import HEADER

PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "Stable; the address of a page that says what it means.",
            "enum": [f"/problems/{code}" for code in problems.kinds()],
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What is wrong here, and what to do."},
        "errors": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "What is wrong, by field.",
        },
    },
    "example": {
        "type": "/problems/rollout-active",
        "title": "A rollout of this service to this environment is active",
        "status": 409,
        "detail": "A rollout of this service to this environment is active. "
        "Wait for it, cancel it or roll it back.",
    },
}
IDEMPOTENCY_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "description": "Repeating the request with the same key, within a day, gives the first answer again "
    "(with `Idempotency-Replayed: true`) and does nothing. A key goes with one request: another one under "
    "it is refused. An answer that refused is not kept.",
    "example": "5f2b0c8e-4f3d-4f0e-9c55-0b3c8d1d2c11",
}
IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "ETag of what you read. Where it changed since, the answer is 412 `stale-version`.",
    "example": '"12"',
}
VERSIONED = ("/pause", "/resume", "/cancel", "/rollback", "/retry", "/skip")
VERSIONED_ROWS = ("/services/{id}", "/environments/{id}")


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "portal.api.authentication.TokenAuthentication"
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "http", "scheme": "bearer", "description": "An API token, `slw_...`."}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "portal.api.authentication.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": "slipway_session",
            "description": "The session of the pages; what is not a GET carries X-CSRFToken too.",
        }


def complete(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """Say once what holds for every operation: how it fails, how it is repeated, what it may insist on."""
    result["components"]["schemas"]["Problem"] = PROBLEM
    answer = {
        "description": "Refused: what is wrong, and what to do.",
        "content": {problems.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path, methods in result["paths"].items():
        for method, operation in methods.items():
            operation["responses"]["default"] = answer
            parameters = operation.setdefault("parameters", [])
            if method == "post":
                parameters.append(IDEMPOTENCY_KEY)
            if path.endswith(VERSIONED) or (method == "patch" and path.endswith(VERSIONED_ROWS)):
                parameters.append(IF_MATCH)
    return result


SETTINGS = {
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "portal.api.openapi.complete",
    ],
    "SCHEMA_PATH_PREFIX": r"/api/v1",
    "SERVERS": [{"url": "/", "description": "This Slipway"}],
}


class Document(SpectacularJSONAPIView):
    """The OpenAPI 3.1 document. Whoever can reach Slipway may read it: it holds no data."""

    custom_settings = SETTINGS
    authentication_classes = ()
    permission_classes = ()


# Swagger UI sets styles from its script.
@method_decorator(csp_update({"style-src": ["'unsafe-inline'"]}), name="dispatch")
class Pages(SpectacularSwaggerSplitView):
    url_name = "openapi"
    authentication_classes = ()
    permission_classes = ()
