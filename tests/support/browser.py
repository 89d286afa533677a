"""A headless Chromium over the WebDriver protocol, with nothing to install but the browser."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
DRIVER = shutil.which("chromedriver")
MISSING = "needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)"
KEYS = {"right": "\ue014", "left": "\ue012", "tab": "\ue004", "space": " "}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """`with Browser() as browser:` opens one; `browser.open(path)` shows a file."""

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        self.size = (width, height)

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        assert DRIVER is not None
        self.process = subprocess.Popen(
            [DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if "on port" in line and line.strip().endswith("."):
                self.url = f"http://127.0.0.1:{line.rsplit(None, 1)[1].strip('.')}"
                break
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        arguments.append(f"--window-size={self.size[0]},{self.size[1]}")
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": CHROMIUM, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            made = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        except BaseException:
            self.process.kill()
            raise
        self.url += f"/session/{made['sessionId']}"
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ask("DELETE", "")
        finally:
            self.process.kill()
            self.process.communicate()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, path: Path, fragment: str = "") -> None:
        self.ask("POST", "/url", {"url": path.as_uri() + fragment})

    def run(self, script: str, *args: Any) -> Any:
        """Run the body of a function with `arguments`, and return what it returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def text(self, name: str) -> str:
        return str(self.run("return document.getElementById(arguments[0]).textContent", name))

    def slide(self, name: str, value: float) -> None:
        """Put a slider or a choice somewhere, as a user does."""
        script = """
            const control = document.getElementById(arguments[0]);
            control.value = arguments[1];
            control.dispatchEvent(new Event("input", { bubbles: true }));
        """
        self.run(script, name, value)

    def click(self, name: str) -> None:
        self.ask("POST", f"/element/{self._find(name)}/click", {})

    def press(self, name: str, *keys: str) -> None:
        text = "".join(KEYS[key] for key in keys)
        self.ask("POST", f"/element/{self._find(name)}/value", {"text": text})

    def _find(self, name: str) -> str:
        found = self.ask("POST", "/element", {"using": "css selector", "value": f"#{name}"})
        return str(found[_ELEMENT])

    def devtools(self, command: str, **params: Any) -> Any:
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def complaints(self) -> list[str]:
        """What the console has said since the last call."""
        return [line["message"] for line in self.ask("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        lines = self.ask("POST", "/se/log", {"type": "performance"})
        events = [json.loads(line["message"])["message"] for line in lines]
        sent = [one for one in events if one["method"] == "Network.requestWillBeSent"]
        return [one["params"]["request"]["url"] for one in sent]

    def wait(self, condition: str, seconds: float = 30) -> None:
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never true: {condition}"
            time.sleep(0.05)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))
