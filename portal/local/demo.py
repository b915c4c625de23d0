"""Slipway's main job, done in front of the user through the REST API alone, as CI would do it.

1.0 goes to every target; 1.1 rolls over them under load, without a failed request; 1.2 is broken, fails its
health check in the first batch, and the rollout takes itself back.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from portal.local.api import Api, Json
from portal.local.layout import REGIONS, TARGETS
from portal.local.load import Load
from portal.local.sample.build import SampleArtifact, build_all

UP_SECONDS = 60.0
AGENTS_SECONDS = 60.0
ROLLOUT_SECONDS = 300.0
LOOK_SECONDS = 0.2
ENDED = frozenset({"succeeded", "rolled_back", "failed", "cancelled", "superseded"})
MESSAGES = {
    "1.0": "Take orders for coffee and tea",
    "1.1": "Sell cake",
    "1.2": "Import the price table from the spreadsheet",
    "1.3": "Repair the price table, sell juice",
}


class DemoFailed(Exception):
    """Something else happened than the demo is there to show."""


@dataclass
class Demo:
    """`ports` are the targets'; `service` and `environment` names that exist."""

    api: Api
    console: Console
    service: str
    environment: str
    ports: Sequence[int]

    def run(self) -> None:
        """Show everything. Raises DemoFailed, or Refused in the server's words."""
        self.wait()
        self._prepare()
        self._first()
        self._update_under_load()
        self._broken()

    def wait(self) -> None:
        """Until the portal answers and the agents are connected."""
        if not self.api.wait_until_up(UP_SECONDS):
            raise DemoFailed(f"The portal did not answer within {UP_SECONDS:.0f} s.")
        until = time.monotonic() + AGENTS_SECONDS
        while True:
            missing = self._missing_agents()
            if not missing:
                return
            if time.monotonic() > until:
                raise DemoFailed(f"Not connected after {AGENTS_SECONDS:.0f} s: {', '.join(missing)}.")
            time.sleep(LOOK_SECONDS)

    def _missing_agents(self) -> list[str]:
        connected = {agent["name"] for agent in self.api.all("/agents") if agent["is_connected"]}
        return [name for name in (f"demo-{region}" for region in REGIONS) if name not in connected]

    def _prepare(self) -> None:
        config = self.api.post("/configs", {"service": self.service, "base": _configuration()})
        for number, artifact in enumerate(build_all(), start=1):
            self.api.upload(artifact.data, digest=artifact.digest, filename=artifact.filename)
            self._release(artifact, str(config["id"]), number)
        self.console.print(
            f"[bold]orders[/] is packed into artifacts 1.0 to 1.3; "
            f"{TARGETS} targets in {len(REGIONS)} regions ({', '.join(REGIONS)}) wait for it."
        )

    def _release(self, artifact: SampleArtifact, config_id: str, number: int) -> None:
        body = {
            "service": self.service,
            "version": artifact.version,
            "artifact": artifact.digest,
            "config": config_id,
            "commit_sha": artifact.digest.removeprefix("sha256:")[:40],
            "commit_message": MESSAGES[artifact.version],
            "branch": "main",
            "author": "Ada Demo",
            "build_url": f"https://ci.example/orders/builds/{number}",
        }
        self.api.post("/releases", body)

    def _first(self) -> None:
        self._heading("1. Version 1.0 goes to every target")
        rollout = self._roll_out("1.0", "First deployment", lambda: "")
        self._expect(rollout, "succeeded")
        self.console.print(
            f"   [green]✓[/] {TARGETS} targets run 1.0 and are healthy ({_seconds(rollout)} s)"
        )

    def _update_under_load(self) -> None:
        self._heading("2. Version 1.1 rolls over them in batches, while a client sends requests")
        with Load(self.ports) as load:
            tally = load.tally
            rollout = self._roll_out(
                "1.1", "Sell cake", lambda: f"{tally.requests} requests, failures: {tally.failures}"
            )
            time.sleep(0.5)
        self._expect(rollout, "succeeded")
        if tally.failures:
            raise DemoFailed(f"{tally.failures} of {tally.requests} requests failed: {dict(tally.reasons)}")
        answered = ", ".join(f"{count} by {version}" for version, count in sorted(tally.versions.items()))
        self.console.print(
            f"   [green]✓[/] {TARGETS} targets run 1.1 ({_seconds(rollout)} s); "
            f"requests sent: {tally.requests} ({answered}), [bold green]failures: 0[/]"
        )

    def _broken(self) -> None:
        self._heading("3. Version 1.2 is broken, which nobody knows yet")
        rollout = self._roll_out("1.2", "New price table", lambda: "")
        self._expect(rollout, "rolled_back")
        self.console.print(f"   [red]✗[/] {escape(rollout['outcome'])}")
        failed = list(self.api.all(f"/rollouts/{rollout['id']}/tasks", state="failed"))
        if not failed:
            raise DemoFailed("No task says why 1.2 failed.")
        for line in failed[0].get("log_tail", [])[-4:]:
            self.console.print(f"     log of {failed[0]['target']['name']}: {line}", markup=False)
        versions = self._running_versions()
        if set(versions) != {"1.1"} or len(versions) != TARGETS:
            raise DemoFailed(f"After the rollback the targets run {versions}.")
        self.console.print(f"   [green]✓[/] rolled back by itself: all {TARGETS} targets run 1.1")

    def _roll_out(self, version: str, reason: str, remark: Callable[[], str]) -> Json:
        """Start a rollout and show it until it ends; returns how it ended."""
        body = {
            "service": self.service,
            "environment": self.environment,
            "release": version,
            "reason": reason,
        }
        rollout = self.api.post("/rollouts", body)
        columns = (
            TextColumn("   {task.description}"),
            BarColumn(20),
            TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[remark]}"),
            TimeElapsedColumn(),
        )
        # Without a terminal nothing moves: there the closing line says it all.
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task(f"{version} {rollout['state']}", total=TARGETS, remark="")
            until = time.monotonic() + ROLLOUT_SECONDS
            while rollout["state"] not in ENDED:
                if time.monotonic() > until:
                    raise DemoFailed(f"{version} is {rollout['state']} after {ROLLOUT_SECONDS:.0f} s.")
                time.sleep(LOOK_SECONDS)
                rollout = self.api.get(f"/rollouts/{rollout['id']}")
                progress.update(
                    task,
                    completed=rollout["targets"].get("healthy", 0),
                    description=f"{version} {rollout['state'].replace('_', ' ')}",
                    remark=remark(),
                )
        return rollout

    def _expect(self, rollout: Json, state: str) -> None:
        if rollout["state"] != state:
            version = rollout["release"]["version"]
            raise DemoFailed(f"{version} is {rollout['state']} and not {state}: {rollout['outcome']}")

    def _running_versions(self) -> list[str]:
        targets = self.api.all("/targets", service=self.service, environment=self.environment)
        return [target["release"]["version"] for target in targets if target["release"]]

    def _heading(self, text: str) -> None:
        self.console.print(f"\n[bold]{text}[/]")


def _configuration() -> Json:
    return {
        "process": {"command": [sys.executable, "orders.py"], "stop_seconds": 5},
        "env": {
            "PORT": "${target.port}",
            "REGION": "${region}",
            "DATABASE_PASSWORD": "${secret:vault:shop/orders#database_password}",
        },
        "files": {"orders.json": '{"greeting": "Hello from ${region}"}\n'},
        "health": {
            "kind": "http",
            "port": "${target.port}",
            "path": "/healthz",
            "interval_ms": 200,
            "deadline_seconds": 8,
        },
    }


def _seconds(rollout: Json) -> str:
    started, finished = (datetime.fromisoformat(rollout[name]) for name in ("started_at", "finished_at"))
    return f"{(finished - started).total_seconds():.1f}"
