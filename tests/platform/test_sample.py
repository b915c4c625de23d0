"""The demo's service: it is healthy, it breaks as meant, it stops without dropping a request."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

from portal.local.ports import free_port
from portal.local.sample.build import build, build_all


@contextmanager
def running(version: str, tmp_path, **environment: str):
    with tarfile.open(fileobj=io.BytesIO(build(version).data)) as archive:
        archive.extractall(tmp_path)
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "orders.py"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PORT": str(port), "REGION": "eu", **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        process.stdout.readline()  # it says so when it listens
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def get(url: str, data: bytes | None = None) -> tuple[int, dict]:
    try:
        with urllib.request.urlopen(url, data=data, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_good_version_is_healthy_and_says_where_it_runs(tmp_path):
    with running("1.1", tmp_path, DATABASE_PASSWORD="hunter2") as (_, url):
        assert get(f"{url}/healthz") == (200, {"status": "ok", "version": "1.1"})
        status, body = get(f"{url}/orders")
        assert (status, body["version"], body["region"], body["database"]) == (200, "1.1", "eu", "connected")
        assert "hunter2" not in json.dumps(body)


def test_an_order_is_kept_and_an_unknown_item_is_refused(tmp_path):
    with running("1.0", tmp_path) as (_, url):
        assert get(f"{url}/orders", b'{"item": "tea"}') == (201, {"id": 1, "item": "tea", "price": 2.8})
        status, body = get(f"{url}/orders", b'{"item": "gold"}')
        assert status == 400
        assert "coffee, tea" in body["error"]
        assert get(f"{url}/orders")[1]["orders"] == 1


def test_the_configuration_file_is_read(tmp_path):
    (tmp_path / "own.json").write_text('{"greeting": "hello"}')
    with running("1.0", tmp_path, ORDERS_CONFIG=str(tmp_path / "own.json")) as (_, url):
        assert get(f"{url}/orders")[1]["greeting"] == "hello"


def test_the_broken_version_starts_and_says_why_it_is_unhealthy(tmp_path):
    with running("1.2", tmp_path) as (process, url):
        status, body = get(f"{url}/healthz")
        assert status == 500
        assert body["reason"] == "prices.csv, line 3: no item and price: cake,4,80"
        assert "prices.csv, line 3" in process.stdout.readline()


def test_a_request_in_flight_is_answered_before_it_stops(tmp_path):
    with running("1.3", tmp_path) as (process, url):
        port = int(url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET /orders HTTP/1.0\r\n")
            time.sleep(0.1)  # accepted, and waiting for the rest of the request
            process.send_signal(signal.SIGTERM)
            threading.Timer(0.2, client.sendall, [b"\r\n"]).start()
            with client.makefile("rb") as answer:
                assert answer.readline().startswith(b"HTTP/1.0 200")
        assert process.wait(timeout=5) == 0
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)


def test_artifacts_are_the_same_bytes_each_time_and_different_for_each_version():
    digests = [artifact.digest for artifact in build_all()]
    assert digests == [artifact.digest for artifact in build_all()]
    assert len(set(digests)) == 4


def test_artifacts_hold_plain_files_without_owner_or_time():
    with tarfile.open(fileobj=io.BytesIO(build("1.0").data)) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == ["VERSION", "orders.py", "prices.csv"]
    assert {(member.mtime, member.uid, member.gid) for member in members} == {(0, 0, 0)}
    assert all(member.isreg() for member in members)
