"""Holds: keep a release out of every environment, and let it in again."""

from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from deployments.models import Release
from deployments.services.holds import hold_release, lift_hold
from portal.api.idempotency import idempotent
from portal.api.releases import ReleaseDetail, ReleaseOut
from portal.api.shapes import ReasonIn


class _Holds(ReleaseDetail):
    http_method_names = ("post", "options")

    def answer(self, id: UUID) -> Response:
        return ReleaseOut.response(self.get_queryset().get(pk=id))


class PlaceHold(_Holds):
    @extend_schema(request=ReasonIn, responses=ReleaseOut)
    @idempotent()
    def post(self, request: Request, id: UUID) -> Response:
        """Keep it out: no rollout of it starts until the hold is lifted. What moves already goes on."""
        hold_release(actor=self.actor, release_id=id, **ReasonIn.parse(request.data))
        return self.answer(id)


class LiftHold(_Holds):
    @extend_schema(request=ReasonIn, responses=ReleaseOut)
    @idempotent()
    def post(self, request: Request, id: UUID) -> Response:
        """Let it in again."""
        release: Release = lift_hold(actor=self.actor, release_id=id, **ReasonIn.parse(request.data))
        return self.answer(release.pk)
