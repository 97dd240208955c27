"""What a saved map holds, and a browser that opens it, for the tests of the map."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def content_of(path: Path) -> Any:
    found = re.search(
        r'<script type="application/json" id="dl-data">(.*?)</script>', path.read_text(encoding="utf-8")
    )
    assert found is not None
    return json.loads(found[1])


def pixels_of(src: str) -> Any:
    with Image.open(io.BytesIO(base64.b64decode(src.split(",", 1)[1]))) as image:
        return np.asarray(image.convert("RGBA"))


class Browser:
    """A page in Chromium that records what it asks for and what it complains about."""

    def __init__(self, page: Any) -> None:
        self.page, self.requests, self.errors = page, [], []  # type: Any, list[str], list[str]
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self._route)

    def _route(self, route: Any) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def open(self, path: Path, width: int = 1280, height: int = 800) -> Any:
        self.page.goto("about:blank")
        self.requests.clear()
        self.errors.clear()
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(path.as_uri())
        self.page.wait_for_selector(".folium-map[data-ready=yes]")
        return self.page

    def visit(self, address: str, width: int = 1280, height: int = 800) -> Any:
        """A page of `serve`, whose requests go through: to this machine alone, as its policy says."""
        self.page.unroute_all()
        self.page.on("requestfailed", lambda request: self.requests.append(request.url))
        self.page.on("response", lambda answer: self.requests.append(answer.url) if answer.status >= 400 else None)
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.goto(address)
        self.page.wait_for_selector(".folium-map[data-ready=yes]")
        return self.page

    def click_map(self, lat: float, lon: float) -> None:
        at = self.page.evaluate(f"(p => [p.x, p.y])(map_here().latLngToContainerPoint([{lat}, {lon}]))")
        self.page.mouse.click(*at)

    def fly_to(self, place: str) -> None:
        self.page.get_by_label("Search").fill(place)
        self.page.get_by_label("Search").press("Enter")
        self.page.wait_for_timeout(1400)

    def pixels(self, selector: str) -> Any:
        with Image.open(io.BytesIO(self.page.locator(selector).first.screenshot())) as image:
            return np.asarray(image.convert("RGB"))


@contextmanager
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.add_init_script(
            "window.map_here = () => window[Object.keys(window).find((name) => /^map_[0-9]+$/.test(name))]"
        )
        yield Browser(page)
        browser.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a run folder that `dlslicer-geo serve` shows."""
    command = [sys.executable, "-m", "dlslicer_geo", "serve", str(folder), "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.match(r"http\S+", process.stdout.readline() if process.stdout else "")
            assert found is not None
            yield found[0]
        finally:
            process.terminate()
