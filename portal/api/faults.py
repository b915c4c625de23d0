"""Faults of jobs, for administrators: what failed, how often, and the way out of quarantine."""

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from deployments import queueing
from deployments.models import JobFault
from deployments.reads.faults import state_of
from deployments.services.faults import release_fault
from portal.api.filters import Filters, is_set
from portal.api.idempotency import idempotent
from portal.api.shapes import Out, ReasonIn
from portal.api.views import DetailView, ListView


class FaultOut(Out):
    id = serializers.IntegerField()
    function = serializers.CharField(help_text="What was called.")
    subject = serializers.CharField(help_text="With what: the id of a rollout, for a tick.")
    rollout = serializers.SerializerMethodField(help_text="Id of the rollout that it is about.")
    state = serializers.SerializerMethodField(help_text="`retrying`, `quarantined` or `released`.")
    error = serializers.CharField()
    traceback = serializers.CharField()
    failures = serializers.IntegerField(help_text="In a row.")
    first_at = serializers.DateTimeField()
    last_at = serializers.DateTimeField()
    quarantined_at = serializers.DateTimeField(allow_null=True)
    released_at = serializers.DateTimeField(allow_null=True)
    released_by = serializers.CharField()

    def get_rollout(self, fault: JobFault) -> str | None:
        return fault.subject if fault.function == queueing.TICK else None

    def get_state(self, fault: JobFault) -> str:
        return state_of(fault)


class FaultFilter(Filters):
    quarantined = is_set("quarantined_at")
    released = is_set("released_at")

    class Meta:
        model = JobFault
        fields = ("function", "subject")


class FaultList(ListView):
    """Administrators only."""

    queryset = JobFault.objects.all()
    serializer_class = FaultOut
    filterset_class = FaultFilter


class FaultDetail(DetailView):
    queryset = JobFault.objects.all()
    serializer_class = FaultOut
    verb = "fault.view"


class FaultRelease(DetailView):
    queryset = JobFault.objects.all()
    serializer_class = FaultOut
    verb = "fault.view"
    http_method_names = ("post", "options")

    @extend_schema(request=ReasonIn, responses=FaultOut)
    @idempotent()
    def post(self, request: Request, id: int) -> Response:
        """Try it again now, and count anew; a rollout in quarantine is the engine's again."""
        fault = release_fault(actor=self.actor, fault_id=id, **ReasonIn.parse(request.data))
        return FaultOut.response(fault)
