"""What faults are tried on: services with four targets each, and releases of a few bytes."""

import gzip
import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from django.db import connections

from deployments.domain.actor import Actor
from deployments.models import Environment, Region, Release, Service, Target, Team
from deployments.services.releases import create_config, create_release, upload_artifact
from portal.local.ports import free_port

ACTOR = Actor.system("test")
REGIONS = ("eu", "us")
TARGETS_PER_REGION = 2
GOOD = ("1", "2", "3")
BROKEN = "broken"
SERVICE = Path(__file__).with_name("service.py")


@contextmanager
def pointed_at(url: str) -> Iterator[None]:
    """Django's connections, those of every thread, lead to the database at `url` meanwhile."""
    parts = urlsplit(url)
    settings = connections["default"].settings_dict
    before = dict(settings)
    connections.close_all()
    settings.update(
        USER=parts.username,
        PASSWORD=parts.password,
        HOST=parts.hostname,
        PORT=str(parts.port),
        NAME=parts.path.lstrip("/"),
    )
    try:
        yield
    finally:
        connections.close_all()
        settings.update(before)


class World:
    """The rows: `services` by number, the targets of each spread over REGIONS."""

    def __init__(self, effects: Path, services: int) -> None:
        team = Team.objects.create(name="faults")
        self.environment = Environment.objects.create(name="prod", tier="prod")
        regions = [
            Region.objects.create(environment=self.environment, name=name, position=position)
            for position, name in enumerate(REGIONS)
        ]
        self.services = [Service.objects.create(team=team, name=f"service-{n}") for n in range(services)]
        self.releases: dict[tuple[int, str], Release] = {}
        digests = {version: _upload(version) for version in (*GOOD, BROKEN)}
        for number, service in enumerate(self.services):
            for region in regions:
                for index in range(TARGETS_PER_REGION):
                    Target.objects.create(
                        service=service,
                        region=region,
                        name=f"{service.name}-{region.name}-{index}",
                        variables={"port": str(free_port())},
                    )
            config = create_config(actor=ACTOR, service_id=service.id, base=_config(effects), overlays={})
            for version, digest in digests.items():
                self.releases[number, version] = create_release(
                    actor=ACTOR,
                    service_id=service.id,
                    version=version,
                    artifact_digest=digest,
                    config_id=config.id,
                )


def _config(effects: Path) -> dict[str, Any]:
    return {
        "process": {"command": [sys.executable, "-S", "-E", "service.py"], "stop_seconds": 2},
        "env": {"PORT": "${target.port}", "EFFECTS": str(effects), "HARNESS": str(os.getpid())},
        "health": {"kind": "tcp", "port": "${target.port}", "interval_ms": 50, "deadline_seconds": 3},
    }


def _upload(version: str) -> str:
    """Hand in the artifact of one version; return its digest."""
    files = {"service.py": SERVICE.read_bytes(), "VERSION": version.encode()}
    if version == BROKEN:
        files["BROKEN"] = b""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    data = gzip.compress(plain.getvalue(), mtime=0)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    upload_artifact(actor=ACTOR, chunks=[data], digest=digest, filename=f"{version}.tar.gz")
    return digest
