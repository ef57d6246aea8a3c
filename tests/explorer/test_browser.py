"""Tests of the explorer in JupyterLab. Playwright drives a headless Chromium.

Without Chromium, the tests are skipped. In CI, TERNARY_LAB_BROWSER=required makes them fail instead.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import nbformat
import pytest
from chromium import REASON, SKIPPED, launched
from playwright.sync_api import expect
from small import SMALL

from ternary_lab import run_experiment

if SKIPPED:
    pytest.skip(REASON, allow_module_level=True)

FLAGS = [
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run",
]
PATIENCE = 60_000
"""Milliseconds that a busy machine may take for one step."""
PRODUCT = 15665
CELLS = (
    "from ternary_lab.explorer import Explorer, ScheduleDesigner, TwoMaps, watch\n"
    "from ternary_lab import load_config\n"
    "explorer = Explorer('runs/seed=1')\nexplorer",
    "TwoMaps('runs/seed=1', 'runs/seed=2', height=500)",
    "ScheduleDesigner(load_config('runs/seed=1/config.yaml'), folder='designed')",
)
"""Cells of the notebook of the tests."""


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
            except urllib.error.HTTPError as answer:
                answer.close()
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




@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two small runs and a notebook that shows them."""
    folder = tmp_path_factory.mktemp("explorer")
    run_experiment(SMALL, [1, 2], folder / "runs", device="cpu")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "book.ipynb")
    return folder


class Lab:
    """The notebook in JupyterLab, executed, in a page of the browser."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        self.wrong: list[str] = []
        page.on("pageerror", lambda error: self.wrong.append(str(error)))
        page.goto(f"{address}/lab/tree/book.ipynb?reset")
        page.wait_for_function(
            "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.explorer = page.locator(".ternary-explorer").first
        self.slider = self.explorer.get_by_role("slider").first
        expect(self.slider).to_have_attribute("aria-valuenow", "2")

    def python(self, code: str) -> str:
        """Execute code in the kernel of the notebook, and return what it prints."""
        return str(self.page.evaluate(
            """async (code) => {
                const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({ code });
                let text = "";
                future.onIOPub = ({ content }) => { text += content.text ?? content.evalue ?? ""; };
                await future.done;
                return text;
            }""",
            code,
        ))

    def choose(self, text: str) -> None:
        """Choose an operation by its name, as a user does."""
        field = self.explorer.get_by_role("searchbox").or_(self.explorer.get_by_role("combobox", name="search")).first
        field.fill(text)
        field.press("Enter")

    def colours(self) -> int:
        """Return the number of different colours on the map."""
        return int(self.explorer.locator("canvas").first.evaluate(
            """(canvas) => {
                const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
                return new Set(new Uint32Array(data.buffer)).size;
            }"""
        ))


@pytest.fixture(scope="module")
def lab(folder: Path) -> Iterator[Lab]:
    log = folder / "lab.log"
    command = [
        "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1", "--IdentityProvider.token=", "--allow-root",
        "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    with log.open("wb") as file, serving(command, folder, file) as address, launched(*FLAGS) as browser:
        lab = Lab(browser.new_page(viewport={"width": 1400, "height": 1000}), address)
        yield lab
        assert lab.wrong == []
    assert kernels(folder) == []
    said = log.read_text(errors="replace").partition("received signal")[0]
    assert "Traceback" not in said, said[-3000:]


def kernels(folder: Path) -> list[str]:
    """Return the command lines of the kernels whose connection file is in a folder."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_text().replace("\0", " "))
        except OSError:  # the process has ended
            continue
    return [line for line in lines if str(folder) in line and "kernel-" in line]


@pytest.mark.driven
def test_the_map_is_drawn(lab: Lab, folder: Path) -> None:
    assert len(kernels(folder)) == 1
    assert lab.colours() >= 4  # white, and one for each value of an entry
    expect(lab.explorer).to_contain_text("seed=1")


@pytest.mark.driven
def test_python_moves_the_page_and_the_page_tells_python(lab: Lab) -> None:
    lab.python("explorer.epoch = 0")
    expect(lab.slider).to_have_attribute("aria-valuenow", "0")
    lab.slider.press("ArrowRight")
    expect(lab.slider).to_have_attribute("aria-valuenow", "2")
    lab.choose("product")
    expect(lab.explorer).to_contain_text("15,665")
    deadline = time.monotonic() + 10
    while (state := lab.python("print(explorer.epoch, explorer.chosen)")) != f"2 [{PRODUCT}]\n":
        assert time.monotonic() < deadline, state
    lab.python("explorer.chosen = [15633]")
    expect(lab.explorer).to_contain_text("15,633")


@pytest.mark.driven
def test_keys_on_the_page_are_not_those_of_the_notebook(lab: Lab) -> None:
    """In JupyterLab, b inserts a cell below, and arrows select another cell."""
    cells = lab.page.locator(".jp-Notebook-cell")
    count, selected = cells.count(), lab.page.locator(".jp-Notebook-cell.jp-mod-active .ternary-explorer")
    lab.slider.click()
    assert selected.count() == 1
    for key in ("b", "ArrowDown", "ArrowDown", "ArrowUp"):
        lab.slider.press(key)
    lab.page.wait_for_timeout(200)
    assert cells.count() == count == len(CELLS)
    assert selected.count() == 1


@pytest.mark.driven
def test_two_maps_show_both_runs(lab: Lab) -> None:
    pair = lab.page.locator(".ternary-explorer").nth(1)
    expect(pair.locator("canvas").nth(1)).to_be_visible()
    expect(pair).to_contain_text("seed=1")
    expect(pair).to_contain_text("seed=2")


@pytest.mark.driven
def test_a_training_by_the_designer_is_watched_and_opened_in_the_explorer(lab: Lab) -> None:
    lab.page.get_by_role("button", name="train", exact=True).click()
    expect(lab.page.get_by_text(re.compile(r"seed=42: \d+ epochs?, loss"))).to_be_visible()
    expect(lab.page.get_by_text(re.compile("finished after .* kept in designed"))).to_be_visible()
    lab.page.get_by_role("button", name="open seed 42 in the explorer").click()
    expect(lab.page.locator(".ternary-explorer").nth(2)).to_contain_text("seed=42")


@pytest.mark.driven
def test_another_run_opens(lab: Lab, folder: Path) -> None:
    field = lab.page.get_by_label("or the directory of a run").first
    field.fill("runs/nothing")
    field.press("Enter")
    expect(lab.page.locator('.tl-part [role="alert"]').first).to_contain_text("runs/nothing: no such run directory")
    field.fill("runs/seed=2")
    field.press("Enter")
    expect(lab.explorer).to_contain_text("seed=2")
    expect(lab.page.locator('.tl-part [role="alert"]')).to_have_count(0)


@pytest.mark.driven
def test_the_page_lives_on_after_its_kernel(lab: Lab, folder: Path) -> None:
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.shutdown()")
    deadline = time.monotonic() + 30
    while kernels(folder):
        assert time.monotonic() < deadline, "the kernel did not end"
        time.sleep(0.1)
    expect(lab.explorer.locator("canvas").first).to_be_visible()
    lab.choose("product")
    expect(lab.explorer).to_contain_text("15,665")
    lab.slider.press("ArrowLeft")
    expect(lab.slider).to_have_attribute("aria-valuenow", "0")
    assert lab.colours() >= 4  # white, and one for each value of an entry
