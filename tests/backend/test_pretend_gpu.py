"""The pretended GPU of `pretend_gpu` by itself: it refuses and allows what CUDA does, and counts waits and sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pretend_gpu
import pytest
import torch
from pretend_gpu import CPU, NAME, PretendedGPU, RefusedByCUDAError
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def gpu() -> Iterator[PretendedGPU]:
    with PretendedGPU() as pretended:
        yield pretended


def _adamw(step: Tensor, *rows: Tensor) -> None:
    torch._fused_adamw_(
        *([row] for row in rows), [], [step], lr=0.1, beta1=0.9, beta2=0.9, weight_decay=0.0, eps=1e-8, amsgrad=False,
        maximize=False,
    )


REFUSED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "a sum": lambda there, here: there + here,
    "a sum into the CPU": lambda there, here: here.add_(there),
    "a sum into a CPU scalar": lambda there, here: here[0].add_(there[0]),
    "a product": lambda there, here: here @ there,
    "an output": lambda there, here: torch.add(there, there, out=here),
    "a stack of scalars": lambda there, here: torch.stack((there[0], here[0])),
    "GPU indices into the CPU": lambda there, here: here[there.long()],
    "a CPU index to gather": lambda there, here: there.gather(0, here.long()),
    "a step counter": lambda there, here: _adamw(here[0], *(there.clone() for _ in range(4))),
    "a generator of the CPU": lambda there, here: there.normal_(generator=torch.Generator()),
    "a generator of the GPU": lambda there, here: here.normal_(generator=torch.Generator(NAME)),
    "a draw by a generator of the GPU": lambda there, here: torch.randperm(3, generator=torch.Generator(NAME)),
    "numpy": lambda there, here: np.asarray(there),
}
ALLOWED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a scalar of the CPU": lambda there, here: there * here[0],
    "CPU indices": lambda there, here: there[here.long()],
    "a CPU mask": lambda there, here: there[here > 1],
    "a copy": lambda there, here: there.clone().copy_(here),
    "a step counter": lambda there, here: _adamw(there[0].clone(), *(there.clone() for _ in range(4))) or there,
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_pretended_gpu_refuses_like_cuda(name: str, gpu: PretendedGPU) -> None:
    here = torch.arange(3.0)
    with pytest.raises(RefusedByCUDAError):
        REFUSED[name](here.to(gpu.device), here)


@pytest.mark.parametrize("name", ALLOWED)
def test_the_pretended_gpu_allows_like_cuda(name: str, gpu: PretendedGPU) -> None:
    here = torch.arange(3.0)
    assert ALLOWED[name](here.to(gpu.device), here).device == gpu.device


WAITING: dict[str, tuple[int, Callable[[Tensor], object]]] = {
    "a number": (1, lambda x: float(x[0])),
    "a condition": (1, lambda x: bool((x > 1).any())),
    "a list": (1, lambda x: x.tolist()),
    "a selection by a mask": (1, lambda x: x[x > 1]),
    "a selection by indices of the CPU": (1, lambda x: x[torch.tensor([2, 0])]),
    "a copy to the CPU": (1, lambda x: x.cpu()),
    "a copy from the CPU": (1, lambda x: x.copy_(torch.ones(3))),
    "a copy that is not waited for": (0, lambda x: x.copy_(torch.ones(3), non_blocking=True)),
    "a filling by a mask": (0, lambda x: x.masked_fill_(x > 1, 0.0)),
    "arithmetic": (0, lambda x: x.add_(1).mul_(x).sum()),
}


@pytest.mark.parametrize("name", WAITING)
def test_waits_are_counted(name: str, gpu: PretendedGPU) -> None:
    expected, act = WAITING[name]
    x = torch.arange(3.0).to(gpu.device)
    gpu.waits.clear()
    act(x)
    assert gpu.waits.total() == expected


def test_sums_that_depend_on_their_order_are_counted(gpu: PretendedGPU) -> None:
    x, index = torch.zeros(4).to(gpu.device), torch.tensor([1, 1]).to(gpu.device)
    x.index_add_(0, index, torch.ones(2).to(gpu.device))
    assert not gpu.atomics
    x.index_add_(0, index, torch.full((2,), 0.3).to(gpu.device))
    x.index_put_((index,), torch.full((2,), 0.3).to(gpu.device), accumulate=True)
    x.cumsum(0)
    x.multinomial(2, replacement=True)
    torch.bincount(index, weights=x[:2])
    assert gpu.atomics.total() == 5


def test_an_error_names_the_private_function_that_torch_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C, "_set_only_lift_cpu_tensors")
    with pytest.raises(RuntimeError, match=r"moved .*_set_only_lift_cpu_tensors.*: bring that file up to date"):
        pretend_gpu.register.__wrapped__()


def test_there_is_no_gpu_afterwards() -> None:
    with PretendedGPU() as gpu:
        left = torch.ones(2, device=gpu.device)
    assert torch.Generator().device == CPU
    with pytest.raises(RuntimeError, match="after `with PretendedGPU"):
        left.add(1)
    x = torch.ones(3, requires_grad=True)
    x.square().sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [2, 2, 2]
