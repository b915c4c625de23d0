"""Releases: an artifact and a configuration under one version, for ever."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet
from drf_spectacular.utils import (
    OpenApiExample,
    extend_schema,
    extend_schema_field,
    extend_schema_serializer,
)
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.models import Hold, Release, Service
from deployments.reads import holds
from deployments.services.releases import create_release
from portal.api.filters import Filters, ReferenceFilter, flag, text
from portal.api.idempotency import idempotent
from portal.api.references import ReferenceField, find
from portal.api.shapes import In, Out, RefOut
from portal.api.views import DetailView, ListView


class Provenance(serializers.Serializer[Release]):
    """Where a release comes from; all of it is optional."""

    commit_sha = serializers.CharField(max_length=64, allow_blank=True, required=False)
    commit_message = serializers.CharField(
        max_length=20_000,
        allow_blank=True,
        required=False,
        help_text="Kept up to its first 500 characters.",
    )
    branch = serializers.CharField(max_length=255, allow_blank=True, required=False)
    author = serializers.CharField(max_length=255, allow_blank=True, required=False)
    committed_at = serializers.DateTimeField(allow_null=True, required=False)
    repository_url = serializers.URLField(max_length=200, allow_blank=True, required=False)
    pull_request_url = serializers.URLField(max_length=200, allow_blank=True, required=False)
    build_url = serializers.URLField(max_length=200, allow_blank=True, required=False)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "From CI",
            {
                "service": "orders",
                "version": "1.1",
                "artifact": "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "config": 3,
                "commit_sha": "4f2a9c1",
                "commit_message": "Round totals to the cent",
                "branch": "main",
                "author": "Ada",
                "build_url": "https://ci.example/builds/17",
            },
        )
    ]
)
class ReleaseIn(Provenance, In):
    service = ReferenceField()
    version = serializers.CharField(max_length=100)
    artifact = serializers.CharField(max_length=71, help_text="Digest.")
    config = serializers.CharField(max_length=36, help_text="Id, or number within the service.")


class ArtifactRefOut(Out):
    id = serializers.UUIDField()
    digest = serializers.CharField()
    size_bytes = serializers.IntegerField()


class ConfigRefOut(Out):
    id = serializers.UUIDField()
    number = serializers.IntegerField()
    digest = serializers.CharField()


class HoldOut(Out):
    """Why no rollout of the release starts."""

    reason = serializers.CharField()
    since = serializers.DateTimeField(source="created_at")
    placed_by = serializers.CharField()
    rollout = serializers.UUIDField(
        source="rollout_id", allow_null=True, help_text="Whose rollback placed it; null: a person did."
    )


class ReleaseOut(Provenance, Out):
    id = serializers.UUIDField()
    service = RefOut()
    version = serializers.CharField()
    artifact = ArtifactRefOut()
    config = ConfigRefOut()
    hold = serializers.SerializerMethodField(help_text="While it is on hold, no rollout of it starts.")
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()

    @extend_schema_field(HoldOut(allow_null=True))
    def get_hold(self, release: Release) -> Any:
        hold = release.hold if hasattr(release, "hold") else holds.of([release.pk]).get(release.pk)
        return HoldOut(hold).data if hold else None

    @classmethod
    def prepared(cls, rows: list[Any]) -> list[Any]:
        found = holds.of([release.pk for release in rows])
        for release in rows:
            release.hold = found.get(release.pk)
        return rows


class ReleaseFilter(Filters):
    on_hold = flag("only_on_hold", "Whether it is on hold.")
    service = ReferenceFilter("service")
    artifact = text("artifact__digest", "Digest.")

    class Meta:
        model = Release
        fields = ("version", "commit_sha", "branch")

    def only_on_hold(self, rows: QuerySet[Release], name: str, value: bool) -> QuerySet[Release]:
        held = Exists(Hold.objects.filter(release=OuterRef("pk"), lifted_at__isnull=True))
        return rows.filter(held) if value else rows.exclude(held)


class ReleaseList(ListView):
    queryset = Release.objects.select_related("service__team", "artifact", "config")
    serializer_class = ReleaseOut
    filterset_class = ReleaseFilter

    @extend_schema(request=ReleaseIn, responses={201: ReleaseOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        given = ReleaseIn.parse(request.data)
        services = access.visible(self.actor, Service.objects.all())
        service = find(services, given.pop("service"), field="service", remedy="Create it first.")
        config = find(
            service.configs.all(),
            given.pop("config"),
            field="config",
            remedy="POST it to /api/v1/configs first.",
            name_field="number",
        )
        release = create_release(
            actor=self.actor,
            service_id=service.pk,
            config_id=config.pk,
            artifact_digest=given.pop("artifact"),
            **given,
        )
        return ReleaseOut.response(release, status=201)


class ReleaseDetail(DetailView):
    queryset = Release.objects.select_related("service__team", "artifact", "config")
    serializer_class = ReleaseOut
    verb = "release.view"
