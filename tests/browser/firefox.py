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
PREFERENCES = """
user_pref("network.proxy.type", 1);
user_pref("network.dns.disabled", true);
user_pref("network.proxy.http", "127.0.0.1");
user_pref("network.proxy.http_port", 9);
user_pref("network.proxy.ssl", "127.0.0.1");
user_pref("network.proxy.ssl_port", 9);
"""
"""All that is not on this machine is sought behind a proxy that does not exist."""
_SAYS = re.compile(rb"WebDriver BiDi listening on (ws://\S+)")
_CONTROL = "\ue009"
"""The key, in the words of WebDriver (section 17.4.2)."""


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
                if found := await self.run(script):
                    return found
                await asyncio.sleep(0.05)

    async def choose_file(self, name: str, path: Path) -> None:
        element = await self._element(f"document.getElementsByName({json.dumps(name)})[0]")
        await self._call("input.setFiles", context=self._context, element=element, files=[str(path)])

    async def fill(self, name: str, text: str) -> None:
        """Type into a field, in place of what stands there."""
        await self._press_on(f"document.getElementsByName({json.dumps(name)})[0]")
        await self._type("a", held=_CONTROL)
        await self._type(text)

    async def click(self, text: str) -> None:
        """Click on the link, button or summary with a text, once it is there."""
        seen = "[...document.querySelectorAll('a, button, summary')].filter(one => one.checkVisibility())"
        found = f"{seen}.find(one => one.textContent === {json.dumps(text)})"
        await self.until(f"!!{found}")
        await self._press_on(found)

    async def _press_on(self, found: str) -> None:
        element = await self._element(
            f"(one => (one.scrollIntoView({{block: 'center', behavior: 'instant'}}), one))({found})"
        )
        origin = {"type": "element", "element": element}
        await self._act(
            "pointer",
            {"type": "pointerMove", "x": 0, "y": 0, "origin": origin},
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        )

    async def _type(self, text: str, *, held: str = "") -> None:
        keys = [{"type": kind, "value": one} for one in text for kind in ("keyDown", "keyUp")]
        down, up = ([{"type": kind, "value": one} for one in held] for kind in ("keyDown", "keyUp"))
        await self._act("key", *down, *keys, *up)

    async def _act(self, kind: str, *actions: dict[str, Any]) -> None:
        source = {"type": kind, "id": kind, "actions": actions}
        await self._call("input.performActions", context=self._context, actions=[source])

    async def _element(self, expression: str) -> dict[str, str]:
        return {"sharedId": (await self._evaluate(expression))["sharedId"]}

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
    """Run a headless Firefox with a profile of its own; it and all it has started are gone afterwards."""
    assert FIREFOX
    with TemporaryDirectory() as profile:
        (Path(profile) / "user.js").write_text(PREFERENCES)
        process = await asyncio.create_subprocess_exec(
            FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0",
            stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stderr
        address = asyncio.get_running_loop().create_future()
        hearing = asyncio.create_task(_hear(process.stderr, address))
        try:
            async with asyncio.timeout(PATIENCE):
                url = f"{await address}/session"
            async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
                tab = Tab(socket)
                await tab.open()
                yield tab
                await tab.close()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await hearing


async def _hear(said: asyncio.StreamReader, address: asyncio.Future[str]) -> None:
    """Read all that a Firefox says, so that nothing holds it up; where it listens becomes ``address``."""
    async for line in said:
        if (found := _SAYS.search(line)) and not address.done():
            address.set_result(found[1].decode())
    if not address.done():
        address.set_exception(RuntimeError("Firefox has ended"))
