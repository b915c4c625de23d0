"""The table says what was measured, and whether it is what was asked."""

from bench.figures import latency, percentile, ratio, table, tail, timed


def test_a_percentile_is_a_sample_that_so_many_do_not_exceed() -> None:
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([3, 1, 2], 0.5) == 2
    assert percentile([7], 0.99) == 7


def test_a_median_above_the_limit_is_missed() -> None:
    assert timed("x", [1, 2, 9], "s", most=2).met == "yes"
    assert timed("x", [1, 3, 9], "s", most=2).met == "no"
    assert timed("x", [1, 3, 9], "s").met == ""


def test_a_tail_is_judged_apart_from_the_median() -> None:
    median, tail = latency("x", [1] * 90 + [50] * 10, median_most=5, p99_most=25)
    assert (median.met, tail.met) == ("yes", "no")


def test_a_tail_stands_alone_with_its_median_beside_it() -> None:
    line = tail("x", [1] * 94 + [200] * 6, share=0.95, most=100)
    assert (line.what, line.median, line.met) == ("x, p95", "200 ms", "no")
    assert "median 1" in line.spread
    assert tail("x", [1] * 95 + [200] * 5, share=0.95, most=100).met == "yes"


def test_a_ratio_may_have_a_floor_or_a_ceiling() -> None:
    assert ratio("x", 19.9, least=20).met == "no"
    assert ratio("x", 1.2, most=1.3).met == "yes"
    assert ratio("x", 5).met == ""


def test_the_table_is_markdown() -> None:
    lines = table([("Section", [timed("what", [1.0], "s")])]).splitlines()
    assert lines[1].startswith("| ---")
    assert len({line.count("|") for line in lines}) == 1
