"""Pages and lists over a large database: one real web process, one request after the other.

    python -m bench.pages [--services 10000 --rollouts 1000000 --targets 1000 --requests 200]
    python -m bench.pages --keep [--only rollouts]

The rows are those of `manage.py seed`. Each address is asked for over HTTP on loopback with the session of an
administrator, and with that of a person who sees one team that has a fifth of the services. The queries are
counted in this process, by Django's test client, on the same database. `--keep` takes the database that
DATABASE_URL names, filled before, and adds an account and sessions to it.
"""

import argparse
import contextlib
import http.client
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from bench import figures, plane
from bench.database import database
from bench.fanout import cpu_seconds

MOST_MS = 100.0
SHARE = 0.95
WARM_UP = 20


@dataclass(frozen=True, kw_only=True)
class Numbers:
    services: int
    rollouts: int
    targets: int
    """In the largest rollout."""
    requests: int
    """To each address, by each of the two people."""


QUICK = Numbers(services=1_000, rollouts=30_000, targets=1_000, requests=50)
FULL = Numbers(services=10_000, rollouts=1_000_000, targets=1_000, requests=200)


@dataclass(frozen=True)
class Server:
    port: int
    pid: int


@dataclass(frozen=True)
class Person:
    session: str
    user: Any


@dataclass(frozen=True)
class Timed:
    samples_ms: list[float]
    cpu_ms: float
    """Of the web process, for a request: what does not depend on who else uses the machine."""
    queries: int
    kilobytes: float

    @property
    def tail_ms(self) -> float:
        return figures.percentile(self.samples_ms, SHARE)


def measure(numbers: Numbers) -> list[figures.Row]:
    """Seed a database of its own, and measure every address."""
    from django.core.management import call_command

    with database():
        began = time.monotonic()
        call_command(
            "seed",
            services=numbers.services,
            rollouts=numbers.rollouts,
            targets=numbers.targets,
            verbosity=0,
            stdout=StringIO(),
        )
        seconds = time.monotonic() - began
        seeded = figures.Row(
            what=f"Filling it: {numbers.services:,} services, {numbers.rollouts:,} rollouts",
            median=f"{seconds:.0f} s",
            note=f"{numbers.rollouts / seconds:,.0f} rollouts a second",
        )
        return [seeded, *rows(numbers.requests)]


def rows(requests: int, only: str = "") -> list[figures.Row]:
    """One line for each address with `only` in its name; the database is full already."""
    found = []
    with contextlib.ExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-pages-")))
        server = stack.enter_context(web(logs))
        admin, member = people()
        for_admin, for_member = addresses(admin), addresses(member)
        for name in for_admin:
            if only in name:
                timed = ask(server, admin, for_admin[name], requests)
                others = ask(server, member, for_member[name], requests) if name in for_member else None
                found.append(line(name, timed, others))
                print(f"{found[-1].median:>9}  {name}", file=sys.stderr, flush=True)
    return found


def line(what: str, admin: Timed, member: Timed | None) -> figures.Row:
    """The tail of the slower one of the two; without `member` what administrators alone may see."""
    slower = max(admin, member or admin, key=lambda timed: timed.tail_ms)
    tails = f"administrator {figures.number(admin.tail_ms)}"
    queries = f"{admin.queries}"
    if member is not None:
        tails += f", one team {figures.number(member.tail_ms)}"
        queries += f" and {member.queries}"
    return figures.tail(
        what,
        slower.samples_ms,
        share=SHARE,
        most=MOST_MS,
        note=(
            f"{tails}; {queries} queries, CPU {figures.number(slower.cpu_ms)} ms, {slower.kilobytes:.0f} kB"
        ),
    )


@contextlib.contextmanager
def web(logs: Path) -> Iterator[Server]:
    """The web process alone: a worker would move what stands in the database."""
    from portal.local.ports import free_port

    port = free_port()
    environ = os.environ | {"SLIPWAY_PUBLIC_URL": f"http://127.0.0.1:{port}", "SLIPWAY_PROCESS": "web"}
    with plane.running("web", plane.manage("web", "--port", str(port)), logs, environ) as started:
        plane.answers(started, f"http://127.0.0.1:{port}")
        yield Server(port, started.process.pid)


