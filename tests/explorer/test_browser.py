"""Tests of the explorer in JupyterLab and Voilà. Playwright drives a headless Chromium.

Without Chromium, the tests are skipped. In CI, TERNARY_LAB_BROWSER=required makes them fail instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

from ternary_lab import load_run
from ternary_lab.explorer.codes_by_epoch import CodesByEpoch
from ternary_lab.explorer.map import FRAME

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "06_latent_explorer.ipynb"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REQUIRED = os.environ.get("TERNARY_LAB_BROWSER") == "required"
if CHROMIUM is None and not REQUIRED:
    pytest.skip("no Chromium on this machine: apt install chromium", allow_module_level=True)

# The flags enable WebGL without a GPU and switch off requests to the network.
FLAGS = [
    "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
]
PATIENCE = 60_000
"""Milliseconds that a busy machine may take for one step."""
FROM_OUTSIDE = "ERR_NAME_NOT_RESOLVED"
"""Voilà loads icon fonts from a CDN. Without a network this fails, and the page works without them."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    assert CHROMIUM is not None, "TERNARY_LAB_BROWSER=required, and there is no Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the notebook. The notebook stores its trainings in this folder."""
    folder = tmp_path_factory.mktemp("explorer")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub(r'folder = "[^"]*"', 'folder = "designed"', cell.source)
            assert 'folder = "designed"' in cell.source
    nbformat.write(notebook, folder / NOTEBOOK.name)
    return folder


@contextmanager
def serving(command: list[str], folder: Path, log: IO[bytes]) -> Iterator[str]:
    """Start a server on loopback, yield its address, and stop the server at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "JUPYTER_PLATFORM_DIRS": "1", "HOME": str(folder)}
    process = subprocess.Popen(
        [sys.executable, "-m", *command, f"--port={port}"], cwd=folder, stdout=log, stderr=log, env=environment
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/static/none", timeout=5).close()
            except urllib.error.HTTPError:
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.1)
            else:
                break
        yield address
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def opened(browser: Any) -> Iterator[tuple[Any, list[str]]]:
    """Yield a page and the list of its errors."""
    page = browser.new_page(viewport={"width": 1400, "height": 1300})
    page.set_default_timeout(PATIENCE)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    yield page, wrong
    page.close()


def slider(page: Any, description: str) -> Any:
    return page.locator(".widget-hslider", has=page.get_by_text(description, exact=True)).locator(".noUi-handle")


def usable(page: Any) -> None:
    """Wait until the map and its legend are drawn."""
    page.locator(".tl-part canvas").first.wait_for()
    page.get_by_text("number of zeros").last.wait_for()


# Steps of a visitor. Each step must change the page.


def choose_a_point(page: Any) -> None:
    """Choose a point with the mouse."""
    inspector = page.locator(".tl-part h4").first
    expect(inspector).to_have_text("No operation chosen")
    canvas = page.locator(".tl-part canvas").first
    canvas.scroll_into_view_if_needed()
    page.wait_for_timeout(1000)
    points = CodesByEpoch(load_run("v5_5/seed=42")).plane(100, "B", "pca").points
    for x, y in points[points.norm(dim=1).argsort()[:8]].tolist():
        box = canvas.bounding_box()  # the page may still be moving
        unit = box["height"] / 2 / FRAME
        page.mouse.move(box["x"] + box["width"] / 2 + unit * x, box["y"] + box["height"] / 2 - unit * y, steps=3)
        page.wait_for_timeout(300)
        page.mouse.down()
        page.mouse.up()
        page.wait_for_timeout(1000)  # two clicks without a pause are a double click, which chooses no point
        if inspector.inner_text() != "No operation chosen":
            break
    expect(inspector).to_have_text(re.compile(r"^[\d,]+( \(.*\))?$"))


def choose_an_operation(page: Any) -> None:
    """Choose an operation with the keyboard."""
    inspector = page.locator(".tl-part h4").first
    page.get_by_label("choose operation").fill("product")
    page.keyboard.press("Enter")
    expect(inspector).to_have_text(re.compile(r"^[\d,]+ \(product\)$"))
    expect(page.get_by_text("N·p(x) under the prior").first).not_to_contain_text("…")


