"""UWS 1.1 over HTTP."""

from .accounting import ACCESS_LOG, SOON
from .application import make_application
from .authentication import Authentication
from .connections import answering
from .past import document_then
from .resource import SITE, Authenticator

__all__ = [
    "ACCESS_LOG",
    "SITE",
    "SOON",
    "Authentication",
    "Authenticator",
    "answering",
    "document_then",
    "make_application",
]
