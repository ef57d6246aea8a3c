"""Networks of several runs at once: layers, passes, and blocks of weights.

One matrix product computes a layer of all R runs. Shapes and symbols are those of `model`. A block (G, size) holds the
weights of G groups, one group in each row. A group is one run of a decoder, or one run of one of the two encoders.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ternary_lab.backend import kernels
from ternary_lab.backend.threads import SideStreams

NARROW = 32
"""A weight gradient with fewer columns than this is computed transposed.

Without the transposition, the product of such thin matrices takes twice as long on a CPU.
"""


@dataclass(frozen=True)
class Layer:
    """A layer y = act(W x + b + skip).

    W stacks one or more named linear maps. `skip` is the index of an earlier activation, where 0 is the input of the
    network. This activation is added before the activation function `act`.
    """

    names: tuple[str, ...]
    inputs: int
    outputs: int
    relu: bool = False
    skip: int | None = None

    @property
    def size(self) -> int:
        return self.outputs * (self.inputs + 1)


@dataclass(frozen=True)
class Network:
    """The layers of a feed-forward network.

    The object holds no weights. Its methods read them from a block (G, size), which has one row per group. A row holds
    the weight (outputs, inputs) and the bias (outputs) of the first layer, then of the next layer, and so on.
    """

    layers: tuple[Layer, ...]

    @cached_property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)

    def views(self, block: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weight (G, outputs, inputs) and bias (G, outputs) of every layer as views of the block (G, size)."""
        views, at = [], 0
        groups = block.shape[0]
        for layer in self.layers:
            middle = at + layer.outputs * layer.inputs
            weight = block[:, at:middle].view(groups, layer.outputs, layer.inputs)
            at += layer.size
            views.append((weight, block[:, middle:at]))
        return views

    def parts(self, row: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, view) for every named weight and bias in one row (size,), in the order of the layers."""
        for layer, (weight, bias) in zip(self.layers, self.views(row.unsqueeze(0)), strict=True):
            width = layer.outputs // len(layer.names)
            for index, name in enumerate(layer.names):
                rows = slice(index * width, (index + 1) * width)
                yield f"{name}.weight", weight[0, rows]
                yield f"{name}.bias", bias[0, rows]

    def initialise(self, row: Tensor, generator: torch.Generator) -> None:
        """Fill one row (size,) in place with uniform values between -1/√inputs and 1/√inputs.

        The values are drawn layer by layer. In each named linear map, the weight is drawn before the bias.
        """
        for name, values in self.parts(row):
            if name.endswith(".weight"):
                torch.nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
                bound = 1 / math.sqrt(values.shape[1])
            else:
                torch.nn.init.uniform_(values, -bound, bound, generator=generator)

    def __call__(self, block: Tensor, x: Tensor) -> Tensor:
        """Return the outputs (G, B, outputs) for x (G, B, inputs).

        The result can be differentiated once with respect to the block and x.
        """
        return _Apply.apply(self, block, x)  # type: ignore[no-untyped-call,no-any-return]


class Bound:
    """A network with a block of weights and a block for their gradients.

    This class computes both passes itself, because autograd's overhead would dominate the time of a step in such a
    small model. Views and buffers are created once, and each gradient is written directly into the gradient block. The
    next call for a batch of the same size overwrites the tensors that `forward` and `backward` return.
    """

    def __init__(self, network: Network, block: Tensor, gradient: Tensor | None = None) -> None:
        self.network = network
        self.weights = [(weight, weight.transpose(1, 2), bias.unsqueeze(1)) for weight, bias in network.views(block)]
        places = network.views(gradient) if gradient is not None else []
        self.places = [(weight, weight.transpose(1, 2), bias.unsqueeze(1)) for weight, bias in places]
        self._buffers: dict[tuple[str, int], list[Tensor]] = {}
        self._side_streams = SideStreams(block.device)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the activations for x (G, B, inputs): x first, then the output of every layer.

        The last activation is the output of the network.
        """
        activations = [x]
        buffers = self._of_size("forward", x, [layer.outputs for layer in self.network.layers])
        for layer, (_, transposed, bias), y in zip(self.network.layers, self.weights, buffers, strict=True):
            skip = None if layer.skip is None else activations[layer.skip]
            if kernels.usable(y):
                torch.bmm(activations[-1], transposed, out=y)
                activations.append(kernels.add_bias(y, bias, skip, layer.relu))
                continue
            torch.baddbmm(bias, activations[-1], transposed, out=y)
            if skip is not None:
                y += skip
            activations.append(y.relu_() if layer.relu else y)
        return activations

    def infer(self, features: Tensor) -> Tensor:
        """Return the outputs (G, outputs, M) for inputs (G, inputs, M).

        The features come before the M samples, so entry probabilities and their products are contiguous in M.
        """
        activations = [features]
        for layer, (weight, _, bias) in zip(self.network.layers, self.weights, strict=True):
            skip = None if layer.skip is None else activations[layer.skip]
            activations.append(kernels.linear(weight, bias.transpose(1, 2), activations[-1], skip, layer.relu))
        return activations[-1]

    def backward(self, activations: list[Tensor], gradient: Tensor, to_input: bool) -> Tensor | None:
        """Write the gradients of the weights into the gradient block.

        `gradient` (G, B, outputs) is the gradient of the output. Returns the gradient of the input if `to_input` is
        true, otherwise None.
        """
        layers = self.network.layers
        buffers = self._of_size("backward", gradient, [layer.inputs for layer in layers])
        waiting: dict[int, Tensor] = {}
        g = gradient
        (ones,) = self._of_size("ones", gradient, [1])
        ones = ones.fill_(1).transpose(1, 2)
        for i in reversed(range(len(layers))):
            layer = layers[i]
            if layer.relu:
                place = torch.empty_like(g) if g is gradient else g
                g = torch.ops.aten.threshold_backward.grad_input(g, activations[i + 1], 0, grad_input=place)
            self._side_streams.aside(partial(self._write_gradients, i, activations[i], g, ones))
            if layer.skip is not None:
                waiting[layer.skip] = g
            if i == 0 and not to_input:
                break
            weight, skipped = self.weights[i][0], waiting.pop(i, None)
            if skipped is None:
                g = torch.bmm(g, weight, out=buffers[i])
            else:
                g = torch.baddbmm(skipped, g, weight, out=buffers[i])
        self._side_streams.join()
        return g if to_input else None

    def _write_gradients(self, layer: int, x: Tensor, g: Tensor, ones: Tensor) -> None:
        """Write the gradients of weight and bias of one layer.

        x (G, B, inputs) is the input of the layer, and g (G, B, outputs) is the gradient of its output before the
        activation function.
        """
        weight_place, transposed_place, bias_place = self.places[layer]
        if self.network.layers[layer].inputs < NARROW:
            transposed_place.copy_(torch.bmm(x.transpose(1, 2), g))
        else:
            torch.bmm(g.transpose(1, 2), x, out=weight_place)
        torch.bmm(ones, g, out=bias_place)

    def _of_size(self, purpose: str, like: Tensor, widths: list[int]) -> list[Tensor]:
        groups, batch = like.shape[:2]
        key = purpose, batch
        if key not in self._buffers:
            self._buffers[key] = [like.new_empty(groups, batch, width) for width in widths]
        return self._buffers[key]