def go_through_epochs(page: Any) -> None:
    """Move the slider of epochs with the mouse, then with the keyboard."""
    epoch = slider(page, "epoch")
    epoch.hover()  # waits until the slider stands still
    at = epoch.bounding_box()
    page.mouse.down()
    page.mouse.move(at["x"] - 300, at["y"] + at["height"] / 2, steps=8)
    page.mouse.up()
    shown = page.locator(".tl-part").get_by_text(re.compile(r"epoch \d+, pathway B")).first
    expect(shown).not_to_contain_text("epoch 100")
    readout = page.locator(".widget-hslider", has=page.get_by_text("epoch", exact=True)).locator(".widget-readout")
    for _ in range(40):
        if readout.inner_text() == "49":
            break
        epoch.press("ArrowLeft" if int(readout.inner_text()) > 49 else "ArrowRight")
    expect(shown).to_contain_text("epoch 49,")
    # A does not reconstruct this operation at epoch 49, but does at epoch 50.
    expect(page.locator("td.tl-wrong").first).to_be_visible()
    epoch.press("ArrowRight")
    expect(shown).to_contain_text("epoch 50,")
    expect(page.locator("td.tl-wrong")).to_have_count(0)


def decode(page: Any) -> None:
    """Change the latent in the latent editor with the keyboard."""
    table = page.locator('table[aria-label="decoder B of this latent"]')
    before = table.inner_html()
    handle = slider(page, "direction 1")
    for _ in range(30):
        handle.press("ArrowRight")
    expect(page.get_by_text("‖z‖ = 0.00")).to_have_count(0)
    page.wait_for_timeout(500)
    assert table.inner_html() != before


def take_a_path(page: Any) -> None:
    page.get_by_role("tab", name="Interpolation").click()
    page.get_by_label("from", exact=True).fill("Gödel implication")
    page.keyboard.press("Enter")
    expect(page.get_by_text(re.compile("straight path: .* changes"))).to_be_visible()
    curves = page.get_by_role("img", name=re.compile("Probabilities along two paths from .*Gödel implication"))
    expect(curves).to_be_visible()


def train_by_a_schedule(page: Any) -> None:
    page.get_by_role("tab", name="Schedule designer").click()
    preview = page.get_by_role("img", name=re.compile("^Schedules by epoch"))
    words = preview.get_attribute("alt")
    slider(page, "β_B warm-up (epochs)").press("ArrowLeft")
    slider(page, "ρ isolated").press("ArrowRight")
    expect(preview).not_to_have_attribute("alt", words)
    page.get_by_role("button", name="train", exact=True).click()
    expect(page.get_by_text(re.compile(r"seed=42: \d+ epochs"))).to_be_visible()
    page.get_by_role("button", name="stop", exact=True).click()
    expect(page.get_by_text(re.compile("(stopped|finished) after .* kept in designed"))).to_be_visible()
    expect(page.locator('.tl-part [role="alert"]')).to_have_count(0)


def read_the_pictures(page: Any) -> None:
    """Check that every picture has a text for screen readers."""
    expect(page.locator(".tl-part img[alt]").first).to_be_attached()
    for silent in ("img:not([alt])", "img[alt='']", "svg[role=img]:not([aria-label])", "table.tl-op:not([aria-label])"):
        expect(page.locator(f".tl-part {silent}")).to_have_count(0)


FEW = (choose_an_operation, read_the_pictures)
ALL = (
    choose_a_point, choose_an_operation, go_through_epochs, decode, take_a_path, train_by_a_schedule, read_the_pictures,
)


def drive(page: Any, steps: Sequence[Callable[[Any], None]]) -> None:
    expect.set_options(timeout=PATIENCE)
    for step in steps:
        step(page)


