"""Configurations: immutable snapshots, numbered within their service."""

from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import access
from deployments.models import ConfigSnapshot, Service
from deployments.services.releases import create_config
from portal.api.filters import Filters, ReferenceFilter
from portal.api.idempotency import idempotent
from portal.api.references import ReferenceField, find
from portal.api.shapes import In, Out, RefOut
from portal.api.views import DetailView, ListView


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "An HTTP service",
            {
                "service": "orders",
                "base": {
                    "process": {"command": ["python3", "app.py"]},
                    "env": {
                        "PORT": "${target.port}",
                        "DB_PASSWORD": "${secret:vault:shop/orders/db#password}",
                    },
                    "health": {"kind": "http", "port": "${target.port}", "path": "/health"},
                },
                "overlays": {"prod": {"env": {"LOG_LEVEL": "warning"}}},
            },
        )
    ]
)
class ConfigIn(In):
    service = ReferenceField()
    base = serializers.DictField()
    overlays = serializers.DictField(default=dict, help_text="Environment name -> what differs there.")


class ConfigOut(Out):
    id = serializers.UUIDField()
    service = RefOut()
    number = serializers.IntegerField()
    base = serializers.DictField()
    overlays = serializers.DictField()
    digest = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()


class ConfigFilter(Filters):
    service = ReferenceFilter("service")

    class Meta:
        model = ConfigSnapshot
        fields = ("number", "digest")


class ConfigList(ListView):
    queryset = ConfigSnapshot.objects.select_related("service__team")
    serializer_class = ConfigOut
    filterset_class = ConfigFilter

    @extend_schema(request=ConfigIn, responses={201: ConfigOut})
    @idempotent()
    def post(self, request: Request) -> Response:
        """Keep a configuration; the same content again answers with the one that there is."""
        given = ConfigIn.parse(request.data)
        services = access.visible(self.actor, Service.objects.all())
        service = find(services, given["service"], field="service", remedy="Create it first.")
        config = create_config(
            actor=self.actor, service_id=service.pk, base=given["base"], overlays=given["overlays"]
        )
        return ConfigOut.response(config, status=201)


class ConfigDetail(DetailView):
    queryset = ConfigSnapshot.objects.select_related("service__team")
    serializer_class = ConfigOut
    verb = "config.view"
