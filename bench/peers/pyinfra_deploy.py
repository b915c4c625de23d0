"""Run by the interpreter of `.venv-bench`: pyinfra's operations for each batch of the plan.

pyinfra has one local host only, so its own local connector is registered once more under a name that
takes any number of them.
"""

import io
import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gevent import monkey

monkey.patch_all()

from pyinfra.api import Config, Inventory, State  # noqa: E402
from pyinfra.api import inventory as inventory_module  # noqa: E402
from pyinfra.api.connect import connect_all, disconnect_all  # noqa: E402
from pyinfra.api.operation import add_op  # noqa: E402
from pyinfra.api.operations import run_ops  # noqa: E402
from pyinfra.connectors.local import LocalConnector  # noqa: E402
from pyinfra.operations import files, server  # noqa: E402


class ManyLocal(LocalConnector):
    @staticmethod
    def make_names_data(name: str | None = None) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        yield f"@many/{name}", {}, ["@many"]


def update(batch: list[dict[str, Any]], archive: str, version: str) -> None:
    """Six operations on each host of the batch; raises when one fails."""
    state = State(
        Inventory(([(f"@many/{target['name']}", target) for target in batch], {})),
        Config(PARALLEL=len(batch), FAIL_PERCENT=0),
    )
    connect_all(state)
    for host in list(state.inventory):
        target = host.data
        release = f"{target.home}/releases/{version}"
        for operation, arguments in (
            (files.directory, {"path": f"{release}/config"}),
            (server.shell, {"commands": f"tar -xzf {archive} -C {release}"}),
            (files.put, {"src": io.StringIO(target.config), "dest": f"{release}/config/app.json"}),
            (files.link, {"path": f"{target.home}/current", "target": f"releases/{version}", "force": True}),
            (server.shell, {"commands": shlex.join(target.restart)}),
            (server.shell, {"commands": shlex.join(target.health)}),
        ):
            add_op(state, operation, host=host, **arguments)
    run_ops(state)
    disconnect_all(state)
    assert not state.failed_hosts, state.failed_hosts


def main() -> None:
    connectors = inventory_module.get_all_connectors() | {"many": ManyLocal}
    inventory_module.get_all_connectors = lambda: connectors
    inventory_module.get_execution_connectors = lambda: connectors
    plan = json.loads(Path(sys.argv[1]).read_text())
    for batch in plan["batches"]:
        update(batch, plan["archive"], plan["version"])


if __name__ == "__main__":
    main()
