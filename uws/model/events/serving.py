"""Events of services, the queue and nodes: what is offered, and what starts jobs."""

from __future__ import annotations

from .base import Event


class ServiceDeclared(Event, frozen=True):
    """A service is offered under a declaration not seen before."""

    service: str
    """Its name."""
    digest: str
    """SHA-256 of the declaration, hexadecimal."""
    declaration: str
    """Its JSON text, without the values of its environment, which may be secrets."""


class QueuePaused(Event, frozen=True):
    """No job of the service, or none at all, is started from now on; what runs goes on."""

    service: str | None = None
    """The service; None is all of them."""


class QueueResumed(Event, frozen=True):
    """What was paused under the same name is so no more."""

    service: str | None = None
    """The service; None is all of them."""


QueueEvent = QueuePaused | QueueResumed


class NodeJoined(Event, frozen=True):
    """A server takes jobs from the queue, among those that share the log."""

    node: str
    """Its name."""


class NodeLeft(Event, frozen=True):
    """A server takes no jobs from the queue any more; what it was running may run on."""

    node: str
    """Its name."""
    reason: str
    """Why, in words."""


NodeEvent = NodeJoined | NodeLeft
