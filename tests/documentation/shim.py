"""`uwsd` as a shell finds it, which is run by what is preloaded (`tests.preloaded`)."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

from tests.preloaded import Call, begin


def main() -> None:
    """Run ``PROGRAM ARGUMENTS…``, given the descriptor of what runs it, to its end."""
    preloaded, *words = sys.argv[1:]
    mask = os.umask(0)
    call = Call([os.fsencode(word) for word in words], dict(os.environb), os.fsencode(Path.cwd()), mask)
    with begin(socket.socket(fileno=int(preloaded)), call, (0, 1, 2)) as answers:
        pid = int(answers.recv(100))
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: os.kill(pid, number))
        status = int(answers.recv(100))
    sys.exit(status if status >= 0 else 128 - status)


if __name__ == "__main__":
    main()
