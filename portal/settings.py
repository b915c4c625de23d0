"""The one settings module. What an operator decides comes from `portal.env`; the rest is decided here."""

import os
from typing import Any

from csp.constants import NONE, SELF

from deployments.domain.states import BatchState, RolloutState, TargetState, TaskState
from portal import env
from portal.database import database_config
from portal.logging import logging_config

SLIPWAY = env.read(os.environ)

BASE_DIR = env.CHECKOUT
DEBUG = SLIPWAY.debug
SECRET_KEY = SLIPWAY.secret_key
ALLOWED_HOSTS = sorted({SLIPWAY.public_host, "localhost", "127.0.0.1", "[::1]"})

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "guardian",
    "django_q",
    "channels",
    "django_htmx",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "csp",
    "portal.accounts",
    "portal",
    "deployments",
    "audit",
]

MIDDLEWARE = [
    "portal.middleware.request_id_middleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

DATABASES = {"default": database_config(SLIPWAY)}

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

LANGUAGE_CODE = "en-us"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True

# --- who --------------------------------------------------------------------------------------------

AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
# Nobody is anonymous here: without this guardian makes a user row for nobody.
ANONYMOUS_USER_NAME = None
GUARDIAN_MONKEY_PATCH_USER = False
SESSION_COOKIE_NAME = "slipway_session"
SESSION_COOKIE_AGE = 12 * 3600
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"

# --- the browser's side of security -------------------------------------------------------------------

CSRF_TRUSTED_ORIGINS = [SLIPWAY.public_url]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SLIPWAY.is_https
SECURE_SSL_REDIRECT = SLIPWAY.is_https
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if SLIPWAY.is_https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SLIPWAY.is_https
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# The preload list is a promise about a whole domain, for its owner to make and not for one program on it.
SILENCED_SYSTEM_CHECKS = ["security.W021"]
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    },
}

# --- static files -------------------------------------------------------------------------------------

STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = SLIPWAY.static_root
# Without a collected directory files are served from where they lie, under their plain names.
WHITENOISE_USE_FINDERS = STATIC_ROOT is None
WHITENOISE_AUTOREFRESH = DEBUG
STORAGES = {
    "default": {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": SLIPWAY.artifact_dir},
    },
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if STATIC_ROOT
        else "django.contrib.staticfiles.storage.StaticFilesStorage",
    },
}

# --- REST ---------------------------------------------------------------------------------------------

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "portal.api.authentication.TokenAuthentication",
        "portal.api.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_FILTER_BACKENDS": ["django_filters.rest_framework.DjangoFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "portal.api.problems.handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Slipway",
    "DESCRIPTION": "Register services and targets, hand in artifacts, roll releases out, read what happened.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "COMPONENT_SPLIT_REQUEST": True,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "Tier": "deployments.models.catalog.Environment.Tier",
        "Role": "deployments.models.teams.Membership.Role",
        "Health": "deployments.models.catalog.Target.Health",
        "RolloutKind": "deployments.models.rollouts.Rollout.Kind",
        "TaskKind": "deployments.models.rollouts.Task.Kind",
        "RolloutState": [state.value for state in RolloutState],
        "BatchState": [state.value for state in BatchState],
        "TargetState": [state.value for state in TargetState],
        "TaskState": [state.value for state in TaskState],
    },
}

# --- jobs ---------------------------------------------------------------------------------------------

Q_CLUSTER: dict[str, Any] = {
    "name": "slipway",
    "broker_class": "deployments.broker.PostgresBroker",
    "workers": SLIPWAY.worker_processes,
    # Seconds. A job is a tick or one outside call; one that was taken and not acknowledged within
    # `retry` belongs to a dead worker and is handed out again.
    "timeout": 20,
    "retry": 30,
    # A failed job is not repeated by the queue: what it stood for is found again by the sweep.
    "ack_failures": True,
    # The last resort: a job that kills its worker each time is in quarantine before that.
    "max_attempts": 10,
    "bulk": 10,
    "queue_limit": 20,
    # Successes are not kept: a row each would cost more than the job.
    "save_limit": -1,
    # Time is the clock process's business.
    "scheduler": False,
    "recycle": 5000,
    "log_level": "WARNING",
}

# --- logs ---------------------------------------------------------------------------------------------

LOGGING = logging_config(log_format=SLIPWAY.log_format, level=SLIPWAY.log_level)
