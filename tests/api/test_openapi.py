import re

import jsonschema
import pytest
from django.test import Client
from django.urls import get_resolver

from portal.api.problems import kinds


@pytest.fixture
def document(db):
    answer = Client().get("/api/v1/openapi.json")
    assert answer.status_code == 200
    return answer.json()


METHODS = {"get", "post", "patch", "delete", "put"}


def routes() -> dict[str, set[str]]:
    """Path -> methods, as Django answers them."""
    found: dict[str, set[str]] = {}
    for pattern in get_resolver("portal.api.urls").url_patterns:
        view = pattern.callback.view_class
        if getattr(view, "schema", None) is None or view.__module__ == "portal.api.openapi":
            continue
        path = "/api/v1/" + spoken(str(pattern.pattern))
        found[path] = {m for m in METHODS & set(view.http_method_names) if hasattr(view, m)}
    return found


def spoken(pattern: str) -> str:
    text = re.sub("<(uuid|int):id>", "{id}", pattern).removeprefix("^").removesuffix("$")
    return text.replace(r"(?P<digest>sha256:[0-9a-f]{64})", "{digest}")


def test_it_is_openapi_3_1(document):
    assert document["openapi"].startswith("3.1")
    jsonschema.validate(document, SHAPE)
    for name, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert not name.endswith(("In", "Out", "InRequest")), name


def test_it_covers_every_route_and_nothing_else(document):
    described = {path: set(methods) for path, methods in document["paths"].items()}
    assert described == routes()


def test_every_reference_leads_somewhere(document):
    def references(node):
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for inner in node.values():
                yield from references(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from references(inner)

    found = set(references(document))
    assert found
    for reference in found:
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_operations_have_names_of_their_own(document):
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names))


def test_every_operation_says_how_it_fails_and_who_may_ask(document):
    for path, method, operation in operations(document):
        assert "application/problem+json" in operation["responses"]["default"]["content"], (path, method)
        assert operation["security"] == [{"apiToken": []}, {"session": []}], (path, method)


def test_every_post_takes_an_idempotency_key(document):
    for path, method, operation in operations(document):
        names = [parameter["name"] for parameter in operation.get("parameters", ())]
        assert ("Idempotency-Key" in names) == (method == "post"), (path, method)
        assert len(names) == len(set(names))


def test_every_body_has_an_example(document):
    for path, method, operation in operations(document):
        content = operation.get("requestBody", {}).get("content", {})
        if method == "post" and "application/json" in content and "reason" not in str(content):
            assert content["application/json"].get("examples") or "Reason" in str(content), path


def test_every_problem_is_listed_and_has_a_page(document, client):
    listed = document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert listed == [f"/problems/{code}" for code in kinds()]
    for path in listed:
        page = client.get(path)
        assert page.status_code == 200
        assert path.rpartition("/")[2] in page.content.decode()
    assert client.get("/problems/").status_code == 200
    assert client.get("/problems/no-such").status_code == 404


def test_the_page_that_shows_it_keeps_the_content_security_policy(client, db):
    page = client.get("/api/v1/docs")
    assert page.status_code == 200
    policy = page.headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy + ";"
    assert "<script>" not in page.content.decode()
    assert "unsafe-inline" not in client.get("/problems/").headers["Content-Security-Policy"]
    script = client.get("/api/v1/docs?script=")
    assert script.headers["Content-Type"].startswith("application/javascript")


SHAPE = {
    "type": "object",
    "required": ["openapi", "info", "paths", "components"],
    "properties": {
        "info": {"type": "object", "required": ["title", "version"]},
        "paths": {
            "type": "object",
            "propertyNames": {"pattern": "^/"},
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["operationId", "responses"],
                    "properties": {
                        "responses": {
                            "type": "object",
                            "minProperties": 1,
                            "propertyNames": {"pattern": r"^(default|[1-5](\d\d|XX))$"},
                            "additionalProperties": {"type": "object", "required": ["description"]},
                        },
                        "parameters": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "required": ["name", "in"],
                                "properties": {"in": {"enum": ["query", "header", "path", "cookie"]}},
                            },
                        },
                        "requestBody": {"type": "object", "required": ["content"]},
                    },
                },
            },
        },
        "components": {
            "type": "object",
            "required": ["schemas", "securitySchemes"],
            "propertyNames": {
                "enum": ["schemas", "securitySchemes", "parameters", "responses", "examples", "headers"]
            },
        },
    },
}
"""What OpenAPI 3.1 demands of the parts that the document uses."""
