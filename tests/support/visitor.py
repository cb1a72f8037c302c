"""A person at a page in Chromium: finds things by what they are called, uses mouse and keyboard, counts its actions.

A click, a text that is entered, a choice and a key are one action each.
"""

import json
import re
import time
from pathlib import Path
from typing import Any, Final

from support.browser import Page
from support.waiting import PATIENCE_SECONDS

FIND: Final = """
((kinds, name) => {
  const shows = (node) => node.checkVisibility() && !node.closest("[inert]") && !node.disabled;
  const modal = [...document.querySelectorAll("dialog[open]")].at(-1);
  const text = (node) => (node.getAttribute("aria-label") || node.textContent).trim();
  const found = [...(modal || document).querySelectorAll(kinds)].filter((node) => shows(node) && text(node) === name);
  return found[0] || null;
})
"""
KEYS: Final = {
    "Enter": (13, "\r"),
    "Tab": (9, ""),
    "Escape": (27, ""),
    "Space": (32, " "),
    "ArrowDown": (40, ""),
    "ArrowUp": (38, ""),
}
BUTTONS: Final = "button, a[href], summary, [role=button]"


class Visitor:
    """Uses a page; `actions` counts what was done."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.actions = 0

    def open(self, url: str) -> None:
        self.page.open(url)

    def sign_in(self, credential: str) -> None:
        self.enter("API key or token", credential)
        self.press("Enter")
        self.sees("Sign out")
        self.actions = 0

    def faults(self) -> list[str]:
        """Exceptions, errors and blocked things, but not the browser's lines about refused requests."""
        return [text for text in self.page.complaints() if not text.startswith("Failed to load resource")]

    def sees(self, text: str) -> None:
        """Waits until the page shows this text; a number at its beginning is not the end of a larger one."""
        pattern = json.dumps(f"(?<![0-9]){re.escape(text)}" if text[0].isdigit() else re.escape(text))
        self.page.wait_for(f"new RegExp({pattern}).test(document.body.innerText)")

    def arrives_at(self, end: str) -> None:
        """Waits until the page's address ends so."""
        self.page.wait_for(f"location.href.endsWith({json.dumps(end)})")

    def sees_no(self, text: str) -> None:
        self.page.wait_for(f"!document.body.innerText.includes({json.dumps(text)})")

    def text(self, selector: str = "body") -> str:
        return str(self.page.value(f"document.querySelector({json.dumps(selector)}).innerText"))

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.value(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(node => node.innerText.trim())"
        )
        return found

    def has(self, name: str, kinds: str = BUTTONS) -> bool:
        """Whether a button or link of this name can be used now."""
        return bool(self.page.value(f"{FIND}({json.dumps(kinds)}, {json.dumps(name)}) !== null"))

    def click(self, name: str, kinds: str = BUTTONS) -> None:
        """Clicks a button, link or box with this name, once it is there."""
        self.click_element(f"{FIND}({json.dumps(kinds)}, {json.dumps(name)})")

    def tick(self, name: str) -> None:
        """Clicks the label of a box."""
        self.click(name, "label, input[type=checkbox]")

    def click_element(self, expression: str) -> None:
        self.page.wait_for(f"{expression} !== null")
        place = self.page.value(
            f"(() => {{ const node = {expression}; node.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " const shows = ({y, height}) => y + height / 2 >= 0 && y + height / 2 < innerHeight;"
            " const {x, y, width, height} = [...node.getClientRects()].find(shows);"
            " return [x + width / 2, y + height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.page.send("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
        self.actions += 1

    def field(self, label: str) -> str:
        """An expression for the field with this label."""
        return (
            "((name) => [...([...document.querySelectorAll('dialog[open]')].at(-1) || document)"
            ".querySelectorAll('input, textarea, select')].find((node) => "
            "node.checkVisibility() && [...node.labels].some((label) => "
            f"label.textContent.trim().startsWith(name))) || null)({json.dumps(label)})"
        )

    def enter(self, label: str, text: str) -> None:
        """Replaces the text of a field."""
        field = self.field(label)
        self.page.wait_for(f"{field} !== null")
        self.page.value(f"(() => {{ const node = {field}; node.focus(); node.select(); }})()")
        self.write(text)

    def write(self, text: str) -> None:
        """Types a text where the focus is."""
        if text:
            self.page.send("Input.insertText", text=text)
        else:
            self.press("Backspace")
            self.actions -= 1
        self.actions += 1

    def choose(self, label: str, value: str) -> None:
        """Chooses from a list of choices."""
        field = self.field(label)
        self.page.wait_for(f"{field} !== null")
        self.page.value(
            f"(() => {{ const node = {field}; node.focus(); node.value = {json.dumps(value)};"
            " node.dispatchEvent(new Event('input', {bubbles: true}));"
            " node.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )
        self.actions += 1

    def press(self, key: str, *, shift: bool = False) -> None:
        code, text = KEYS.get(key, (8, ""))
        common: dict[str, Any] = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        common["modifiers"] = 8 if shift else 0
        self.page.send("Input.dispatchKeyEvent", type="keyDown", **common, **({"text": text} if text else {}))
        self.page.send("Input.dispatchKeyEvent", type="keyUp", **common)
        self.actions += 1

    def give_files(self, label: str, *paths: Path) -> None:
        """Chooses files, as a person does in the browser's own dialog."""
        field = self.field(label)
        self.page.wait_for(f"{field} !== null")
        result = self.page.send("Runtime.evaluate", expression=field)["result"]
        self.page.send("DOM.setFileInputFiles", files=list(map(str, paths)), objectId=result["objectId"])
        self.actions += 1

    def save_files_to(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.page.send_to_browser(
            "Browser.setDownloadBehavior",
            behavior="allow",
            downloadPath=str(folder),
            browserContextId=self.page.context,
        )

    def set_online(self, online: bool) -> None:
        self.page.send(
            "Network.emulateNetworkConditions",
            offline=not online,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )
        self.page.wait_for(f"navigator.onLine === {json.dumps(online)}")

    def set_width(self, width: int, height: int = 800) -> None:
        self.page.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    @property
    def address(self) -> str:
        return str(self.page.value("location.href"))

    @property
    def focused(self) -> str:
        """What is called what has the focus: the text, label or name of the element."""
        node = "document.activeElement"
        return str(self.page.value(f"({node}.labels?.[0] || {node}).textContent.trim()"))


def wait_for_file(folder: Path, name: str) -> bytes:
    """The content of a file that the browser saves, once it is there."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder / name).exists():
        assert time.monotonic() < deadline, [path.name for path in folder.iterdir()]
        time.sleep(0.05)
    return (folder / name).read_bytes()
