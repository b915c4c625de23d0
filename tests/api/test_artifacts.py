import dataclasses
import errno
import hashlib
import os

import pytest

from audit.models import Entry
from deployments.models import Artifact
from tests.api.conftest import API, created, problem

CONTENT = bytes(range(256)) * 4
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def ci(api, ci_token):
    return api(ci_token)


def test_the_same_upload_again_answers_with_the_same_artifact(ci):
    first = created(ci.upload(CONTENT, {"X-Slipway-Filename": "orders.tar.gz"}))
    again = created(ci.upload(CONTENT))
    assert first == again
    assert first["digest"] == DIGEST
    assert first["size_bytes"] == len(CONTENT)
    assert first["uploaded_by"] == "ci"
    assert first["links"]["content"] == f"{API}/artifacts/{DIGEST}/content"
    assert ci.get(f"/artifacts/{DIGEST}").json() == first


def test_truncated_or_mismatching_bytes_are_refused_and_not_kept(ci):
    refused = ci.upload(CONTENT[:-1], {"X-Slipway-Digest": DIGEST})
    body = problem(refused, 422, "digest-mismatch")
    assert "Upload the artifact again" in body["detail"]
    assert DIGEST in body["detail"]
    assert nothing_was_kept()


@pytest.mark.parametrize("digest", ["latest", "sha256:abc", "SHA256:" + "a" * 64])
def test_a_digest_that_is_none_is_refused(ci, digest):
    body = problem(ci.upload(CONTENT, {"X-Slipway-Digest": digest}), 422, "invalid")
    assert "digest" in body["errors"]
    assert nothing_was_kept()


def test_nothing_is_no_artifact(ci):
    answer = ci.client.generic(
        "POST", f"{API}/artifacts", b"", headers=ci.headers, CONTENT_TYPE="application/gzip"
    )
    assert "empty" in problem(answer, 422, "invalid")["detail"]


def test_more_than_the_limit_is_refused_before_it_is_read(ci, settings):
    settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, artifact_max_bytes=1000)
    assert "limit is 1000 bytes" in problem(ci.upload(CONTENT), 413, "too-large")["detail"]
    assert nothing_was_kept()


def test_a_full_disk_says_what_to_do_and_keeps_nothing(ci, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("deployments.artifacts.store.os.fsync", full)
    refused = ci.upload(CONTENT)
    assert "make room" in problem(refused, 507, "storage-full")["detail"]
    assert nothing_was_kept()
    monkeypatch.undo()
    created(ci.upload(CONTENT))


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "text/html"])
def test_another_media_type_is_refused(ci, content_type):
    refused = ci.upload(CONTENT, content_type=content_type)
    assert "application/gzip" in problem(refused, 415, "unsupported-media-type")["detail"]
    assert nothing_was_kept()


def test_a_repeated_key_answers_again_and_another_content_under_it_is_refused(ci):
    key = {"Idempotency-Key": "build-17"}
    first = ci.upload(CONTENT, key)
    again = ci.upload(CONTENT, key)
    assert created(first) == created(again)
    assert again.headers["Idempotency-Replayed"] == "true"
    problem(ci.upload(b"other bytes", key), 422, "idempotency-mismatch")
    assert Artifact.objects.count() == Entry.objects.count() == 1


class TestDownload:
    @pytest.fixture(autouse=True)
    def uploaded(self, ci):
        created(ci.upload(CONTENT))

    def content(self, ci, **headers):
        return ci.get(
            f"/artifacts/{DIGEST}/content", headers={k.replace("_", "-"): v for k, v in headers.items()}
        )

    def test_the_same_bytes_come_out(self, ci):
        answer = self.content(ci)
        assert answer.status_code == 200
        assert b"".join(answer) == CONTENT
        assert answer.headers["ETag"] == f'"{DIGEST}"'
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Type"] == "application/gzip"

    @pytest.mark.parametrize(
        ("header", "expected", "content_range"),
        [
            ("bytes=0-0", CONTENT[:1], "bytes 0-0/1024"),
            ("bytes=100-199", CONTENT[100:200], "bytes 100-199/1024"),
            ("bytes=1000-", CONTENT[1000:], "bytes 1000-1023/1024"),
            ("bytes=-24", CONTENT[-24:], "bytes 1000-1023/1024"),
        ],
    )
    def test_a_range_comes_out(self, ci, header, expected, content_range):
        answer = self.content(ci, Range=header)
        assert answer.status_code == 206
        assert b"".join(answer) == expected
        assert answer.headers["Content-Range"] == content_range
        assert answer.headers["Content-Length"] == str(len(expected))

    def test_a_range_outside_is_refused_with_the_size(self, ci):
        refused = self.content(ci, Range="bytes=1024-")
        problem(refused, 416, "range-not-satisfiable")
        assert refused.headers["Content-Range"] == "bytes */1024"

    def test_if_range_with_another_tag_gets_everything(self, ci):
        answer = self.content(ci, Range="bytes=1-", If_Range=f'"{DIGEST}"')
        assert (answer.status_code, b"".join(answer)) == (206, CONTENT[1:])
        answer = self.content(ci, Range="bytes=1-", If_Range='"sha256:other"')
        assert (answer.status_code, b"".join(answer)) == (200, CONTENT)

    def test_who_has_it_already_is_told_so(self, ci):
        assert self.content(ci, If_None_Match=f'"{DIGEST}"').status_code == 304

    def test_an_outsider_learns_nothing(self, ci, api, outsider):
        path = f"/artifacts/{DIGEST}"
        missing = path[:-4] + "0000"
        for tail in ("", "/content"):
            hidden = problem(api(outsider).get(path + tail), 404, "not-found")
            assert hidden == problem(api(outsider).get(missing + tail), 404, "not-found")

    def test_bytes_that_the_store_has_lost_are_not_found(self, ci, world):
        Artifact.objects.create(digest="sha256:" + "0" * 64, size_bytes=5, uploaded_by_id=ci_user())
        lost = ci.get(f"/artifacts/sha256:{'0' * 64}/content")
        problem(lost, 404, "not-found")


def ci_user():
    from portal.accounts.models import User

    return User.objects.get(username="ci").pk


def nothing_was_kept() -> bool:
    return not Artifact.objects.exists() and not Entry.objects.exists()
