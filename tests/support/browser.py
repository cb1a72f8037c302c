"""Headless Chromium, driven through the pipe of its DevTools protocol."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support.waiting import PATIENCE_SECONDS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1200,1000 --remote-debugging-pipe"""


class Page:
    """One tab. What the browser tells by itself is kept in `events`."""

    def __init__(self, commands: int, replies: int) -> None:
        self.commands, self.replies = commands, os.fdopen(replies, "rb")
        self.asked = 0
        self.session: str | None = None
        self.events: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        """Begins anew: a tab that shares nothing with those before it."""
        self.session = None
        self.context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=self.context)["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.events.clear()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.asked += 1
        message = {"id": self.asked, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while True:
            received = self.receive()
            if received.get("id") == self.asked:
                assert "error" not in received, received
                result: dict[str, Any] = received["result"]
                return result
            self.events.append(received)

    def send_to_browser(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command about the browser, not about the page."""
        session, self.session = self.session, None
        try:
            return self.send(method, **parameters)
        finally:
            self.session = session

    def receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.replies.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, url: str) -> None:
        self.send("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, condition: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.value(condition):
            assert time.monotonic() < deadline, self.value("document.body.innerText")
            time.sleep(0.05)

    def complaints(self) -> list[str]:
        """Exceptions, errors of the console and what the page's policy blocked."""
        self.value("0")
        found = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                found.append(event["params"]["exceptionDetails"]["text"])
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                found.append(event["params"]["entry"]["text"])
        return found

    def hosts(self) -> set[str]:
        """Where the page sent requests."""
        urls = [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return {url.split("/")[2] for url in urls if not url.startswith("data:")}

    def screenshot(self, target: Path, *, whole: bool = True) -> None:
        """Draws the `whole` page, or what the window shows of it."""
        picture = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        target.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def browsing(folder: Path) -> Iterator[Page]:
    """A page of a browser that knows nothing yet."""
    assert CHROMIUM is not None
    to_browser, commands = os.pipe()
    replies, from_browser = os.pipe()

    def take_pipes() -> None:
        # The protocol wants its pipes at 3 and 4; either may be where the other has to go.
        spare = os.dup(from_browser)
        os.dup2(to_browser, 3)
        os.dup2(spare, 4)
        # `dup2` leaves one that is there already closed to the browser.
        os.set_inheritable(3, True)

    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [CHROMIUM, *FLAGS.split(), f"--user-data-dir={folder / 'profile'}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            close_fds=False,
            preexec_fn=take_pipes,
            start_new_session=True,
        )
    os.close(to_browser)
    os.close(from_browser)
    try:
        page = Page(commands, replies)
        yield page
        page.replies.close()
    finally:
        os.close(commands)
        process.terminate()
        process.wait(PATIENCE_SECONDS)
