"""What is to happen later goes by our own delays and clock: django-q2's schedules start 20 s late."""

import ast
from collections.abc import Iterator

from django.conf import settings

from tests.architecture.test_house import MODULES, ROOT

SCHEDULING = {"Schedule", "schedule", "scheduler"}


def uses_of_schedules(tree: ast.AST) -> Iterator[int]:
    """Lines that import django-q2's scheduling, or reach for it through an imported module of it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            if any(name.name.startswith("django_q") and "schedul" in name.name for name in node.names):
                yield node.lineno
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            names = {name.name for name in node.names}
            if module.startswith("django_q") and ("schedul" in module or names & SCHEDULING):
                yield node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in SCHEDULING and "django_q" in ast.dump(node):
            yield node.lineno


def test_nothing_uses_the_schedules_of_the_queue() -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in MODULES
        for line in uses_of_schedules(ast.parse(path.read_text()))
    ]
    assert offenders == []
    assert settings.Q_CLUSTER["scheduler"] is False


def test_the_check_for_schedules_sees_one() -> None:
    for code in (
        "from django_q.tasks import async_task, schedule",
        "from django_q.models import Schedule",
        "from django_q.scheduler import scheduler",
        "import django_q.scheduler",
        "django_q.tasks.schedule('x')",
    ):
        assert list(uses_of_schedules(ast.parse(code))) != [], code
    assert list(uses_of_schedules(ast.parse("from django_q.tasks import async_task"))) == []
