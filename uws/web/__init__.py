"""UWS 1.1 over HTTP."""

from .application import make_application
from .handlers import Authenticator

__all__ = ["Authenticator", "make_application"]
