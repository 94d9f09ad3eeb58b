"""The names of streams."""

from __future__ import annotations

from datetime import datetime

USERS_STREAM = "users"
"""The stream of who has an entry in the users file."""
ROLES_STREAM = "roles"
"""The stream of who has which role."""
QUEUE_STREAM = "queue"
"""The stream of what was decided of the queue as a whole."""
RETENTION_STREAM = "retention"
"""The stream of what was archived, and of what was taken out of the log because its time was over."""


def service_stream(name: str) -> str:
    """Return the name of a service's stream."""
    return f"service/{name}"


def node_stream(name: str) -> str:
    """Return the name of a node's stream."""
    return f"node/{name}"


def user_stream(name: str) -> str:
    """Return the name of the stream with a user's tokens."""
    return f"user/{name}"


def session_stream(token_id: str) -> str:
    """Return the name of a session's stream."""
    return f"session/{token_id}"


def security_stream(time: datetime) -> str:
    """Return the name of the stream with the security decisions of a month."""
    return f"security/{time:%Y-%m}"


def job_stream(job_id: str) -> str:
    """Return the name of a job's stream."""
    return f"job/{job_id}"


def job_id_of(stream: str) -> str | None:
    """Return the job whose stream this is, or None when it is not a job's."""
    kind, _, job_id = stream.partition("/")
    return job_id if kind == "job" else None
