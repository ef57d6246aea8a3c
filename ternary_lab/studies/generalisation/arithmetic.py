"""Latent arithmetic: changes of one entry as directions in the latent space (Mikolov et al. 2013; White 2016).

    analogy      x is to x' as y is to ?    decode(μ(x') - μ(x) + μ(y))
    edit         change an entry of y       decode(μ(y) + v)

Here x' is x with one entry changed. An analogy is right if its result is y with the same change of the entry. For an
edit, v is the mean of μ(x') - μ(x) over many x. There is one v for each entry, old value and new value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ternary_lab import space
from ternary_lab.metrics.decoding import decoded_tables
from ternary_lab.model import Pathway, TernaryVAE
from ternary_lab.space import ENTRIES, SIZE, VALUES


@dataclass(frozen=True)
class Arithmetic:
    """Results of latent arithmetic, in percent of `attempts`."""

    right: float
    """The entry changed as intended, and no other entry changed."""
    unchanged: float
    other: float
    entry: float
    """The entry has the new value. Other entries may have changed too."""
    attempts: int


@torch.no_grad()
def analogies(model: TernaryVAE, pathway: Pathway, n: int, generator: torch.Generator) -> Arithmetic:
    """Return the results of n analogies between random operations.

    The changed entry has the same old value in x and in y. Operations are drawn on the generator's device.
    """
    x, y, entry, old, step = (
        torch.randint(high, (n,), generator=generator, device=generator.device).cpu()
        for high in (SIZE, SIZE, ENTRIES, VALUES, VALUES - 1)
    )
    new = (old + 1 + step) % VALUES
    start, source = (changed(i, entry, old) for i in (x, y))
    mu = _codes(model, pathway)
    z = mu[changed(start, entry, new)] - mu[start] + mu[source]
    return _score(model, pathway, z, source, entry, new)


@torch.no_grad()
def edit_vectors(model: TernaryVAE, pathway: Pathway, operations: Tensor) -> Tensor:
    """Return the mean displacement (9, 3, 3, L) of a code when entry k changes from v to w, at index [k, v, w].

    `operations` (n,) holds indices of operations. The mean is taken over the operations whose entry k has the value v.
    The displacement is 0 if v = w, or if there is no such operation.
    """
    mu, operations = _codes(model, pathway), operations.cpu()
    vectors = mu.new_zeros(ENTRIES, VALUES, VALUES, mu.shape[1])
    values = (space.operations(operations) + 1).long()
    for k in range(ENTRIES):
        for v in range(VALUES):
            of = operations[values[:, k] == v]
            for w in range(VALUES):
                if w != v and len(of):
                    vectors[k, v, w] = (mu[of + (w - v) * VALUES**k] - mu[of]).mean(0)
    return vectors


@torch.no_grad()
def edits(model: TernaryVAE, pathway: Pathway, operations: Tensor, vectors: Tensor) -> Arithmetic:
    """Change one entry of each operation in every possible way, and return the results.

    `operations` (n,) holds indices of operations.

    A change is made by adding one of the `vectors` of `edit_vectors` to a code.
    """
    sources = operations.cpu().repeat_interleave(ENTRIES * (VALUES - 1))
    entry = torch.arange(ENTRIES).repeat_interleave(VALUES - 1).repeat(len(operations))
    old = sources // VALUES**entry % VALUES
    new = (old + torch.arange(1, VALUES).repeat(len(operations) * ENTRIES)) % VALUES
    z = _codes(model, pathway)[sources] + vectors[entry, old, new]
    return _score(model, pathway, z, sources, entry, new)


def changed(operations: Tensor, entry: Tensor, value: Tensor) -> Tensor:
    """Return operations, by index, with one entry set to a value that is given as class 0..2.

    All tensors are int64 and have one shape.
    """
    weight = VALUES**entry
    return operations + (value - operations // weight % VALUES) * weight


def _score(model: TernaryVAE, pathway: Pathway, z: Tensor, source: Tensor, entry: Tensor, new: Tensor) -> Arithmetic:
    found = space.index_of(decoded_tables(model, pathway, z)).cpu()
    right, unchanged = found == changed(source, entry, new), found == source
    other, hit = ~right & ~unchanged, found // VALUES**entry % VALUES == new
    a, b, c, d = (100 * v.float().mean().item() for v in (right, unchanged, other, hit))
    return Arithmetic(a, b, c, d, len(z))


def _codes(model: TernaryVAE, pathway: Pathway) -> Tensor:
    """Return the codes μ (N, L) of all N operations."""
    return model.encode(space.operations(), pathway).mean
