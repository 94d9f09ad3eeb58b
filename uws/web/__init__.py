"""UWS 1.1 over HTTP."""

from .accounting import ACCESS_LOG, SOON
from .application import make_application
from .authentication import Authentication
from .connections import answering
from .past import document_then
from .resource import LONGEST_WAIT, SITE, SYNC_SECONDS, Authenticator
from .waiting import WAITS_PER_OWNER

__all__ = [
    "ACCESS_LOG",
    "LONGEST_WAIT",
    "SITE",
    "SOON",
    "SYNC_SECONDS",
    "WAITS_PER_OWNER",
    "Authentication",
    "Authenticator",
    "answering",
    "document_then",
    "make_application",
]
