import base64
import dataclasses
import hashlib
import time
import zipfile

import nacl.signing
import pytest
from django.conf import settings as django_settings
from django.test import Client
from django.utils import timezone

from deployments.models import Agent
from deployments.services.agents import create_join_token
from tests.api.conftest import problem
from tests.signed import AgentClient, authorization

CONTENT = bytes(range(256)) * 4
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PATH = f"/agent/v1/artifacts/{DIGEST}"


@pytest.fixture
def agent(catalog, orders) -> AgentClient:
    catalog.release(orders, "1.0", content=CONTENT)
    return AgentClient(catalog.agent, catalog.agent_key)


class TestEnrolment:
    def enrol(self, secret, **changed):
        key = nacl.signing.SigningKey.generate().verify_key
        body = {
            "join_token": secret,
            "public_key": base64.b64encode(bytes(key)).decode(),
            "name": "what-the-agent-calls-itself",
            "hostname": "host-7.example",
            "version": "1.2",
        }
        client = Client(enforce_csrf_checks=True)
        return client.post("/agent/v1/enrol", body | changed, content_type="application/json")

    @pytest.fixture
    def secret(self, admin) -> str:
        return create_join_token(actor=admin, agent_name="host-7")[1]

    def test_a_token_is_traded_for_an_id_and_the_key_to_obey(self, secret):
        answer = self.enrol(secret)
        assert answer.status_code == 201
        assert answer.headers["Cache-Control"] == "no-store"
        agent = Agent.objects.get(name="host-7")
        public = nacl.signing.SigningKey(django_settings.SLIPWAY.signing_key).verify_key
        assert answer.json() == {
            "agent_id": str(agent.id),
            "control_key": base64.b64encode(bytes(public)).decode(),
        }
        assert (agent.hostname, agent.software) == ("host-7.example", "1.2")

    def test_a_used_token_says_what_to_do(self, secret):
        self.enrol(secret)
        body = problem(self.enrol(secret), 403, "join-token-used")
        assert "Create a new one" in body["detail"]
        assert Agent.objects.filter(name="host-7").count() == 1

    @pytest.mark.parametrize(
        ("changed", "status", "code"),
        [
            ({"public_key": "short"}, 422, "invalid"),
            ({"public_key": base64.b64encode(b"x" * 31).decode()}, 422, "invalid"),
            ({"join_token": 7}, 422, "invalid"),
            ({"join_token": "slj_never-made"}, 403, "join-token-used"),
        ],
    )
    def test_nonsense_is_refused(self, secret, changed, status, code):
        problem(self.enrol(secret, **changed), status, code)
        assert not Agent.objects.filter(name="host-7").exists()

    def test_a_body_that_is_no_json_or_too_large_is_refused(self, db):
        client = Client()
        problem(client.post("/agent/v1/enrol", b"{", content_type="application/json"), 400, "malformed")
        large = b'{"join_token": "%s"}' % (b"x" * 65536)
        problem(client.post("/agent/v1/enrol", large, content_type="application/json"), 413, "too-large")
        problem(client.get("/agent/v1/enrol"), 405, "method-not-allowed")


class TestArtifacts:
    def test_the_agent_gets_what_its_service_releases(self, agent):
        answer = agent.get(PATH)
        assert answer.status_code == 200
        assert b"".join(answer) == CONTENT
        assert answer.headers["ETag"] == f'"{DIGEST}"'
        assert answer.headers["Content-Length"] == str(len(CONTENT))

    def test_a_broken_download_goes_on(self, agent):
        answer = agent.get(PATH, {"Range": "bytes=1000-"})
        assert answer.status_code == 206
        assert b"".join(answer) == CONTENT[1000:]
        assert answer.headers["Content-Range"] == "bytes 1000-1023/1024"

    def test_an_agent_of_another_service_learns_nothing(self, agent, catalog):
        key = nacl.signing.SigningKey.generate()
        other = catalog.agent_named("agent-2", key)
        catalog.service("bills", team=catalog.other_team, targets=1, agent=other)
        foreign = problem(AgentClient(other, key).get(PATH), 404, "not-found")
        missing = problem(agent.get(PATH[:-4] + "0000"), 404, "not-found")
        assert foreign == missing


class TestSignatures:
    def test_without_a_signature_nothing_is_answered(self, agent):
        refused = Client().get(PATH)
        problem(refused, 401, "bad-credential")
        assert refused.headers["WWW-Authenticate"]

    @pytest.mark.parametrize("apart", [-61, 61])
    def test_an_old_or_early_signature_names_the_clock(self, agent, apart):
        header = authorization(str(agent.agent.pk), agent.key, "GET", PATH, time.time() + apart * 1.1)
        refused = agent.client.get(PATH, headers={"Authorization": header})
        assert "clock" in problem(refused, 401, "bad-credential")["detail"]

    def test_a_clock_a_little_off_is_accepted(self, agent):
        header = authorization(str(agent.agent.pk), agent.key, "GET", PATH, time.time() - 50)
        assert b"".join(agent.client.get(PATH, headers={"Authorization": header})) == CONTENT

    @pytest.mark.parametrize(
        "given",
        [
            ("POST", PATH),
            ("GET", "/agent/v1/artifacts/other"),
        ],
    )
    def test_a_signature_is_good_for_one_method_and_path(self, agent, given):
        header = authorization(str(agent.agent.pk), agent.key, *given)
        problem(agent.client.get(PATH, headers={"Authorization": header}), 401, "bad-credential")

    def test_another_key_a_revoked_and_an_unknown_agent_are_told_the_same(self, agent):
        stranger = AgentClient(agent.agent, nacl.signing.SigningKey.generate()).get(PATH)
        Agent.objects.update(revoked_at=timezone.now())
        revoked = agent.get(PATH)
        unknown = AgentClient(Agent(name="x"), agent.key).get(PATH)
        bodies = [problem(answer, 401, "bad-credential") for answer in (stranger, revoked, unknown)]
        assert bodies[0] == bodies[1] == bodies[2]

    @pytest.mark.parametrize(
        "header", ["Slipway-Agent", "Slipway-Agent id=1,ts=1,sig=1", "Bearer slw_x", "\xff"]
    )
    def test_a_mangled_header_is_refused(self, agent, header):
        refused = agent.client.get(PATH, headers={"Authorization": header})
        problem(refused, 401, "bad-credential")


def test_the_program_is_one_file_and_needs_no_credential(db, settings, tmp_path):
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, state_dir=tmp_path)
    answer = Client().get("/agent/v1/agent.pyz")
    assert answer.status_code == 200
    path = tmp_path / "served.pyz"
    path.write_bytes(b"".join(answer))
    assert str(path.stat().st_size) == answer.headers["Content-Length"]
    assert "__main__.py" in zipfile.ZipFile(path).namelist()
