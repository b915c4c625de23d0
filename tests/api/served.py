"""The REST API as a server of its own serves it: `uvicorn tests.api.served:application`."""

from django.core.asgi import get_asgi_application

django = get_asgi_application()

# After Django is set up: it imports models.
from portal.api.limits import bounded  # noqa: E402

application = bounded(django)
