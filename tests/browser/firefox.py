"""Firefox as it comes, driven by WebDriver BiDi, which it speaks itself."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import shutil
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
PATIENCE = 60.0
_SAYS = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")


class Tab:
    """A page of a Firefox."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers, self._context = socket, itertools.count(1), ""

    async def open(self) -> None:
        await self._call("session.new", capabilities={})
        self._context = (await self._call("browsingContext.create", type="tab"))["context"]

    async def close(self) -> None:
        await self._call("browser.close")

    async def goto(self, url: str) -> None:
        await self._call("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def run(self, script: str) -> Any:
        """Return what an expression is."""
        found = await self._evaluate(
            f"Promise.resolve({script}).then(value => JSON.stringify(value ?? null))"
        )
        return json.loads(found["value"])

    async def until(self, script: str) -> Any:
        """Wait until an expression, in whatever page there then is, is true."""
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    if found := await self.run(script):
                        return found
                except RuntimeError as error:  # the page has just been left
                    if "no such frame" not in str(error) and "discarded" not in str(error):
                        raise
                await asyncio.sleep(0.05)

    async def choose_file(self, selector: str, path: Path) -> None:
        element = await self._evaluate(f"document.querySelector({json.dumps(selector)})")
        await self._call(
            "input.setFiles",
            context=self._context,
            element={"sharedId": element["sharedId"]},
            files=[str(path)],
        )

    async def fill(self, name: str, text: str) -> None:
        await self.run(f"document.getElementsByName({json.dumps(name)})[0].value = {json.dumps(text)}")

    async def click(self, text: str) -> None:
        """Click on the link, button or summary with a text."""
        ones = "[...document.querySelectorAll('a, button, summary')]"
        found = f"{ones}.find(one => one.textContent === {json.dumps(text)})"
        await self.until(f"!!{found}")
        await self.run(f"setTimeout(() => {found}.click())")

    async def _evaluate(self, expression: str) -> dict[str, Any]:
        answer = await self._call(
            "script.evaluate", expression=expression, target={"context": self._context}, awaitPromise=True
        )
        if answer["type"] != "success":
            raise RuntimeError(answer["exceptionDetails"]["text"])
        return dict(answer["result"])

    async def _call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await self._socket.receive_json()
                if message.get("id") == number:
                    break
        if message["type"] == "error":
            raise RuntimeError(f"{method}: {message['error']}: {message['message']}")
        return dict(message["result"])


@asynccontextmanager
async def firefox() -> AsyncIterator[Tab]:
    """Run a headless Firefox with a profile of its own; it is gone afterwards."""
    assert FIREFOX
    with TemporaryDirectory() as profile:
        process = await asyncio.create_subprocess_exec(
            FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0",
            stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stderr
        drained = None
        try:
            async with asyncio.timeout(PATIENCE):
                while not (found := _SAYS.search(line := await process.stderr.readline())):
                    assert line, "Firefox has ended"
            drained = asyncio.create_task(process.stderr.read())
            url = f"{found[1].decode()}/session"
            async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
                tab = Tab(socket)
                await tab.open()
                yield tab
                await tab.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            if drained:
                await drained
