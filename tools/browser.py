"""A headless Chromium to look at pages with, driven by the DevTools protocol over a pipe; nothing to install but it."""
from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_browser() -> Optional[str]:
    """The program PASSL_BROWSER, or the first of NAMES that is installed; None without any."""
    return os.environ.get("PASSL_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page of a browser of its own, with a profile that vanishes. Use it in a `with` block.

    messages: what the console and uncaught errors have said. requests: every address that was asked for.
    """

    def __init__(self, size: Tuple[int, int] = (1280, 900), dark: bool = False, scale: float = 1.0):
        program = find_browser()
        if program is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed, and PASSL_BROWSER names none")
        self.folder = tempfile.mkdtemp(prefix="browser-")
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        arguments = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                     "--no-first-run", "--hide-scrollbars", "--disable-background-networking",
                     "--disable-dev-shm-usage", f"--user-data-dir={self.folder}", "about:blank"]

        def place_pipes() -> None:  # the browser reads commands from 3 and answers on 4
            ends = os.dup(to_browser), os.dup(from_browser)  # neither of them may be 3 or 4 when the other is placed
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(arguments, preexec_fn=place_pipes, pass_fds=(3, 4), stderr=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.numbers, self.buffer = itertools.count(1), b""
        self.messages: List[str] = []
        self.requests: List[str] = []
        self.loaded = False
        self.session: Optional[str] = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=scale,
                  mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme",
                                                           "value": "dark" if dark else "light"}])

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait(20)
        os.close(self._write)
        os.close(self._read)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --------------------------------------------------------------------------------------------------- protocol
    def call(self, method: str, **parameters: Any) -> Dict[str, Any]:
        """Send one command and wait for its answer."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self._send(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self._note(answer)

    def _send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._write, data):]

    def _next(self) -> Dict[str, Any]:
        while b"\0" not in self.buffer:
            received = os.read(self._read, 1 << 20)
            if not received:
                raise RuntimeError("the browser has ended")
            self.buffer += received
        message, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(message)

    def _note(self, event: Dict[str, Any]) -> None:
        method, values = event.get("method"), event.get("params", {})
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method == "Runtime.consoleAPICalled" and values["type"] in ("error", "warning", "assert"):
            self.messages.append(" ".join(str(one.get("value", one.get("description"))) for one in values["args"]))
        elif method == "Runtime.exceptionThrown":
            details = values["exceptionDetails"]
            self.messages.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Log.entryAdded" and values["entry"]["level"] in ("error", "warning"):
            self.messages.append(values["entry"]["text"])

    # ----------------------------------------------------------------------------------------------------- actions
    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.loaded = False
        self.call("Page.navigate", url=address)
        while not self.loaded:
            self._note(self._next())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; promises are waited for. RuntimeError when it throws."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise RuntimeError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A real mouse event: mousePressed, mouseMoved or mouseReleased, left button."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1,
                  buttons=0 if kind == "mouseReleased" else 1)

    def press(self, key: str) -> None:
        """A key as DevTools names it (ArrowRight, Enter, a)."""
        codes = {"Enter": 13, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27, "Tab": 9}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes.get(key, 0),
                      **({"text": "\r"} if key == "Enter" and kind == "keyDown" else {}))

    def picture(self, path: Path, whole: bool = False, box: Optional[Dict[str, float]] = None) -> Path:
        """Write what is seen, or the `whole` page, or a box (x, y, width, height of the page), as PNG."""
        options: Dict[str, Any] = {}
        if box is not None:
            options = {"clip": {**box, "scale": 1}, "captureBeyondViewport": True}
        elif whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options = {"clip": {**size, "scale": 1}, "captureBeyondViewport": True}
        data = self.call("Page.captureScreenshot", format="png", **options)["data"]
        Path(path).write_bytes(base64.b64decode(data))
        return Path(path)

    def print_pdf(self, path: Path) -> Path:
        """Write the page as it prints."""
        Path(path).write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))
        return Path(path)
