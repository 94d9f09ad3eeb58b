"""UWS 1.1 over HTTP."""

from .accounting import ACCESS_LOG
from .application import make_application
from .authentication import Authentication
from .resource import LONGEST_WAIT, SITE, SYNC_SECONDS, Authenticator

__all__ = [
    "ACCESS_LOG",
    "LONGEST_WAIT",
    "SITE",
    "SYNC_SECONDS",
    "Authentication",
    "Authenticator",
    "make_application",
]
