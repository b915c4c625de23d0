"""Large artifacts through a real server process, whose memory is watched."""

import contextlib
import hashlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import connection

from deployments.models import Artifact
from tests.api.conftest import API

MIB = 1024 * 1024
SIZE_MIB = 200
GROWTH_LIMIT_MIB = 12
ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]


class Server:
    def __init__(self, process: "subprocess.Popen[bytes]", port: int, spool: Path) -> None:
        self.process, self.port, self.spool = process, port, spool

    @contextlib.contextmanager
    def asking(self, method, path, body=None, headers=None) -> Iterator[http.client.HTTPResponse]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(client):
            given = {"Host": "testserver", **(headers or {})}
            chunked = "Transfer-Encoding" in given
            client.request(method, path, body=body, headers=given, encode_chunked=chunked)
            with client.getresponse() as answer:
                yield answer

    def ask(self, method, path, body=None, headers=None) -> tuple[int, http.client.HTTPMessage, bytes]:
        with self.asking(method, path, body, headers) as answer:
            return answer.status, answer.headers, answer.read()

    def peak_mib(self) -> float:
        """The most memory that the process has had since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def forget_peak(self) -> None:
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@pytest.fixture
def server(world, tmp_path) -> Iterator[Server]:
    facts = connection.settings_dict
    user, password = quote(facts["USER"]), quote(facts["PASSWORD"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spool = tmp_path / "spool"
    spool.mkdir()
    place = f"{facts['HOST']}:{facts['PORT']}/{facts['NAME']}"
    environment = os.environ | {
        "DATABASE_URL": f"postgresql://{user}:{password}@{place}",
        "SLIPWAY_PROCESS": "web",
        "SLIPWAY_ARTIFACT_DIR": str(tmp_path / "artifacts"),
        "TMPDIR": str(spool),
    }
    command = [sys.executable, "-m", "uvicorn", "tests.api.served:application", "--port", str(port)]
    log = (tmp_path / "log").open("wb")
    with log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            started = Server(process, port, spool)
            wait_until_it_answers(started, tmp_path / "log")
            yield started
        finally:
            process.terminate()
            process.wait(20)


def wait_until_it_answers(server: Server, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert server.process.poll() is None, log.read_text()
        try:
            if server.ask("GET", "/problems/")[0] == 200:
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(log.read_text())


def content() -> Iterator[bytes]:
    base = os.urandom(MIB - 4)
    for number in range(SIZE_MIB):
        yield number.to_bytes(4, "big") + base


def test_200_mb_go_in_and_out_without_staying_in_memory(server, ci_token):
    chunks = list(content())
    digest = f"sha256:{hashlib.sha256(b''.join(chunks)).hexdigest()}"
    headers = {"Authorization": f"Bearer {ci_token.secret}"}
    server.ask("GET", f"{API}/me", headers=headers)
    before = server.peak_mib()
    server.forget_peak()

    sent = headers | {"Content-Length": str(SIZE_MIB * MIB), "Content-Type": "application/gzip"}
    status, _, body = server.ask(
        "POST", f"{API}/artifacts", iter(chunks), sent | {"X-Slipway-Digest": digest}
    )
    assert status == 201, body
    assert server.peak_mib() - before < GROWTH_LIMIT_MIB

    server.forget_peak()
    hasher = hashlib.sha256()
    with server.asking("GET", f"{API}/artifacts/{digest}/content", headers=headers) as answer:
        while data := answer.read(MIB):
            hasher.update(data)
    assert f"sha256:{hasher.hexdigest()}" == digest
    assert server.peak_mib() - before < GROWTH_LIMIT_MIB

    part = headers | {"Range": f"bytes={150 * MIB}-"}
    status, _, body = server.ask("GET", f"{API}/artifacts/{digest}/content", headers=part)
    assert (status, body) == (206, b"".join(chunks[150:]))
    assert list(server.spool.iterdir()) == []


def test_a_stranger_does_not_fill_the_disk(server, world):
    for headers in ({}, {"Authorization": "Bearer slw_wrong"}, {"Cookie": "slipway_session=wrong"}):
        announced = {"Content-Length": str(2 * MIB), "Content-Type": "application/gzip"}
        status, answered, _ = server.ask("POST", f"{API}/artifacts", b"x" * 2 * MIB, headers | announced)
        assert (status, answered["WWW-Authenticate"][:6]) == (401, "Bearer")
        assert answered["Content-Type"] == "application/problem+json"


def test_a_body_that_grows_beyond_the_limit_is_cut_off(server, ci_token):
    headers = {"Authorization": f"Bearer {ci_token.secret}", "Content-Type": "application/json"}
    chunked = (b" " * 1000 for _ in range(2000))
    assert server.ask("POST", f"{API}/teams", chunked, headers | {"Transfer-Encoding": "chunked"})[0] == 413
    announced = headers | {"Content-Length": str(2 * MIB), "Expect": "100-continue"}
    assert server.ask("POST", f"{API}/teams", b"{}", announced)[0] == 413
    small = headers | {"Content-Length": str(65 * 1024), "Expect": "100-continue"}
    assert server.ask("POST", "/agent/v1/enrol", b"{}", small)[0] == 413


def test_an_upload_of_unknown_length_is_taken(server, ci_token):
    headers = {
        "Authorization": f"Bearer {ci_token.secret}",
        "Content-Type": "application/gzip",
        "Transfer-Encoding": "chunked",
    }
    status, _, body = server.ask("POST", f"{API}/artifacts", (b"x" * 1000 for _ in range(3)), headers)
    assert status == 201, body
    assert Artifact.objects.get().size_bytes == 3000


def test_an_upload_that_breaks_off_leaves_nothing_behind(server, ci_token, tmp_path):
    head = (
        f"POST {API}/artifacts HTTP/1.1\r\nHost: testserver\r\nAuthorization: Bearer {ci_token.secret}\r\n"
        "Content-Type: application/gzip\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(head.encode() + b"x" * 1000)
    time.sleep(0.3)
    assert server.ask("GET", "/problems/")[0] == 200
    assert not Artifact.objects.exists()
    assert not [path for path in (tmp_path / "artifacts").rglob("*") if path.is_file()]
