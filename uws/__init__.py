"""An event-sourced IVOA Universal Worker Service 1.1 for programs that operators declare.

`make_uws_application` serves `Service` declarations as an aiohttp application. Below it, `run_node` runs
their jobs and `make_application` offers them over HTTP; `make_uws_for_service` and
`make_user_uws_job_class` are the steps in between.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from uws.model import *  # noqa: F403 - the model is the public vocabulary
from uws.model import __all__ as _model

if TYPE_CHECKING:
    from uws.app import make_uws_application, serve
    from uws.commands import Caller, Changes
    from uws.config import ServerSettings, Settings, UploadSettings, make_service
    from uws.jobs import Backend, UserUWS, make_uws_for_service
    from uws.node import Node, run_node
    from uws.web import Authenticator, make_application

__all__ = [
    "Authenticator",
    "Backend",
    "Caller",
    "Changes",
    "Node",
    "ServerSettings",
    "Settings",
    "UploadSettings",
    "UserUWS",
    "make_application",
    "make_service",
    "make_uws_application",
    "make_uws_for_service",
    "run_node",
    "serve",
]
__all__.extend(_model)

# The rooms above the model are imported when they are asked for: `projections` imports the model, and they
# import `projections`.
_ROOMS = {
    "uws.app": ("make_uws_application", "serve"),
    "uws.commands": ("Caller", "Changes"),
    "uws.config": ("ServerSettings", "Settings", "UploadSettings", "make_service"),
    "uws.jobs": ("Backend", "UserUWS", "make_uws_for_service"),
    "uws.node": ("Node", "run_node"),
    "uws.web": ("Authenticator", "make_application"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_ROOM_OF[name]), name)
