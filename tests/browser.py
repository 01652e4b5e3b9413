"""A headless browser that tests drive over a pipe, where one is on the machine."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
)
# The protocol is spoken on descriptors 3 and 4.
_LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
    "os.execv(sys.argv[3], sys.argv[3:])"
)


class RefusedError(Exception):
    """The browser did not do as it was told."""


class Tab:
    """A tab, spoken to by the DevTools protocol; `events` are what it said unasked."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write, self.number, self.session, self.context = read, write, 0, "", ""
        self.rest, self.events = b"", list[dict[str, Any]]()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        number = self._say(method, params)
        while True:
            answer = self._next(30)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RefusedError(method, answer["error"])
                return answer["result"]
            self._heard(answer)

    def renew(self, downloads: Path) -> None:
        """An empty tab that shares nothing with what was before, and puts downloads in a folder."""
        if self.session:
            context, self.session = self.context, ""
            self.send("Target.disposeBrowserContext", browserContextId=context)
        self.events.clear()
        self.context = str(self.send("Target.createBrowserContext")["browserContextId"])
        given = {"behavior": "allow", "downloadPath": str(downloads), "browserContextId": self.context}
        self.send("Browser.setDownloadBehavior", **given)
        made = self.send("Target.createTarget", url="about:blank", browserContextId=self.context)
        attached = self.send("Target.attachToTarget", targetId=made["targetId"], flatten=True)
        self.session = str(attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def _say(self, method: str, params: dict[str, Any]) -> int:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        return self.number

    def _heard(self, event: dict[str, Any]) -> None:
        """Keep an event; what a page asks in a dialog is confirmed."""
        self.events.append(event)
        if event.get("method") == "Page.javascriptDialogOpening":
            self._say("Page.handleJavaScriptDialog", {"accept": True})

    def _next(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self.read, 2**20)
            assert more, "the browser is gone"
            self.rest += more
        text, _, self.rest = self.rest.partition(b"\0")
        return json.loads(text)

    def js(self, expression: str) -> Any:
        """The value of an expression in the page; a click in it counts as a person's."""
        done = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in done, (expression, done["exceptionDetails"])
        return done["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> None:
        end = time.monotonic() + seconds
        while True:
            with suppress(RefusedError):  # while another page is coming
                if self.js(expression):
                    return
            assert time.monotonic() < end, f"never: {expression}"
            time.sleep(0.02)

    def open(self, address: str, *, width: int = 390, height: int = 844) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.js("window.before = true")
        self.send("Page.navigate", url=address)
        self.wait("!window.before && document.readyState === 'complete'")

    def reload(self) -> None:
        self.js("window.before = true")
        self.send("Page.reload")
        self.wait("!window.before && document.readyState === 'complete'")

    def key(self, key: str, code: int = 0) -> None:
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        given = {"key": key, "text": text, "windowsVirtualKeyCode": code or ord(key[0])}
        self.send("Input.dispatchKeyEvent", type="keyDown", **given)
        self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def complaints(self) -> list[Any]:
        """What the console and the page's security policy complained of."""
        told = [
            event
            for event in self.events
            if event.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
        ]
        return [event["params"] for event in told]


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """A tab of a browser with a profile and downloads of its own in a folder."""
    (mine_read, theirs_write), (theirs_read, mine_write) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", _LAUNCH, str(theirs_read), str(theirs_write), str(CHROMIUM), *_FLAGS]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder / 'profile'}"]
    process = subprocess.Popen(
        command, pass_fds=(theirs_read, theirs_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(theirs_read)
    os.close(theirs_write)
    try:
        browser = Tab(mine_read, mine_write)
        browser.renew(folder)
        yield browser
        browser.session = ""
        browser.send("Browser.close")
        process.wait(20)
    finally:
        process.kill()
        process.wait()
        os.close(mine_read)
        os.close(mine_write)
