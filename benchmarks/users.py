"""A server whose users say who they are by HTTP Basic, with any password: for benchmarks only.

``python -m benchmarks.users FILE`` serves what the file declares, as ``uwsd serve`` does.
"""

from __future__ import annotations

import sys
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path

import uvloop
from aiohttp import web

from uws import Authenticator
from uws.app import serve
from uws.config import load
from uws.model import Identity, NotAuthenticated


class BasicUsers(Authenticator):
    """Takes everybody's word for it."""

    def challenges(self, base_url: str) -> Sequence[str]:
        return ('Basic realm="benchmark"',)

    async def identify(self, request: web.Request) -> Identity:
        header = request.headers.get("Authorization")
        if header is None:
            return Identity()
        try:
            credentials = b64decode(header.removeprefix("Basic "), validate=True).decode()
        except ValueError as error:
            raise NotAuthenticated(f"these are no credentials: {error}") from None
        return Identity(credentials.partition(":")[0])


def main(file: Path) -> None:
    """Serve until SIGTERM, and say where."""

    def ready(url: str) -> None:
        print(f"serving on {url}", flush=True)

    uvloop.run(serve(load(file), authenticator=BasicUsers(), ready=ready))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
