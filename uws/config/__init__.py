"""What an operator declares: read from TOML, or from functions, to typed settings."""

from uws.config.access import AuthSettings, OIDCSettings, ProxySettings, RoleSettings
from uws.config.hosts import is_loopback
from uws.config.reading import load
from uws.config.services import make_service, service_of
from uws.config.settings import (
    AuditSettings,
    LimitSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
    UploadSettings,
)

__all__ = [
    "AuditSettings",
    "AuthSettings",
    "LimitSettings",
    "OIDCSettings",
    "ProxySettings",
    "RetentionSettings",
    "RoleSettings",
    "ServerSettings",
    "Settings",
    "UploadSettings",
    "is_loopback",
    "load",
    "make_service",
    "service_of",
]
