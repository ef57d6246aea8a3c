"""The page of v5.5 in Chromium: it opens from the disk, loads nothing, and computes what the library computes.

Without Chromium, the tests are skipped. In CI, TERNARY_LAB_BROWSER=required makes them fail instead.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chromium import REASON, SKIPPED, launched

from ternary_lab import load_run, space
from ternary_lab.model import PATHWAYS
from ternary_lab.page.build import write_page

if SKIPPED:
    pytest.skip(REASON, allow_module_level=True)
pytestmark = pytest.mark.driven

RUN = load_run("v5_5/seed=42")
PICTURE = 3.0
"""Longest time in seconds from the address to the first picture."""
NEAR = 0.001
"""Largest difference of two probabilities that count as equal. The largest that occurs is 0.0003."""
LARGEST = 15e6
"""Largest size of a page in bytes."""
# The outputs of the encoder and the probabilities that are decoded from the code, for each operation, as the text of
# float32 numbers: JSON would take longer than the networks.
COMPUTE = """([epoch, pathway, operations]) => {
  const numbers = operations.flatMap((operation) => {
    const outputs = [...explorer.encode(epoch, pathway, operation)];
    return [...outputs, ...explorer.decode(epoch, pathway, outputs.slice(0, outputs.length / 2))];
  });
  const bytes = new Uint8Array(Float32Array.from(numbers).buffer);
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
}"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of v5.5 without ln p, which these tests do not need."""
    return write_page(RUN, tmp_path_factory.mktemp("page") / "page.html", prior=False)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


def test_the_page_opens_from_the_disk_and_loads_nothing(file: Path, browser: Any) -> None:
    found: list[float] = []
    for _ in range(3):  # the fastest of three, because another process may have used the core
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        loaded: list[str] = []
        wrong: list[str] = []
        page.on("request", lambda request, loaded=loaded: loaded.append(request.url))
        page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
        page.on("console", lambda message, wrong=wrong: wrong.append(message.text))
        start = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_function("window.explorer !== undefined")
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        found.append(time.perf_counter() - start)
        page.evaluate("explorer.ready")
        page.close()
        # A worker has its program at a blob: address, inside the page.
        assert [url for url in loaded if not url.startswith(("blob:", "data:"))] == [file.as_uri()]
        assert wrong == []
    assert min(found) < PICTURE


def test_the_page_is_small(file: Path) -> None:
    log_p = len(RUN.epochs) * 2 * space.SIZE * 4 / 3  # one byte per operation, in base64
    assert file.stat().st_size + log_p < LARGEST


def test_the_page_computes_what_the_library_computes(file: Path, browser: Any) -> None:
    """1,000 operations at each epoch get nearly the same code, and from it nearly the same probabilities.

    The page has the weights with 16 bits. So the most probable value of an entry may differ only if the library finds
    two values equally probable, within `NEAR`. This happens to one of the 396,000 entries.
    """
    operations = torch.randperm(space.SIZE, generator=torch.Generator().manual_seed(0))[:1000]
    page = browser.new_page()
    page.goto(file.as_uri())
    page.wait_for_function("window.explorer !== undefined")
    page.evaluate("explorer.ready")
    ties = 0
    for (index, epoch), (number, pathway) in product(enumerate(RUN.epochs), enumerate(PATHWAYS)):
        model = RUN.model(epoch)
        code = model.encode(space.operations(operations), pathway)
        p = torch.softmax(model.decode(code.mean, pathway), -1).numpy()
        text = page.evaluate(COMPUTE, [index, number, operations.tolist()])
        rows = np.frombuffer(base64.b64decode(text), "<f4").reshape(len(operations), -1)
        mu, log_variance, shown = np.split(rows, [model.latent_dim, 2 * model.latent_dim], axis=1)
        shown = shown.reshape(-1, 9, 3)
        scale = np.abs(code.mean.numpy()).max()
        np.testing.assert_allclose(mu, code.mean.numpy(), rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(log_variance, code.log_variance.numpy(), rtol=1e-3, atol=1e-3)
        assert np.abs(shown - p).max() < NEAR, f"epoch {epoch}, pathway {pathway}"
        other = shown.argmax(2) != p.argmax(2)
        assert (np.diff(np.sort(p[other], 1)[:, 1:]) < NEAR).all(), f"epoch {epoch}, pathway {pathway}"
        ties += int(other.sum())
    assert ties <= 4
    page.close()
