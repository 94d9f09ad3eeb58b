"""Events of services, the queue and nodes: what is offered, and what starts jobs."""

from __future__ import annotations

from .base import Event


class ServiceDeclared(Event, frozen=True):
    """A service is offered under a declaration not seen before.

    ``declaration`` is its JSON text, without the values of its environment, which may be secrets.
    """

    service: str
    digest: str
    declaration: str


class QueuePaused(Event, frozen=True):
    """No job of the service is started from now on, none at all where it is None; what runs goes on."""

    service: str | None = None


class QueueResumed(Event, frozen=True):
    """What was paused under the same name is so no more."""

    service: str | None = None


QueueEvent = QueuePaused | QueueResumed


class NodeJoined(Event, frozen=True):
    """A server takes jobs from the queue, under this name among those that share the log."""

    node: str


class NodeLeft(Event, frozen=True):
    """It takes none any more; what it was running may run on."""

    node: str
    reason: str


NodeEvent = NodeJoined | NodeLeft
