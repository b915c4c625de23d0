"""What agents ask over HTTP: to be let in, for bytes, for secrets, for their own program."""

import base64
import tempfile
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.core.files import File
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from nacl.signing import SigningKey

from deployments.agent import bundle
from deployments.errors import NotFound
from deployments.models import Artifact
from deployments.services.agents import enrol_agent, lease_secrets
from portal.api.agent_requests import Enrolment, actor_of_agent, agent_of_request, endpoint
from portal.api.downloads import Chunks, StreamedFile, artifact_response


@endpoint("POST")
def enrol(request: HttpRequest) -> HttpResponseBase:
    """Trade a join token for an identity; answers with the key that instructions are signed with."""
    given = Enrolment.of(request)
    agent = enrol_agent(
        join_token=given.join_token,
        public_key=given.key(),
        hostname=given.hostname,
        software=given.version,
        address=str(request.META.get("REMOTE_ADDR", "")),
        request_id=getattr(request, "request_id", ""),
    )
    control_key = bytes(SigningKey(settings.SLIPWAY.signing_key).verify_key)
    answer = {"agent_id": str(agent.pk), "control_key": base64.b64encode(control_key).decode()}
    return JsonResponse(answer, status=201, headers={"Cache-Control": "no-store"})


@endpoint("GET")
def artifact(request: HttpRequest, digest: str) -> HttpResponseBase:
    """Bytes of a release of a service that the agent serves; whole or by Range."""
    agent = agent_of_request(request)
    served = Artifact.objects.filter(digest=digest, releases__service__targets__agent=agent)
    found = served.first()
    if found is None:
        raise NotFound
    return artifact_response(request, found)


@endpoint("POST")
def secrets(request: HttpRequest, task_id: UUID) -> HttpResponseBase:
    """One wrapping token for each secret path of the task's release; the values stay in the secret server."""
    agent = agent_of_request(request)
    leases = lease_secrets(actor=actor_of_agent(agent, request), agent=agent, task_id=task_id)
    answer = {"address": settings.SLIPWAY.vault_agent_addr, "leases": leases}
    return JsonResponse(answer, headers={"Cache-Control": "no-store"})


@endpoint("GET")
def program(request: HttpRequest) -> HttpResponseBase:
    """The agent in one file. No secret, so no credential: a new host fetches it before it is enrolled."""
    path = Path(settings.SLIPWAY.state_dir) / "agent.pyz"
    if not path.exists() or path.stat().st_mtime < _newest_source():
        _build(path)
    file = File(path.open("rb"))
    headers = {
        "Content-Length": str(file.size),
        "Content-Disposition": 'attachment; filename="slipway-agent.pyz"',
        "Cache-Control": "no-cache",
    }
    return StreamedFile(Chunks(file, file.size), content_type="application/zip", headers=headers)


def _newest_source() -> float:
    """Modification time of what the program is built from: it is built again after an upgrade."""
    package = Path(bundle.__file__).parent
    return max(path.stat().st_mtime for path in (*package.rglob("*.py"), package.parent / "protocol.py"))


def _build(path: Path) -> None:
    """Build beside it and rename: nobody is served half a program."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix="agent-") as directory:
        built = Path(directory) / path.name
        bundle.build(built)
        built.replace(path)
