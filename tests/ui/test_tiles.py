"""Tiles are written without a template: what people and agents wrote must not become markup."""

import uuid

from deployments.models import Release, Rollout
from deployments.reads.rollouts import TargetProgress
from deployments.reads.targets import TargetNow
from portal.ui.tiles import target_tiles, tiles

NASTY = "<script>\"'&"
ESCAPED = "&lt;script&gt;&quot;&#x27;&amp;"


def progress(**fields: object) -> TargetProgress:
    values = {
        "id": uuid.uuid4(),
        "target_id": uuid.uuid4(),
        "batch_id": uuid.uuid4(),
        "name": NASTY,
        "state": "failed",
        "touched": False,
        "error": NASTY,
        "previous": NASTY,
    }
    return TargetProgress(**(values | fields))  # type: ignore[arg-type]


def test_text_in_a_tile_is_escaped() -> None:
    row = progress()
    shown = tiles(Rollout(release=Release(version=NASTY)), [row], {})
    assert NASTY not in shown
    assert shown.count(ESCAPED) == 4
    assert f'href="/targets/{row.target_id}/"' in shown
    assert f'id="target-{row.id}" data-state="failed">' in shown


def test_what_failed_before_it_was_put_back_is_said_escaped() -> None:
    row = progress(state="rolling_back", error="", name="a", previous=None, touched=True)
    shown = tiles(Rollout(release=Release(version="1.1")), [row], {row.id: NASTY})
    assert f'<span class="tile-error">{ESCAPED}</span>' in shown
    assert 'data-state="rolling_back" data-touched>' in shown
    assert '<span class="tile-state">rolling back</span>' in shown
    assert '<span class="old">empty</span> <span class="new">1.1</span>' in shown


def test_a_target_as_it_stands_is_escaped_and_says_what_it_lacks() -> None:
    row = TargetNow(
        id=uuid.uuid4(),
        name=NASTY,
        health="healthy",
        version=NASTY,
        agent="a",
        region="eu",
        environment="prod",
    )
    shown = target_tiles([row, row._replace(version=None, agent=None)])
    assert NASTY not in shown
    assert shown.count(ESCAPED) == 3
    assert shown.count("no agent") == 1
    assert shown.count('data-state="healthy"') == 1
    assert shown.count('data-state="empty"') == 1