def people() -> list[Person]:
    """An administrator, and the one who is in the largest team and in no other."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from portal.accounts.models import User
    from portal.local.seed.catalog import MEMBER

    admin, _ = User.objects.get_or_create(username="bench-admin", defaults={"is_superuser": True})
    found = []
    for user in (admin, User.objects.get(username=MEMBER)):
        session = SessionStore()
        session[SESSION_KEY] = str(user.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = user.get_session_auth_hash()
        session.save()
        found.append(Person(str(session.session_key), user))
    return found


def addresses(person: Person) -> dict[str, str]:
    """What is asked for, by name. Deep pages begin in the middle of what the person sees."""
    from django.db.models import Count

    from deployments import access
    from deployments.domain.actor import Actor, ActorKind
    from deployments.models import Rollout, Service

    user = person.user
    actor = Actor(
        kind=ActorKind.USER,
        id=str(user.pk),
        name=user.username,
        user_id=user.pk,
        is_superuser=user.is_superuser,
    )
    services = access.visible(actor, Service.objects.order_by("name"))
    rollouts = access.visible(actor, Rollout.objects.order_by("id"))
    count = services.count()
    middle = services[count // 2].name
    deep = Rollout.objects.order_by("id")[Rollout.objects.count() // 2].id
    busy = services.annotate(size=Count("rollouts")).order_by("-size")[0]
    quiet = services.annotate(size=Count("rollouts")).order_by("size")[1]
    moving, ended = Rollout.objects.filter(service__name="showcase").order_by("-id")
    target = moving.targets.order_by("position")[0].target_id
    recent = rollouts.filter(state="succeeded", service=busy).order_by("-id")[0]
    api = "/api/v1"
    return {
        "overview": "/",
        "overview, deep": f"/?after={middle}",
        "overview, text": "/?text=orders",
        "overview, text that nothing has": "/?text=no-such-thing",
        "rollouts": "/rollouts/",
        "rollouts, deep": f"/rollouts/?before={deep}",
        "rollouts, active": "/rollouts/?state=active",
        "rollouts, failed, deep": f"/rollouts/?state=failed&before={deep}",
        "rollouts, queued": "/rollouts/?state=queued",
        "rollouts of a busy service": f"/rollouts/?service={busy.name}",
        "rollouts of a quiet service": f"/rollouts/?service={quiet.name}",
        "rollouts of a quiet service, superseded": f"/rollouts/?service={quiet.name}&state=superseded",
        "rollouts to prod": "/rollouts/?environment=prod",
        "rollouts to prod, rolled back": "/rollouts/?environment=prod&state=rolled_back",
        "rollouts to prod, queued": "/rollouts/?environment=prod&state=queued",
        "rollouts to stage, active": "/rollouts/?environment=stage&state=active",
        "service": f"/services/{busy.name}/",
        "service with 1,000 targets": "/services/showcase/",
        "deploy form": f"/services/{busy.name}/deploy/",
        "release": f"/releases/{recent.release_id}/",
        "release on 1,000 targets": f"/releases/{ended.release_id}/",
        "rollout": f"/rollouts/{recent.id}/",
        "rollout with 1,000 targets, moving": f"/rollouts/{moving.id}/",
        "rollout with 1,000 targets, ended": f"/rollouts/{ended.id}/",
        "rollout's status, 1,000 targets": f"/rollouts/{moving.id}/status/",
        "rollout's failures, 1,000 targets": f"/rollouts/{moving.id}/failures/",
        "target": f"/targets/{target}/",
        "environments": "/environments/",
        "environment": "/environments/prod/",
        "agents": "/agents/",
        "queue": "/queue/",
        **({"faults": "/faults/", "audit": "/audit/"} if user.is_superuser else {}),
        "API: services": f"{api}/services",
        "API: rollouts": f"{api}/rollouts",
        "API: rollouts, active": f"{api}/rollouts?active=true",
        "API: rollouts, failed": f"{api}/rollouts?state=failed",
        "API: rollouts of a quiet service": f"{api}/rollouts?service={quiet.name}",
        "API: rollouts to prod": f"{api}/rollouts?environment=prod",
        "API: rollouts that are rollbacks": f"{api}/rollouts?kind=rollback",
        "API: rollout with 1,000 targets": f"{api}/rollouts/{moving.id}",
        "API: its targets, 200": f"{api}/rollouts/{moving.id}/targets?page_size=200",
        "API: its events, 200": f"{api}/rollouts/{moving.id}/events?page_size=200",
        "API: releases": f"{api}/releases",
        "API: targets": f"{api}/targets",
        "API: environments": f"{api}/environments",
        "API: queue": f"{api}/queue",
    }


def ask(server: Server, person: Person, path: str, requests: int) -> Timed:
    """One request after the other on a kept connection; a sample lasts from the request to its last byte."""
    from django.db import connection
    from django.test import Client
    from django.test.utils import CaptureQueriesContext

    client = Client(SERVER_NAME="127.0.0.1")
    client.force_login(person.user, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(path).status_code == 200, path
    with CaptureQueriesContext(connection) as captured:
        size = len(client.get(path).content)
    http_client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    samples = []
    used = 0.0
    for number in range(WARM_UP + requests):
        if number == WARM_UP:
            used = cpu_seconds(server.pid)
        began = time.perf_counter()
        http_client.request("GET", path, headers={"Cookie": f"slipway_session={person.session}"})
        response = http_client.getresponse()
        response.read()
        spent = (time.perf_counter() - began) * 1000
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}")
        if number >= WARM_UP:
            samples.append(spent)
    http_client.close()
    cpu_ms = (cpu_seconds(server.pid) - used) / requests * 1000
    return Timed(samples, cpu_ms, len(captured), size / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure pages and lists.")
    for name in ("services", "rollouts", "targets", "requests"):
        parser.add_argument(f"--{name}", type=int, default=getattr(QUICK, name))
    parser.add_argument("--only", default="", help="addresses with this in their name")
    parser.add_argument("--keep", action="store_true", help="measure DATABASE_URL, seeded before")
    options = vars(parser.parse_args())
    only, keep = options.pop("only"), options.pop("keep")
    if keep:
        import django

        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
        django.setup()
        found = rows(options["requests"], only)
    else:
        found = measure(Numbers(**options))
    print(figures.table([(f"Pages (load {os.getloadavg()[0]:.1f} at the end)", found)]))


if __name__ == "__main__":
    main()
