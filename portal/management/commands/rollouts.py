"""`manage.py rollouts explain ID`: why a rollout stands where it stands, and what would happen next."""

from datetime import datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from deployments.domain.actor import Actor
from deployments.errors import SlipwayError
from deployments.models import Event
from deployments.reads.explain import Explanation, explain, find
from portal.ui.format import age, words
from portal.ui.sentences import line

LABEL_WIDTH = 16
EVENTS_SHOWN = 50


class Command(BaseCommand):
    help = "Look into rollouts from the command line, without changing anything."

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True)
        explaining = commands.add_parser("explain", help="timeline, waits, and what the planner would do now")
        explaining.add_argument(
            "rollout",
            help="id, the beginning of one, or SERVICE/ENVIRONMENT for the one that is active there",
        )
        explaining.add_argument(
            "--events",
            type=int,
            default=EVENTS_SHOWN,
            help="how many of the newest events to show, 0: all (default %(default)s)",
        )

    def handle(self, *_args: Any, **options: Any) -> None:
        actor = Actor.system("command line")
        if options["events"] < 0:
            raise CommandError("--events takes a number of events, or 0 for all of them.")
        try:
            rollout = find(actor, options["rollout"])
            found = explain(actor, rollout, events=options["events"] or None)
        except SlipwayError as error:
            raise CommandError(error.message) from None
        self._head(found)
        self._wait(found)
        self._engine(found)
        self._timeline(found)
        self._next(found)

    def _head(self, found: Explanation) -> None:
        rollout = found.rollout
        state = words(rollout.state).upper()
        paint = self.style.ERROR if rollout.state == "failed" else self.style.SUCCESS
        self.stdout.write(f"{self.style.MIGRATE_HEADING(str(rollout))}  {paint(state)}")
        self._fact("id", rollout.id)
        kind = f"{rollout.kind}, {rollout.get_priority_display()} priority"
        why = f": {rollout.reason}" if rollout.reason else ""
        self._fact(
            "wanted", f"{kind}, by {rollout.requested_by} {self._moment(rollout.created_at, found)}{why}"
        )
        self._fact("state", f"{words(rollout.state)} since {self._moment(rollout.state_since, found)}")
        if rollout.outcome:
            self._fact("because", rollout.outcome)
        counts = ", ".join(f"{number} {words(state)}" for state, number in sorted(found.targets.items()))
        self._fact("targets", counts or "none")

    def _wait(self, found: Explanation) -> None:
        if not found.rollout.is_active:
            return
        waiting = found.waiting
        if waiting is None:
            self._fact("waits for", "nothing is said: the engine has not looked yet")
            return
        self._fact("waits for", self.style.WARNING(waiting.sentence))
        if waiting.since:
            self._fact("  since", self._moment(waiting.since, found))
        self._fact("  who", waiting.who)
        if waiting.unblock:
            self._fact("  way out", ", ".join(waiting.unblock))
        if waiting.deadline:
            self._fact("  at the latest", self._moment(waiting.deadline, found))

    def _engine(self, found: Explanation) -> None:
        rollout = found.rollout
        lease = "free"
        if rollout.lease_until:
            over = " (it has run out)" if rollout.lease_until < found.now else ""
            lease = f"{rollout.lease_owner} until {self._moment(rollout.lease_until, found)}{over}"
        self._fact("lease", f"{lease}, fence {rollout.fence}")
        if rollout.next_check_at:
            self._fact("next look", self._moment(rollout.next_check_at, found))
        if rollout.deadline_at:
            self._fact("deadline", self._moment(rollout.deadline_at, found))
        if rollout.quarantined_at:
            self._fact("quarantine", self.style.ERROR(f"since {self._moment(rollout.quarantined_at, found)}"))
        if found.fault:
            fault = found.fault
            last = self._moment(fault.last_at, found)
            self._fact("fault", f"{fault.id}: {fault.error}, {fault.failures} in a row, last {last}")

    def _timeline(self, found: Explanation) -> None:
        self._section("Timeline")
        earlier = found.rollout.event_count - len(found.events)
        if earlier > 0:
            self.stdout.write(f"  ... {earlier} earlier; --events 0 shows all")
        for event in found.events:
            self.stdout.write(f"  {event.at:%Y-%m-%d %H:%M:%S}  {self._sentence(event)}")

    def _sentence(self, event: Event) -> str:
        said = line(event)
        detail = f": {said.detail}" if said.detail else ""
        if event.kind == "rollout.waiting":
            return f"waits: {said.text}{detail}"
        return f"{said.text}{detail}"

    def _next(self, found: Explanation) -> None:
        self._section("What the planner would do now")
        if not found.rollout.is_active:
            self.stdout.write("  Nothing: the rollout is at its end.")
            return
        if found.rollout.quarantined_at:
            self.stdout.write("  Nothing while it is in quarantine. If it were released:")
        if found.untaken_reports:
            self.stdout.write(
                f"  ({found.untaken_reports} reports of agents are still to be taken up first.)"
            )
        if found.error:
            self.stdout.write(self.style.ERROR(f"  It fails: {found.error}"))
        for step in found.steps:
            self.stdout.write(f"  - {step}")
        if not found.steps and not found.error:
            self.stdout.write("  Nothing.")

    def _section(self, title: str) -> None:
        self.stdout.write(f"\n{self.style.MIGRATE_HEADING(title)}")

    def _fact(self, label: str, value: object) -> None:
        self.stdout.write(f"  {label:{LABEL_WIDTH}} {value}")

    def _moment(self, moment: datetime, found: Explanation) -> str:
        return f"{moment:%Y-%m-%d %H:%M:%S} UTC ({age(moment, found.now)})"
