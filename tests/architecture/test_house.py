"""The rules of the house that a reader can rely on, because a test holds them."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("portal", "deployments", "audit")
MODULES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if "migrations" not in path.parts
)
STATE_WRITER = ROOT / "deployments/engine/transition.py"
MAX_LINES = 400


def test_the_import_contracts_hold() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_no_longer_than_400_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_no_room_is_called_by_what_it_is_not() -> None:
    refused = {"utils.py", "helpers.py", "signals.py", "misc.py", "common.py"}
    assert [path for path in MODULES if path.name in refused] == []


def test_the_top_level_holds_what_the_design_says() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git checkout")
    top = {name.split("/")[0] for name in tracked}
    assert top <= {
        ".ci",
        ".gitignore",
        "CHANGELOG.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "audit",
        "bench",
        "deploy",
        "deployments",
        "docs",
        "manage.py",
        "portal",
        "pyproject.toml",
        "requirements-bench.lock",
        "requirements-dev.lock",
        "requirements.lock",
        "static",
        "templates",
        "tests",
    }


NAMED_ARGUMENTS = {"update", "aupdate", "update_or_create", "aupdate_or_create"}
"""Take columns as keywords, or in a dict."""
LISTED_AS_UPDATED = {"save", "asave", "bulk_create", "abulk_create"}
"""Take names of columns as `update_fields`."""
LISTED = {"bulk_update", "abulk_update", "setattr"}
"""Take names of columns."""
ASSIGNED = re.compile(r"\bset\b(.*?)(?=\b(?:from|where|returning)\b|;|$)", re.IGNORECASE)
STATE_IN_LIST = re.compile(r"(?:^|,)\s*\"?state\"?\s*=", re.IGNORECASE)
STATE_IN_ROW = re.compile(r"\([^)]*\bstate\b[^)]*\)\s*=", re.IGNORECASE)


def sql_writes_state(text: str) -> bool:
    """Whether an UPDATE of one of our tables in `text` assigns to the column state."""
    normal = " ".join(text.split())
    for statement in re.split(r"\bupdate\s+(?:only\s+)?(?=\"?deployments_)", normal, flags=re.IGNORECASE)[1:]:
        flat = statement
        # What is in brackets is no assignment, and its FROM and WHERE do not end the list.
        while (shorter := re.sub(r"\([^()]*\)", " ", flat)) != flat:
            flat = shorter
        if any(STATE_IN_LIST.search(assigned) for assigned in ASSIGNED.findall(flat)):
            return True
        if any(STATE_IN_ROW.match(assigned.strip()) for assigned in ASSIGNED.findall(statement)):
            return True
    return False


def names_state(*nodes: ast.AST) -> bool:
    return any(
        isinstance(part, ast.Constant) and part.value == "state" for node in nodes for part in ast.walk(node)
    )


def call_writes_state(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in NAMED_ARGUMENTS:
        return any(
            keyword.arg == "state"
            or (isinstance(keyword.value, ast.Dict) and names_state(*filter(None, keyword.value.keys)))
            for keyword in call.keywords
        )
    if name in LISTED_AS_UPDATED:
        return any(keyword.arg == "update_fields" and names_state(keyword.value) for keyword in call.keywords)
    return name in LISTED and names_state(*call.args, *(keyword.value for keyword in call.keywords))


def writes_of_state(tree: ast.AST) -> Iterator[int]:
    """Lines that assign to `.state` of something, hand it to Django to be written, or write it in SQL."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr == "state":
                    yield node.lineno
        elif isinstance(node, ast.Call) and call_writes_state(node):
            yield node.lineno
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
            if sql_writes_state("".join(map(str, parts))):
                yield node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and sql_writes_state(node.value):
            yield node.lineno


def test_only_the_transition_writes_state() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        if path != STATE_WRITER
        for line in writes_of_state(ast.parse(path.read_text()))
        # The planner's working copies and the agent's own records have a state that is in no row.
        if path.parts[-2:] != ("engine", "draft.py") and "agent" not in path.relative_to(ROOT).parts
    ]
    assert offenders == []


def test_the_check_for_writers_of_state_sees_one() -> None:
    assert list(writes_of_state(ast.parse(STATE_WRITER.read_text()))) != []
    for code in (
        "rollout.state = 'x'",
        "Rollout.objects.filter(pk=1).update(state='x')",
        "Rollout.objects.filter(pk=1).update(**{'state': 'x'})",
        "Rollout.objects.update_or_create(pk=1, defaults={'state': 'x'})",
        "Rollout.objects.bulk_update(rollouts, ['version', 'state'])",
        "Rollout.objects.bulk_update(rollouts, fields=('state',))",
        "Rollout.objects.bulk_create(rollouts, update_conflicts=True, update_fields=['state'])",
        "rollout.save(update_fields=['state', 'version'])",
        "setattr(rollout, 'state', 'x')",
        "'UPDATE deployments_x SET state = 1'",
        "'UPDATE deployments_x SET a = 1,state=2 WHERE b'",
        "'update only deployments_x x\\n  set a = 1,\\n  \"state\" = 2'",
        "'UPDATE deployments_x SET a = (SELECT b FROM c WHERE d = e), state = 2 FROM f'",
        "'UPDATE deployments_x SET (a, state) = (1, 2)'",
        "'WITH a AS (UPDATE deployments_x SET state = 1 RETURNING id) SELECT FROM a'",
        "f'UPDATE deployments_{name} SET {columns}, state = 1'",
    ):
        assert list(writes_of_state(ast.parse(code))) != [], code


def test_the_check_for_writers_of_state_lets_readers_be() -> None:
    for code in (
        "rollout.save(update_fields=['version'])",
        "Rollout.objects.filter(state='x').update(version=1)",
        "Rollout.objects.bulk_create([Rollout(state='x')])",
        "'UPDATE deployments_x SET a = 1 WHERE state = 2'",
        "'UPDATE deployments_x x SET a = b.a FROM b WHERE b.c, state = 2'",
        "'UPDATE deployments_x SET a = (b.state = 2), estate = 3 RETURNING state'",
        "'SELECT a FROM deployments_x WHERE state = 1 FOR UPDATE'",
    ):
        assert list(writes_of_state(ast.parse(code))) == [], code


def test_only_the_door_imports_guardian_in_the_code() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for path in MODULES
        if "guardian" in imports_of(ast.parse(path.read_text()))
    }
    assert importers <= {"deployments/access.py", "deployments/models/permissions.py"}


def imports_of(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
