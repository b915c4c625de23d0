"""The portal's Django application: configuration checks and logging start here."""

from django.apps import AppConfig


class PortalConfig(AppConfig):
    name = "portal"
    verbose_name = "Portal"

    def ready(self) -> None:
        from portal import checks  # noqa: F401  importing registers the system checks
        from portal.logging import configure_structlog

        configure_structlog()
