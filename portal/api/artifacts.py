"""Artifacts: raw bytes in, facts about them and the same bytes out."""

from collections.abc import Iterator
from typing import IO, Any

from django.conf import settings
from django.http import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.artifacts import store
from deployments.errors import TooLarge
from deployments.models import Artifact
from deployments.services.releases import register_artifact, upload_artifact
from portal.api import idempotency
from portal.api.downloads import artifact_response
from portal.api.filters import Filters
from portal.api.problems import UnsupportedMediaType
from portal.api.shapes import Out
from portal.api.views import ApiView, DetailView, ListView

MEDIA_TYPES = ("application/octet-stream", "application/gzip", "application/x-gzip", "application/x-tar")


class ArtifactOut(Out):
    id = serializers.UUIDField()
    digest = serializers.CharField()
    size_bytes = serializers.IntegerField()
    media_type = serializers.CharField()
    filename = serializers.CharField()
    uploaded_by = serializers.CharField(source="uploaded_by.username", default=None, allow_null=True)
    created_at = serializers.DateTimeField()
    links = serializers.SerializerMethodField()

    def get_links(self, artifact: Artifact) -> dict[str, str]:
        path = f"/api/v1/artifacts/{artifact.digest}"
        return {"self": path, "content": f"{path}/content"}


class ArtifactFilter(Filters):
    class Meta:
        model = Artifact
        fields = ("digest", "filename")


class RawParser(BaseParser):
    """Leaves the body where it is: the view reads it in chunks."""

    media_type = "*/*"

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> Any:
        return None


class ArtifactList(ListView):
    queryset = Artifact.objects.select_related("uploaded_by")
    serializer_class = ArtifactOut
    filterset_class = ArtifactFilter
    parser_classes = (RawParser,)
    max_body_bytes = 0  # the store has its own limit

    @extend_schema(
        request=dict.fromkeys(MEDIA_TYPES, OpenApiTypes.BINARY),
        responses={201: ArtifactOut},
        parameters=[
            OpenApiParameter(
                "X-Slipway-Digest",
                location=OpenApiParameter.HEADER,
                description="`sha256:` and 64 hex digits. The bytes are refused where they have another one.",
            ),
            OpenApiParameter(
                "X-Slipway-Filename",
                location=OpenApiParameter.HEADER,
                description="Shown to people.",
                examples=[OpenApiExample("A file name", "orders-1.0.tar.gz")],
            ),
        ],
    )
    def post(self, request: Request) -> Response:
        """Upload the raw bytes; the same bytes again answer with the artifact that there is."""
        given = self.given(request)
        if idempotency.HEADER not in request.headers:
            return self.answer(upload_artifact(actor=self.actor, chunks=_chunks(request), **given))
        return self.upload_once(request, **given)

    def upload_once(self, request: Request, digest: str | None, filename: str, media_type: str) -> Response:
        """As `post`, with an Idempotency-Key: what was received stands for the body."""
        access.require(self.actor, "artifact.upload")
        limit = settings.SLIPWAY.artifact_max_bytes
        stored = store.put(_chunks(request), digest=digest, max_bytes=limit)
        return idempotency.run(
            request,
            f"{stored.digest} {filename} {media_type}",
            lambda: self.answer(
                register_artifact(actor=self.actor, stored=stored, filename=filename, media_type=media_type)
            ),
        )

    def given(self, request: Request) -> dict[str, Any]:
        media_type = (request.content_type or "").partition(";")[0].strip().lower()
        if media_type not in MEDIA_TYPES:
            raise UnsupportedMediaType(
                f"Send the artifact's bytes as the body, with Content-Type {' or '.join(MEDIA_TYPES[:2])}, "
                f"not {media_type or 'none'}."
            )
        length = request.META.get("CONTENT_LENGTH") or ""
        limit = settings.SLIPWAY.artifact_max_bytes
        if length.isdecimal() and int(length) > limit:
            raise TooLarge(f"The artifact has {length} bytes; the limit is {limit} bytes.")
        return {
            "digest": request.headers.get("X-Slipway-Digest") or None,
            "filename": request.headers.get("X-Slipway-Filename", ""),
            "media_type": media_type,
        }

    def answer(self, artifact: Artifact) -> Response:
        return ArtifactOut.response(artifact, status=201)


class ArtifactDetail(DetailView):
    queryset = Artifact.objects.select_related("uploaded_by")
    serializer_class = ArtifactOut
    verb = "artifact.view"
    lookup = "digest"


class ArtifactContent(ApiView):
    queryset = Artifact.objects.all()

    @extend_schema(
        responses={
            (200, "application/octet-stream"): OpenApiTypes.BINARY,
            (206, "application/octet-stream"): OpenApiTypes.BINARY,
        },
        parameters=[
            OpenApiParameter("Range", location=OpenApiParameter.HEADER, description="One range of bytes.")
        ],
    )
    def get(self, request: Request, digest: str) -> HttpResponseBase:
        """The bytes. The ETag is the digest; a broken download goes on with Range and If-Range."""
        artifact = access.get(self.actor, "artifact.view", self.get_queryset(), digest=digest)
        return artifact_response(request._request, artifact)


def _chunks(request: Request) -> Iterator[bytes]:
    """The body as it comes; never all of it."""
    while chunk := request._request.read(store.CHUNK_BYTES):
        yield chunk
