"""What an operator declares: read from TOML, or from functions, to typed settings."""

from uws.config.access import AuthSettings, OIDCSettings, ProxySettings, RoleSettings
from uws.config.hosts import is_loopback, url_of
from uws.config.reading import load
from uws.config.services import make_service, service_of
from uws.config.settings import (
    AuditSettings,
    LimitSettings,
    NodeSettings,
    RetentionSettings,
    ServerSettings,
    Settings,
    SlurmSettings,
    StoreSettings,
    UploadSettings,
)

__all__ = [
    "AuditSettings",
    "AuthSettings",
    "LimitSettings",
    "NodeSettings",
    "OIDCSettings",
    "ProxySettings",
    "RetentionSettings",
    "RoleSettings",
    "ServerSettings",
    "Settings",
    "SlurmSettings",
    "StoreSettings",
    "UploadSettings",
    "is_loopback",
    "load",
    "make_service",
    "service_of",
    "url_of",
]
