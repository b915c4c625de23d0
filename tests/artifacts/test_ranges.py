import pytest

from deployments.artifacts.ranges import Span, parse
from deployments.errors import RangeNotSatisfiable


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-9", Span(0, 10)),
        ("bytes=10-", Span(10, 100)),
        ("bytes=99-99", Span(99, 100)),
        ("bytes=-10", Span(90, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("bytes=90-1000", Span(90, 100)),
        ("Bytes = 0-0", Span(0, 1)),
    ],
)
def test_one_range_is_cut_out(header, span):
    assert parse(header, 100) == span


@pytest.mark.parametrize(
    "header", ["", "bytes=", "bytes=-", "bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "0-1"]
)
def test_what_is_not_one_range_gets_everything(header):
    assert parse(header, 100) is None


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_a_range_outside_is_refused_with_the_size(header):
    with pytest.raises(RangeNotSatisfiable) as refused:
        parse(header, 100)
    assert refused.value.extra == {"size": 100}
