"""An event-sourced implementation of the IVOA Universal Worker Service 1.1 for programs that operators declare.

`run_node` opens a data directory and runs the jobs of `Service` declarations, `make_application` offers
them over HTTP. `make_user_uws_job_class` and `make_uws_for_service` are the steps between.
"""

from uws.app import Node, run_node, serve
from uws.jobs import Backend, Caller, Changes, UserUWS, make_uws_for_service
from uws.model import *  # noqa: F403 - the model is the public vocabulary
from uws.model import __all__ as _model
from uws.web import Authenticator, make_application

__all__ = [
    "Authenticator",
    "Backend",
    "Caller",
    "Changes",
    "Node",
    "UserUWS",
    "make_application",
    "make_uws_for_service",
    "run_node",
    "serve",
    *_model,
]