def portrait(page: Any, target: str) -> None:
    """Take the screenshot for the README."""
    page.set_viewport_size({"width": 1400, "height": 2000})
    page.get_by_role("tab", name="Interpolation").click()
    page.get_by_label("colour", exact=True).select_option("f(0, 0)")
    page.get_by_label("choose operation").fill("Łukasiewicz implication")
    page.keyboard.press("Enter")
    page.get_by_text("(Łukasiewicz implication)").first.wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(4000)
    page.locator(".tl-part").first.screenshot(path=target)


def nothing_wrong(wrong: list[str], log: Path) -> None:
    assert [text for text in wrong if FROM_OUTSIDE not in text] == []
    # A message that is sent while the server stops fails. The log then contains an error, which is ignored here.
    said = log.read_text(errors="replace").partition("received signal")[0]
    assert "Traceback" not in said, said[-3000:]


@pytest.fixture(scope="module")
def voila(folder: Path) -> Iterator[tuple[str, Path]]:
    """Start a Voilà server for the page of the explorer, and yield its address and the path of its log."""
    log = folder / "voila.log"
    command = ["voila", NOTEBOOK.name, "--no-browser", "--Voila.ip=127.0.0.1", "--preheat_kernel=True"]
    with log.open("wb") as file, serving(command, folder, file) as address:
        yield address, log


@pytest.mark.driven
@pytest.mark.parametrize("steps", [FEW, pytest.param(ALL, marks=pytest.mark.slow)], ids=["few steps", "all steps"])
def test_the_explorer_works_in_jupyterlab(
    steps: Sequence[Callable[[Any], None]], browser: Any, voila: tuple[str, Path], folder: Path
) -> None:
    """The Voilà server prepares a kernel for its first visitor during this test."""
    log = folder / "lab.log"
    command = [
        "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None", "--LabApp.check_for_updates_class="
        "jupyterlab.NeverCheckForUpdate",
    ]
    with log.open("wb") as file, serving(command, folder, file) as address, opened(browser) as (page, wrong):
        page.goto(f"{address}/lab/tree/{NOTEBOOK.name}?reset")
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        usable(page)
        drive(page, steps)
    nothing_wrong(wrong, log)


@pytest.mark.driven
def test_the_explorer_opens_in_voila_within_ten_seconds_and_works(browser: Any, voila: tuple[str, Path]) -> None:
    address, log = voila
    seconds = []
    for _ in range(3):  # at the first visit, the server may not be warm yet
        with opened(browser) as (page, wrong):
            started = time.perf_counter()
            page.goto(address)
            usable(page)
            seconds.append(time.perf_counter() - started)
            if seconds[-1] < 10:
                drive(page, ALL)
                if target := os.environ.get("TERNARY_LAB_SCREENSHOT"):
                    portrait(page, target)
                break
    print(f"usable after {', '.join(f'{s:.1f}' for s in seconds)} s")
    assert seconds[-1] < 10
    nothing_wrong(wrong, log)


def test_voila_executes_no_code_that_a_page_sends(folder: Path) -> None:
    """A visitor can only use the controls."""
    from websockets.sync.client import connect

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import ipywidgets; ipywidgets.IntSlider()")])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "slider.ipynb")
    mark = folder / "mark"
    header = {"msg_id": "1", "username": "a", "session": "a", "msg_type": "execute_request"}
    request = {
        "header": {**header, "version": "5.3", "date": ""},
        "parent_header": {}, "metadata": {}, "channel": "shell", "buffers": [],
        "content": {"code": f"open({str(mark)!r}, 'w')", "silent": False, "store_history": False,
                    "user_expressions": {}, "allow_stdin": False},
    }

    log = folder / "slider.log"
    command = ["voila", "slider.ipynb", "--no-browser", "--Voila.ip=127.0.0.1"]
    with log.open("wb") as file, serving(command, folder, file) as address:
        page = urllib.request.urlopen(address, timeout=60).read().decode()
        (kernel,) = re.findall(r'"kernelId":\s*"([^"]+)"', page)
        with connect(f"{address.replace('http', 'ws')}/api/kernels/{kernel}/channels") as channel:
            channel.send(json.dumps(request))
            time.sleep(3)
    assert not mark.exists()
    assert "execute_request" in log.read_text()
