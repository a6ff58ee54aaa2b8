"""A headless Chromium that a test steers, by the protocol of its developer tools over two pipes."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FOUND = next((path for name in NAMES if (path := shutil.which(name))), None)
PATIENCE = 60  # seconds

# The browser expects the two pipes under the numbers 3 and 4.
LAUNCH = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, pipe in zip((3, 4), pipes):
    os.dup2(pipe, place)
os.execv(sys.argv[3], sys.argv[3:])
"""

# Of the keys that tests press: the code that the browser wants beside the name.
KEYS = {
    **{"Tab": 9, "Enter": 13, " ": 32, "PageUp": 33, "PageDown": 34, "End": 35, "Home": 36},
    **{"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40},
}


class Browser:
    """One page at a time; what it complains of and asks for is kept.

    Attributes:
      complaints: messages of the console, exceptions and log entries.
      requests: addresses that were asked for.
    """

    def __init__(self, profile: Path):
        self.complaints: list[Any] = []
        self.requests: list[str] = []
        (to_read, self._write), (self._read, to_write) = os.pipe(), os.pipe()
        words = [sys.executable, "-c", LAUNCH, str(to_read), str(to_write), str(FOUND)]
        words += ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        words += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            [*words, "--window-size=1280,900", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._numbers, self._rest, self._session = itertools.count(1), b"", None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """Ends the browser."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        os.close(self._read)
        os.close(self._write)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == number:
                assert "error" not in found, found
                return found["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._read, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(line)
        method, params = message.get("method", ""), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(params)
        return message

    def open(self, path: Path) -> None:
        """Opens a file, and forgets what the page before complained of."""
        self.complaints, self.requests = [], []
        self.send("Page.navigate", url=path.as_uri())
        end = time.monotonic() + PATIENCE
        while self("document.readyState") != "complete":
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.02)

    def __call__(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Presses keys one after another, wherever the focus is."""
        for key in keys:
            code = {"key": key, "windowsVirtualKeyCode": KEYS.get(key, 0)}
            text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 else "")
            self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **code)
            self.send("Input.dispatchKeyEvent", type="keyUp", **code)

    def scheme(self, name: str) -> None:
        """Prefers `light` or `dark` colours."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.send("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path, width: int = 1280) -> None:
        """Writes a PNG of the whole page in a window of this width."""
        size = {"width": width, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", height=900, **size)
        height = self("document.documentElement.scrollHeight")
        self.send("Emulation.setDeviceMetricsOverride", height=height, **size)
        found = self.send("Page.captureScreenshot")
        self.send("Emulation.clearDeviceMetricsOverride")
        path.write_bytes(base64.b64decode(found["data"]))
