"""Every answer names its request; a caller's own name is taken where it is sane."""

import pytest
import structlog
from django.http import HttpResponse
from django.test import RequestFactory

from portal.middleware import request_id_middleware


def ask(**headers: str):
    seen = {}

    def view(request):
        seen["bound"] = structlog.contextvars.get_contextvars()["request_id"]
        seen["on_request"] = request.request_id
        return HttpResponse()

    response = request_id_middleware(view)(RequestFactory().get("/", headers=headers))
    assert seen["bound"] == seen["on_request"] == response["X-Request-ID"]
    return response["X-Request-ID"]


def test_each_request_gets_a_name_of_its_own():
    assert ask() != ask()


def test_a_callers_name_is_kept():
    assert ask(x_request_id="ci-build-4711") == "ci-build-4711"


@pytest.mark.parametrize("bad", ["short", "with space in it", "x" * 129, 'quote"quote"quote'])
def test_a_name_that_could_do_harm_is_replaced(bad):
    assert ask(x_request_id=bad) != bad


def test_the_name_does_not_outlive_the_request():
    ask()
    assert "request_id" not in structlog.contextvars.get_contextvars()


async def test_it_works_for_async_views():
    async def view(request):
        return HttpResponse(request.request_id)

    response = await request_id_middleware(view)(RequestFactory().get("/"))
    assert response["X-Request-ID"] == response.content.decode()
