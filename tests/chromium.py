"""Chromium for the tests that drive a browser.

Without Chromium, these tests are skipped. In CI, TERNARY_LAB_BROWSER=required makes them fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SKIPPED = CHROMIUM is None and os.environ.get("TERNARY_LAB_BROWSER") != "required"
REASON = "no Chromium on this machine: apt install chromium"


@contextmanager
def launched(*flags: str) -> Iterator[Any]:
    """Start Chromium with these flags, yield the browser of Playwright, and close it."""
    from playwright.sync_api import sync_playwright

    assert CHROMIUM is not None, "TERNARY_LAB_BROWSER=required, and there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *flags])
        yield browser
        browser.close()
