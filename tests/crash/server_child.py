"""`uwsd`, armed: the first argument says when it is killed, the others are its own."""

from __future__ import annotations

import sys

import msgspec

from tests.crash.kills import Kill
from uws.cli import main

if __name__ == "__main__":
    kill = msgspec.json.decode(sys.argv.pop(1), type=Kill | None)
    if kill:
        kill.arm()
    main()
