"""The Triton kernels against their plain torch forms, in Triton's interpreter, which torch's CPU build lacks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

from ternary_lab.backend import kernels

CHECK = """
import torch
from ternary_lab import losses, space
from ternary_lab.backend import kernels, triton_kernels

torch.manual_seed(0)
keys = torch.tensor([12345678901234, 7])
assert torch.equal(triton_kernels.philox(keys, 5, 5003, False), kernels.philox_uniform(keys, 5, 5003))
torch.testing.assert_close(
    triton_kernels.philox(keys, 5, 5003, True), kernels.philox_normal(keys, 5, 5003), rtol=0, atol=1e-6
)

rows, size = 3, 2051
plain = [torch.randn(rows, size) for _ in range(4)]
plain[3].abs_()
ours = [x.clone() for x in plain]
rates = torch.tensor([[1e-3, 5e-4, 2e-3], [0.9] * 3, [0.999] * 3, [1e-8] * 3, [1e-4] * 3])
for step in range(1, 4):
    divisor, number = torch.rand(rows) + 0.5, torch.tensor(float(step))
    kernels.adamw(*plain, divisor, rates, number)
    triton_kernels.adamw(*ours, divisor, rates, number, True)
for a, b in zip(ours, plain, strict=True):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

for shape in ((3, 65, 17), (2, 1, 9), (2, 5, 1)):
    for relu in (False, True):
        for skip in (None, torch.randn(shape)):
            y, bias = torch.randn(shape), torch.randn(shape[0], 1, shape[2])
            want, got = kernels.add_bias(y.clone(), bias, skip, relu), y.clone()
            triton_kernels.add_bias(got, bias, skip, relu)
            torch.testing.assert_close(got, want, rtol=0, atol=1e-6)

for outputs, inputs, columns in ((27, 128, 70), (128, 16, 64), (130, 40, 129), (5, 3, 1)):
    block = torch.randn(3, outputs * inputs + 7)
    weight, bias = block[:, : outputs * inputs].view(3, outputs, inputs), torch.randn(3, outputs, 1)
    x, skip = torch.randn(3, inputs, 2 * columns)[:, :, :columns], torch.randn(3, outputs, columns)
    for some in (x, x[:1].expand(3, -1, -1)):
        for relu, added in ((False, None), (True, skip)):
            want = kernels.linear(weight, bias, some, added, relu)
            got = triton_kernels.linear(weight, bias, some, added, relu)
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)

def plain_output_terms(target, logits, weight):
    ce, p, gradient = losses.cross_entropy(target, logits)
    entropy, slope = losses.mean_output_entropy(p[1])
    gradient[1].addcmul_(slope, weight[:, None, None, None], value=-1)
    return ce, entropy, gradient

for batch in (2, 64, 100):
    target = space.one_hot(torch.randint(-1, 2, (3, batch, 9)).float())
    logits, weight = 4 * torch.randn(2, 3, batch, 9, 3), torch.tensor([0.0, 0.1, 0.5])
    want = plain_output_terms(target, logits, weight)
    for a, b in zip(triton_kernels.output_terms(target, logits, weight), want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
print("equal")
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed: its kernels are not interpreted")
def test_triton_kernels_equal_the_plain_forms() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize("home", ["file", "folder"])
def test_kernels_are_kept_in_a_temporary_folder_if_there_is_no_home(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton fails at its first kernel if it cannot make its folder in the home, as in a container without one."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home))
    monkeypatch.setenv("TRITON_CACHE_DIR", "")
    monkeypatch.delenv("TRITON_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "ternary_lab.backend.triton_kernels", ModuleType("triton_kernels"))
    assert kernels._triton.__wrapped__() is not None
    folder = os.environ["TRITON_CACHE_DIR"]
    if home == "folder":
        assert folder == ""  # Triton uses its usual folder
    else:
        assert Path(folder).is_dir()
        shutil.rmtree(folder)