class _Apply(torch.autograd.Function):
    """Autograd function of a whole network, as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, network: Network, block: Tensor, x: Tensor) -> Tensor:
        activations = Bound(network, block).forward(x)
        ctx.network = network
        ctx.save_for_backward(block, *activations)
        return activations[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor | None]:
        block, *activations = ctx.saved_tensors
        grad_block = torch.empty_like(block)
        bound = Bound(ctx.network, block, grad_block)
        return None, grad_block, bound.backward(activations, gradient.contiguous(), ctx.needs_input_grad[2])


@dataclass
class Blocks:
    """Weights, gradients or moments of R runs, in four blocks.

    `model` describes the blocks.
    """

    encoders: Tensor
    decoder_A: Tensor
    decoder_B: Tensor
    statenet: Tensor

    def trained(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the blocks that receive a gradient in every step. StateNet's block does not."""
        return self.encoders, self.decoder_A, self.decoder_B

    def copy(self) -> Blocks:
        """Return a copy in new memory."""
        return Blocks(*(block.clone(memory_format=torch.contiguous_format) for block in vars(self).values()))

    def one(self, run: int) -> Blocks:
        """Return the blocks of one run, as views."""
        part = slice(run, run + 1)
        return Blocks(self.encoders[:, part], self.decoder_A[part], self.decoder_B[part], self.statenet[part])

    @staticmethod
    def join(parts: list[Blocks]) -> Blocks:
        """Join the blocks of several runs along the run axis."""
        axis = {"encoders": 1}
        return Blocks(**{
            f.name: torch.cat([getattr(part, f.name) for part in parts], axis.get(f.name, 0)) for f in fields(Blocks)
        })

    def to(self, device: torch.device) -> Blocks:
        return Blocks(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})
