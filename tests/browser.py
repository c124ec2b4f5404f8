"""Headless Chromium by the WebDriver protocol (W3C): chromedriver, and one HTTP request a command."""
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
MISSING = None if CHROME and DRIVER else \
    "no chromium with chromedriver here (Debian: apt install chromium chromium-driver)"
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"     # the protocol's name for a reference to an element


class Browser:
    """One window. `run` runs JavaScript in the page; `until` waits for it to say something true."""

    def __init__(self, width: int = 1100, height: int = 900, dark: bool = False):
        self.folder = tempfile.mkdtemp(prefix="browser-")
        self.driver = subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                       text=True, env={**os.environ, "HOME": self.folder,
                                                       "TMPDIR": self.folder})
        for line in self.driver.stdout:
            if "on port" in line and "successfully" in line:
                self.base = f"http://127.0.0.1:{line.split('on port ')[1].split('.')[0].strip()}"
                break
        else:
            self.driver.wait()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise RuntimeError("chromedriver ended without opening a port")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                 "--hide-scrollbars", f"--window-size={width},{height}",
                 f"--user-data-dir={self.folder}/profile",
                 *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
        wanted = {"goog:chromeOptions": {"binary": CHROME, "args": flags},
                  "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            session = self.command("POST", "/session", capabilities={"alwaysMatch": wanted})
        except RuntimeError:
            self.close()
            raise
        self.base += "/session/" + session["sessionId"]
        if width < 500:                             # a window cannot be so narrow, a phone can
            self.command("POST", "/goog/cdp/execute", cmd="Emulation.setDeviceMetricsOverride",
                         params={"width": width, "height": height, "deviceScaleFactor": 1, "mobile": True})

    def command(self, method: str, path: str, **body):
        """One command; RuntimeError with the browser's words if it fails."""
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"},
                                         method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None

    def open(self, url: str) -> None:
        self.command("POST", "/url", url=url)

    def run(self, script: str, *arguments):
        """The value that a function body returns in the page."""
        return self.command("POST", "/execute/sync", script=script, args=list(arguments))

    def until(self, condition: str, *arguments, seconds: float = 60):
        """Wait until this JavaScript expression is true; returns its value."""
        end = time.monotonic() + seconds
        while not (value := self.run(f"return {condition}", *arguments)):
            shown = self.run("return document.body.innerText")[:900] if time.monotonic() > end else ""
            assert time.monotonic() < end, f"never true: {condition}; the page shows {shown}"
            time.sleep(0.05)
        return value

    def element(self, selector: str) -> str:
        return "/element/" + self.command("POST", "/element", using="css selector", value=selector)[ELEMENT]

    def click(self, selector: str) -> None:
        """A real click of the mouse in the middle of an element, which must be visible."""
        for attempt in range(20):               # the page may redraw it between finding and clicking
            try:
                return self.command("POST", self.element(selector) + "/click")
            except RuntimeError as error:
                if "stale" not in str(error) or attempt == 19:
                    raise
                time.sleep(0.1)

    def type(self, selector: str, text: str) -> None:
        """Real keys."""
        self.command("POST", self.element(selector) + "/value", text=text)

    def name(self, selector: str) -> tuple[str, str]:
        """What a screen reader says: (role, name), as the browser computes them."""
        element = self.element(selector)
        return self.command("GET", element + "/computedrole"), self.command("GET", element + "/computedlabel")

    def logs(self) -> list[dict]:
        """What the browser complained about since the last call."""
        return self.command("POST", "/se/log", type="browser")

    def picture(self, path: Path | str) -> None:
        """A PNG of the whole page."""
        height = self.run("return document.documentElement.scrollHeight")
        shot = self.command("POST", "/goog/cdp/execute", cmd="Page.captureScreenshot", params={
            "captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "scale": 1, "height": height,
                                                    "width": self.run("return innerWidth")}})
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.command("DELETE", "")
        self.driver.terminate()
        self.driver.wait(20)
        self.driver.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)
