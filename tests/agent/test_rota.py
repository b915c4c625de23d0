"""When trees are looked at: a large one rests for long, and keeps no other waiting."""

from deployments.agent.rota import REST, Rota

EVERY = 10.0


def test_a_large_tree_does_not_keep_a_small_one_waiting() -> None:
    rota = Rota()
    assert rota.due(["large", "small"], 0.0) == ["large", "small"]
    rota.looked("large", 2.0, 2.0, EVERY)
    rota.looked("small", 2.1, 0.1, EVERY)
    assert rota.seconds(2.1, EVERY) == EVERY - 0.1
    assert rota.due(["large", "small"], 12.0) == ["small"]
    rota.looked("small", 12.1, 0.1, EVERY)
    assert rota.due(["large", "small"], 2.0 + 2.0 * REST) == ["large", "small"], "it had its rest"


def test_what_comes_is_looked_at_and_what_goes_is_not_waited_for() -> None:
    rota = Rota()
    rota.due(["old"], 0.0)
    rota.looked("old", 1.0, 1.0, EVERY)
    assert rota.due(["new"], 5.0) == ["new"]
    rota.looked("new", 5.0, 0.0, EVERY)
    assert rota.seconds(5.0, EVERY) == EVERY
    assert rota.due(["old", "new"], 5.0) == ["old"], "it is new again"


def test_all_are_looked_at_when_somebody_waits_for_it() -> None:
    rota = Rota()
    rota.due(["large"], 0.0)
    rota.looked("large", 5.0, 5.0, EVERY)
    assert rota.due(["large"], 6.0) == []
    rota.all_at_once()
    assert rota.due(["large"], 6.0) == ["large"]


def test_nothing_to_look_at_is_no_reason_to_hurry() -> None:
    assert Rota().seconds(3.0, EVERY) == EVERY
