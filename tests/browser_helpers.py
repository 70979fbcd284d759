"""A real browser without a window, and what it saw of a page."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

PHONE, DESKTOP = 390, 1280
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@dataclass
class Visit:
    """An open page, and what went wrong on it: console messages, failed requests, requests to elsewhere."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    def image_widths(self) -> list[int]:
        """The width of each picture in its file; 0 of one that could not be decoded."""
        return list(self.page.evaluate("Array.from(document.images, image => image.naturalWidth)"))

    def screenshot(self) -> np.ndarray:
        """The whole page as RGB pixels."""
        shot = self.page.screenshot(full_page=True)
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


@contextmanager
def started_browser() -> Iterator[Browser]:
    """Start the machine's own browser; skip the test where there is none."""
    path = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser ({', '.join(_NAMES)}); `make browser` installs Debian's")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def visited(browser: Browser, path: Path, width: int, scheme: str = "light") -> Iterator[Visit]:
    """Open a file in a window of `width` pixels, in a `light` or `dark` scheme."""
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    visit = Visit(page)
    page.on("console", lambda message: visit.complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: visit.complaints.append(f"error: {error}"))
    page.on("requestfailed", lambda request: visit.complaints.append(f"failed: {request.url[:100]}"))
    page.on("request", lambda request: _check_inside(visit, request.url))
    try:
        page.goto(path.resolve().as_uri())
        yield visit
    finally:
        page.close()


def _check_inside(visit: Visit, url: str) -> None:
    if not url.startswith(("file:", "data:")):
        visit.complaints.append(f"outside: {url[:100]}")
