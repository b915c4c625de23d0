"""The rules of the house that a reader can rely on, because a test holds them."""

import ast
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


def writes_of_state(tree: ast.AST) -> Iterator[int]:
    """Lines that assign to `.state` of something, update(state=...) or write it in SQL."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Attribute) and target.attr == "state":
                    yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("update", "aupdate", "update_or_create") and any(
                keyword.arg == "state" for keyword in node.keywords
            ):
                yield node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = " ".join(node.value.split())
            if "UPDATE deployments_" in text and (" SET state" in text or ", state =" in text):
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
    assert list(writes_of_state(ast.parse("Rollout.objects.filter(pk=1).update(state='x')"))) == [1]
    assert list(writes_of_state(ast.parse("rollout.state = 'x'"))) == [1]


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
