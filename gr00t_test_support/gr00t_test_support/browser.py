# SPDX-FileCopyrightText: GR00T ROS 2 suite contributors
# SPDX-License-Identifier: Apache-2.0
"""Drive a headless Chromium through its DevTools protocol, for tests and measurements of pages.

Needs a browser on the machine and `websockets`, no driver. Clicks and keys are real input events, so a covered or
disabled button does not answer.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from websockets.sync.client import ClientConnection, connect

from gr00t_test_support.waiting import DEADLINE_S

NAMES = ("chromium", "google-chrome", "chromium-browser", "google-chrome-stable")
START_S = 120.0
MAX_MESSAGE = 256 * 2**20
KEYS = {"Escape": 27, "Enter": 13}


def find_browser() -> str | None:
    """Return the path of a browser of this machine, None if there is none."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """A headless browser; a context that ends it."""

    def __init__(self) -> None:
        """Start it with a new profile."""
        path = find_browser()
        assert path, "no browser"
        self._profile = tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True)
        flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions")
        quiet = ("--disable-background-networking", "--mute-audio", "--remote-debugging-port=0", "--hide-scrollbars")
        guard = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()  # ends with a killed test
        self._process = subprocess.Popen(
            [*guard, path, *flags, *quiet, f"--user-data-dir={self._profile.name}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._port_file = Path(self._profile.name) / "DevToolsActivePort"
        end_s = time.monotonic() + START_S
        while not self._port_file.exists() or len(self._port_file.read_text().split()) < 2:
            assert self._process.poll() is None and time.monotonic() < end_s, "the browser does not start"
            time.sleep(0.05)
        port, path = self._port_file.read_text().split()
        self._address = f"ws://127.0.0.1:{port}{path}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._profile.cleanup()

    def page(self, *, width: int = 1440, height: int = 900, is_dark: bool = False, scale: float = 1.0) -> Page:
        """Open a page of a person of its own: no cookie or storage is shared with other pages."""
        return Page(self._address, width, height, is_dark, scale)


class Page:
    """One page; `close` it, or end the browser."""

    def __init__(self, address: str, width: int, height: int, is_dark: bool, scale: float) -> None:
        """Connect and set the size of the view in CSS pixels."""
        self._opened = contextlib.ExitStack()
        connecting = connect(address, max_size=MAX_MESSAGE, open_timeout=START_S)
        self._socket: ClientConnection = self._opened.enter_context(connecting)
        self._number = 0
        self._session = ""
        self.errors: list[str] = []  # of the console and of exceptions
        self._context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=self._context)["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.send("Runtime.enable")
        self.send("Log.enable")
        self.send("Page.enable")
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 700,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def close(self) -> None:
        """Close the page, as a person closes it."""
        self._session, session = "", self._session
        if session:
            self.send("Target.disposeBrowserContext", browserContextId=self._context)
        self._opened.close()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps({**message, "sessionId": self._session} if self._session else message))
        while True:
            answer = json.loads(self._socket.recv(timeout=DEADLINE_S))
            self._note(answer)
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def open(self, url: str) -> None:
        """Open an address."""
        self.send("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript, as JSON has it; a promise is awaited."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """Return the text of the first element, empty if there is none."""
        return self.value(f"document.querySelector({json.dumps(selector)})?.textContent ?? ''")

    def until(self, expression: str, what: str = "", deadline_s: float = DEADLINE_S) -> Any:
        """Wait until an expression is true; return its value."""
        end_s = time.monotonic() + deadline_s
        while True:
            value = self.value(expression)
            if value:
                return value
            if time.monotonic() > end_s:
                raise AssertionError(f"not within {deadline_s:.0f} s: {what or expression}; errors: {self.errors}")
            time.sleep(0.05)

    def has(self, selector: str, text: str) -> None:
        """Wait until the text of an element contains `text`."""
        quoted = json.dumps(selector)
        self.until(f"document.querySelector({quoted})?.textContent.includes({json.dumps(text)})", f"{selector}: {text}")

    def click(self, selector: str) -> None:
        """Click the middle of an element once it is enabled and nothing covers it."""
        quoted = json.dumps(selector)
        find = f"""(() => {{
            const found = document.querySelector({quoted});
            if (!found || found.disabled) return null;
            found.scrollIntoView({{block: "center"}});
            const box = found.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
            const top = document.elementFromPoint(x, y);
            return top && (found === top || found.contains(top)) ? [x, y] : null;
        }})()"""
        x, y = self.until(find, f"{selector} can be clicked")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector: str, text: str) -> None:
        """Replace the text of an input."""
        self.value(f"(() => {{ const i = document.querySelector({json.dumps(selector)}); i.focus(); i.select(); }})()")
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press and release a key."""
        code = KEYS.get(key) or ord(key.upper())
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path, *, is_full: bool = False) -> None:
        """Write a PNG of the view, or of the whole page."""
        shot = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=is_full)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(message["params"])[:500])
        elif message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
            self.errors.append(message["params"]["entry"]["text"])
