import dataclasses
import errno
import hashlib
from datetime import UTC, datetime

import pytest
from django.conf import settings
from django.db import DatabaseError, connection, transaction

from audit.models import Entry
from deployments.errors import AlreadyExists, DigestMismatch, Invalid, NotFound, StorageFull, TooLarge
from deployments.models import Artifact, ConfigSnapshot, Release
from deployments.services import releases as commands
from tests.fixtures import CONFIG


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def upload(actor, content=b"bytes", **given):
    return commands.upload_artifact(actor=actor, chunks=[content], **given)


class TestArtifacts:
    def test_the_same_bytes_again_are_the_same_artifact(self, teammate, outsider, world):
        first = upload(teammate, filename="orders.tar.gz")
        again = upload(outsider, filename="other.tar.gz")
        assert first == again
        assert Artifact.objects.count() == 1
        assert [e.after["known"] for e in Entry.objects.order_by("id")] == [False, True]

    def test_only_the_last_part_of_a_file_name_is_kept(self, teammate, world):
        assert upload(teammate, filename="../../etc/orders.tar.gz").filename == "orders.tar.gz"
        assert upload(teammate, b"2", filename="C:\\builds\\orders.tar.gz").filename == "orders.tar.gz"

    def test_bytes_with_another_digest_are_refused(self, teammate, world):
        with pytest.raises(DigestMismatch, match="Upload the artifact again"):
            upload(teammate, b"truncat", digest=digest_of(b"truncated"))
        assert not Artifact.objects.exists()
        assert not Entry.objects.exists()

    def test_more_than_the_limit_is_refused(self, teammate, world, monkeypatch):
        monkeypatch.setattr(commands, "settings", limited(3))
        with pytest.raises(TooLarge, match="limit of 3 bytes"):
            upload(teammate, b"1234")

    def test_a_full_disk_is_said_so(self, teammate, world, monkeypatch):
        def full(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("deployments.artifacts.store.os.fsync", full)
        with pytest.raises(StorageFull, match="make room"):
            upload(teammate)
        assert not Artifact.objects.exists()
        assert not Entry.objects.exists()


class TestConfigs:
    def create(self, actor, service, base=CONFIG, overlays=None):
        return commands.create_config(actor=actor, service_id=service.id, base=base, overlays=overlays)

    def test_numbers_count_within_the_service(self, admin, orders, catalog):
        bills = catalog.service("bills", targets=0)
        assert self.create(admin, orders).number == 1
        assert self.create(admin, orders, CONFIG | {"env": {}}).number == 2
        assert self.create(admin, bills).number == 1

    def test_the_same_content_again_is_the_same_snapshot(self, teammate, orders):
        first = self.create(teammate, orders)
        again = self.create(teammate, orders, dict(reversed(CONFIG.items())))
        assert first == again
        assert ConfigSnapshot.objects.count() == Entry.objects.count() == 1

    @pytest.mark.parametrize(
        ("base", "message"),
        [
            ({}, "process"),
            ({"process": {"command": []}}, "process.command must name a program"),
            (CONFIG | {"evn": {}}, "evn"),
            (CONFIG | {"env": {"A B": "1"}}, "env name 'A B'"),
            (CONFIG | {"env": {"A": "${secret:vault:nokey}"}}, "PATH#KEY"),
            (CONFIG | {"env": {"A": "${secret:vault:../../auth/token/lookup-self#id}"}}, "dot in front"),
            (CONFIG | {"env": {"A": "${secret:vault:shop/orders/../x#id}"}}, "dot in front"),
            (CONFIG | {"env": {"A": "${secret:vault:/shop/orders#id}"}}, "PATH#KEY"),
            (CONFIG | {"env": {"A": "${secret:vault:shop//orders#id}"}}, "PATH#KEY"),
            (CONFIG | {"env": {"A": "${secret:vault:shop/orders#id\n}"}}, "PATH#KEY"),
            (CONFIG | {"files": {"../etc/passwd": ""}}, "relative path"),
            (CONFIG | {"health": {"kind": "telepathy"}}, "health.kind"),
            (CONFIG | {"health": {"timeout_ms": 1.5}}, "float"),
            (CONFIG | {"env": {"A": "x\0y"}}, "NUL"),
            (CONFIG | {"env": {"A": "\ud800"}}, "cannot be kept"),
            ([], "must be a JSON object"),
        ],
    )
    def test_what_is_not_valid_is_refused_with_its_place(self, teammate, orders, base, message):
        with pytest.raises(Invalid, match=message):
            self.create(teammate, orders, base)
        assert not ConfigSnapshot.objects.exists()
        assert not Entry.objects.exists()

    def test_an_overlay_is_checked_merged_and_for_an_environment_that_exists(self, teammate, orders):
        with pytest.raises(Invalid, match=r"prod: process.command"):
            self.create(teammate, orders, overlays={"prod": {"process": {"command": []}}})
        with pytest.raises(Invalid, match=r"no environment prdo\. Known: prod"):
            self.create(teammate, orders, overlays={"prdo": {}})
        assert self.create(teammate, orders, overlays={"prod": {"env": {"A": "1"}}}).number == 1


class TestSecretsOfAConfig:
    """The template is `{team}/{service}` unless a test says otherwise."""

    def create(self, actor, service, base=CONFIG, overlays=None):
        return commands.create_config(actor=actor, service_id=service.id, base=base, overlays=overlays)

    def naming(self, path):
        return CONFIG | {"env": {"DB": f"postgres://u:${{secret:vault:{path}#password}}@h"}}

    @pytest.mark.parametrize("path", ["shop/orders", "shop/orders/db", "shop/orders/prod/db"])
    def test_its_own_are_accepted(self, teammate, orders, path):
        assert self.create(teammate, orders, self.naming(path)).number == 1

    @pytest.mark.parametrize("path", ["shop", "shop/orders-eu", "shop/bills/db", "shop/orders.db", "db"])
    def test_others_of_its_team_are_refused(self, teammate, orders, path):
        with pytest.raises(Invalid, match=rf"secret {path} is not .* lie at shop/orders or below"):
            self.create(teammate, orders, self.naming(path))
        assert not ConfigSnapshot.objects.exists()

    def test_a_deployer_of_another_team_cannot_name_them(self, outsider, orders, catalog):
        theirs = catalog.service("bills", team=catalog.other_team, targets=0)
        with pytest.raises(Invalid, match=r"Its secrets lie at .*/bills or below"):
            self.create(outsider, theirs, self.naming("shop/orders/db"))
        with pytest.raises(NotFound):
            self.create(outsider, orders, self.naming("shop/orders/db"))
        assert not ConfigSnapshot.objects.exists()

    def test_an_overlay_is_no_way_around(self, teammate, orders):
        overlays = {"prod": {"env": {"DB": "${secret:vault:other/bills#password}"}}}
        with pytest.raises(Invalid, match="prod: the secret other/bills is not"):
            self.create(teammate, orders, overlays=overlays)

    def test_a_place_for_each_environment_is_held_under_its_overlay(self, teammate, orders, settings_with):
        settings_with(vault_path_template="{environment}/{service}")
        base = self.naming("prod/orders/db")
        assert self.create(teammate, orders, base, {"prod": {}}).number == 1
        with pytest.raises(Invalid, match=r"prod: .* lie at prod/orders or below"):
            self.create(teammate, orders, self.naming("dev/orders/db"), {"prod": {}})

    def test_without_a_template_all_may_be_named(self, teammate, orders, settings_with):
        settings_with(vault_path_template="")
        assert self.create(teammate, orders, self.naming("other/bills")).number == 1

    @pytest.fixture
    def settings_with(self, settings):
        def change(**values):
            settings.SLIPWAY = dataclasses.replace(settings.SLIPWAY, **values)

        return change


class TestReleases:
    @pytest.fixture
    def given(self, teammate, orders, catalog):
        return {
            "actor": teammate,
            "service_id": orders.id,
            "version": "1.0",
            "artifact_digest": upload(teammate).digest,
            "config_id": catalog.config(orders).id,
        }

    def test_a_release_carries_where_it_comes_from(self, given):
        at = datetime(2026, 1, 2, tzinfo=UTC)
        release = commands.create_release(
            **given, commit_sha="4f2a9c1", commit_message="m" * 501, author="Ada", committed_at=at
        )
        assert (release.commit_sha, release.author, release.committed_at) == ("4f2a9c1", "Ada", at)
        assert release.commit_message == "m" * 499 + "…"
        assert release.created_by == "teammate"
        assert Entry.objects.latest("id").after["commit_sha"] == "4f2a9c1"

    def test_the_same_pair_again_is_the_same_release(self, given):
        first = commands.create_release(**given)
        before = Entry.objects.count()
        assert commands.create_release(**given, commit_sha="other") == first
        assert Entry.objects.count() == before

    def test_a_version_with_another_pair_is_refused(self, given, teammate):
        commands.create_release(**given)
        other = upload(teammate, b"other bytes").digest
        with pytest.raises(AlreadyExists, match=r"a release never changes\. Take a new version"):
            commands.create_release(**given | {"artifact_digest": other})

    def test_an_unknown_artifact_says_what_to_do(self, given):
        with pytest.raises(Invalid, match="POST its bytes to /api/v1/artifacts first") as refused:
            commands.create_release(**given | {"artifact_digest": digest_of(b"never seen")})
        assert "artifact" in refused.value.extra["errors"]

    def test_an_artifact_of_another_team_is_unknown(self, given, outsider):
        foreign = upload(outsider, b"secret program").digest
        with pytest.raises(Invalid, match="no artifact"):
            commands.create_release(**given | {"artifact_digest": foreign})

    def test_what_the_teams_ci_uploaded_its_people_release(self, given, owner, ci_token):
        by_ci = upload(ci_token, b"built by ci").digest
        release = commands.create_release(**given | {"actor": owner, "artifact_digest": by_ci})
        assert release.artifact.uploaded_by == ci_token.user

    def test_a_configuration_of_another_service_is_refused(self, given, catalog):
        bills = catalog.service("bills", targets=0)
        with pytest.raises(Invalid, match="config"):
            commands.create_release(**given | {"config_id": catalog.config(bills).id})

    @pytest.mark.parametrize("version", ["", " 1.0", "1 0", "x" * 101, "-1", "1\0"])
    def test_a_version_is_a_word(self, given, version):
        with pytest.raises(Invalid, match="version"):
            commands.create_release(**given | {"version": version})

    def test_a_digest_that_is_none_is_refused(self, given):
        with pytest.raises(Invalid, match="64 lower-case hex digits"):
            commands.create_release(**given | {"artifact_digest": "latest"})

    def test_a_service_that_is_not_there_is_not_found(self, given, orders):
        with pytest.raises(NotFound):
            commands.create_release(**given | {"service_id": orders.team_id})


@pytest.mark.parametrize("model", [Artifact, ConfigSnapshot, Release])
def test_the_database_refuses_to_change_what_is_immutable(catalog, orders, model):
    catalog.release(orders)
    row = model.objects.get()
    with pytest.raises(DatabaseError, match="immutable"), transaction.atomic():
        model.objects.filter(pk=row.pk).update(created_at="2001-01-01T00:00Z")
    with pytest.raises(DatabaseError, match="immutable"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"UPDATE {model._meta.db_table} SET created_at = now() WHERE id = %s", [row.pk])


def limited(max_bytes):
    import dataclasses
    import types

    return types.SimpleNamespace(SLIPWAY=dataclasses.replace(settings.SLIPWAY, artifact_max_bytes=max_bytes))


def test_the_same_bytes_from_two_teams_are_one_artifact_that_both_may_release(world, owner, outsider):
    mine = commands.upload_artifact(actor=owner, chunks=[b"same"])
    theirs = commands.upload_artifact(actor=outsider, chunks=[b"same"])
    assert mine == theirs
    service = world.service("bills", team=world.other_team, targets=0)
    release = commands.create_release(
        actor=outsider,
        service_id=service.id,
        version="1.0",
        artifact_digest=theirs.digest,
        config_id=world.config(service).id,
    )
    assert release.artifact == mine
