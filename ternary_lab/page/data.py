"""The data of a run for its page: the header (JSON) and the parts (bytes).

E is the number of kept epochs, N = 19,683 the number of operations, L the number of latent dimensions, and D the number
of principal directions (8, or L if L is smaller). There are P = 2 pathways: 0 is A and 1 is B. Every part is compressed
with gzip. Numbers are little-endian.

    part              content
    positions         (E, P, 2, N): the code of each operation in the plane of two entries. Each number has 12 bits and
                      lies on the scale of `plane_range`: 0 is the low end and 4,095 the high end. All high bytes come
                      first, then all low bytes.
    encoders          the weights of both encoders: first the scales (E, P, rows) float32, then the levels (E, P, size)
                      int16. All low bytes of the levels come first, then all high bytes. A row is a neuron of a layer:
                      its weights and its bias are levels times the scale of the row. Rows have the order of the layers.
    decoder_A         the weights of decoder A, in the same way: (E, rows) and (E, size)
    decoder_B         the same for decoder B
    directions        (E, P, 1 + D, L) float32: the mean of the codes, then the principal directions as unit vectors
    log_probability   (E, P, N) uint8: ln p(x) under the prior, on the scale of `log_p_range`: 0 is the low end and 255
                      the high end; values beyond the ends are at the ends
    reconstructed     (E, P, ⌈N/8⌉) bytes, the highest bit first: whether the most probable table that is decoded from
                      the code of an operation is the operation itself
    properties        (number of properties, N) uint8: index into `values` of the property in the header

    header            content
    run, config, seed, version           name of the run, of its configuration, its seed, version of this library
    epochs            the E kept epochs, in rising order
    latents, operations, directions_per_epoch   L, N and D
    names             {operation index: name}
    default_entries   [j, k]: the two entries with the longest steps at the last epoch, the mean of both pathways
    plane_range       [E][P] -> [low of j, high of j, low of k, high of k]
    log_p_range       [E] -> [low of A, high of A, low of B, high of B]; null without the part `log_probability`
    log_p_latents     number of latents from which ln p(x) is computed; null without the part `log_probability`
    holes             [E][P] -> [[operation, ln p], …]: the operations with the smallest ln p, the smallest first; null
                      without the part `log_probability`
    networks          {"encoder", "decoder_A", "decoder_B"} -> {"size", "inputs", "layers"}. A layer has `inputs`,
                      `outputs`, `relu` and `skip`: the index of an earlier activation that is added before the ReLU (0
                      is the input of the network), or null. Its weight (outputs, inputs) comes before its bias. The
                      encoder's outputs are μ and then ln σ².
    history           columns with one value for each trained epoch; null where an epoch has none. Coverages are in
                      percent, cross-entropies in nats.
    events            [{"epoch", "text"}]: epochs at which a schedule changes
    properties        [{"key", "label", "kind", "values", "meaning"}]: `kind` is flag, count or category, `values` are
                      words, and `meaning` is the definition of a flag, else null

The step of entry k is the main effect e_k(+) - e_k(-) on the code. The plane of the entries j and k has the coordinates
(μ - c)·u_j and (μ - c)·u_k. Here c is the mean of all codes, and u_j is the step of j divided by its length.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ternary_lab import space, splits, symmetry
from ternary_lab.arguments import whole_number
from ternary_lab.backend.console import bar
from ternary_lab.backend.numerics import with_fixed_arithmetic
from ternary_lab.backend.threads import in_order
from ternary_lab.errors import RunError
from ternary_lab.metrics.codes import all_codes, principal_directions
from ternary_lab.metrics.entry_effects import EntryEffects, entry_effects
from ternary_lab.metrics.information import log_probability
from ternary_lab.metrics.likelihood import right_entries
from ternary_lab.metrics.sobol import sobol_normal
from ternary_lab.model import PATHWAYS, Architecture, TernaryVAE
from ternary_lab.networks import Network
from ternary_lab.page.events import events
from ternary_lab.runs.load import CHECKPOINTS, RunRecord
from ternary_lab.runs.provenance import versions

Array: TypeAlias = np.ndarray[Any, Any]

DIRECTIONS = 8
"""Largest number of principal directions of an epoch and pathway."""
LEVELS = 4095
"""Largest value of a coordinate on the scale of its range."""
LATENTS = 2**18
"""Number of Sobol points from which ln p(x) is computed.

With the sharp decoders at the end of v5.5 and of beyond, the standard error of ln p(x) is then about 0.2 nats. With a
quarter of the points it would be twice as large, and the smallest of 19,683 estimates would be far too small.
"""
ENDS = (0.001, 0.999)
"""Quantiles of ln p at the ends of its scale."""
HOLES = 24
"""Number of operations in `holes` of an epoch and pathway."""
HISTORY = {
    "loss": "train_loss",
    "coverage_A": "informative_coverage_A", "coverage_B": "informative_coverage_B",
    "cross_entropy_A": "ce_A", "cross_entropy_B": "ce_B", "beta_A": "beta_A", "beta_B": "beta_B",
}
"""Columns of a run's history, by their names in the header."""
LABELS = {"has_identity": "identity element", "has_absorbing": "absorbing element"}
"""Labels of properties that are not their names in `symmetry.PREDICATES`."""
COUNTS = {"zeros": "number of zeros", "values": "number of different results", "automorphisms": "automorphisms"}
"""Labels of the columns of `symmetry.properties` that are counts."""
DEPENDENCE = {"constant": "nothing (constant)", "a": "a", "b": "b", "both": "a and b"}
"""Words for the values of `symmetry.DEPENDENCE`."""


@dataclass(frozen=True)
class Bundle:
    """The data of a run for its page: the header, and the compressed parts by name."""

    header: dict[str, Any]
    parts: dict[str, bytes]


@with_fixed_arithmetic
def bundle(run: RunRecord, *, every: int = 1, prior: bool = True, progress: bool = False) -> Bundle:
    """Return the data of a run for its page.

    Args:
        run: any run with weights. Its epochs are those with saved weights, or else that of the last checkpoint.
        every: only epochs that are multiples of this number are taken, and the last one.
        prior: whether to compute ln p(x) under the prior, which takes most of the time.
        progress: whether to show a progress bar on stderr.

    Raises RunError for a run without weights, or with a damaged file. Raises CheckpointError for a damaged checkpoint.
    """
    name = short_name(run)
    epochs = kept_epochs(run, every)
    last = _model(run, epochs[-1])
    entries = longest_steps(entry_effects(all_codes(last.core)[0][:, 0]))
    facts, properties = _properties(run)
    history = _history(run)
    latents = list(sobol_normal(last.latent_dim, LATENTS, 0, last.device)) if prior else []
    calls = (partial(_epoch, run, epoch, entries, latents) for epoch in epochs)
    found = bar(in_order(calls, last.device), total=len(epochs), desc=f"page of {name}", unit="epoch", show=progress)
    packed = list(found)
    _align([one.directions for one in packed])
    header = {
        "run": name, "config": run.config.name, "seed": run.seed,
        "version": versions()["ternary-lab"], "epochs": epochs, "latents": last.latent_dim, "operations": space.SIZE,
        "directions_per_epoch": packed[0].directions.shape[1] - 1,
        "names": {str(index): name for name, index in space.named().items()},
        "default_entries": entries,
        "plane_range": [one.plane_range for one in packed],
        "log_p_range": [one.log_p_range for one in packed] if latents else None,
        "log_p_latents": LATENTS if latents else None,
        "holes": [one.holes for one in packed] if latents else None,
        "networks": _networks(last), "history": history,
        "events": [{"epoch": at, "text": text} for at, text in events(run.config, max(epochs[-1], *history["epoch"]))],
        "properties": facts,
    }
    parts = {"properties": properties, **_parts(packed, last.core.architecture)}
    return Bundle(header, {name: gzip.compress(data, mtime=0) for name, data in parts.items()})


@dataclass(frozen=True)
class _Epoch:
    """The data of one epoch. The first axis of an array is the pathway."""

    positions: Array
    plane_range: list[list[float | None]]
    directions: Array
    reconstructed: Array
    encoders: Tensor
    """(P, size)"""
    decoder_A: Tensor
    """(1, size)"""
    decoder_B: Tensor
    """(1, size)"""
    log_probability: Array | None
    log_p_range: list[float | None] | None
    holes: list[list[tuple[int, float | None]]] | None


def _epoch(run: RunRecord, epoch: int, entries: Sequence[int], latents: Sequence[Tensor]) -> _Epoch:
    """Return the data of an epoch. Without `latents`, ln p(x) is left out."""
    core = _model(run, epoch).core
    mu = all_codes(core)[0]
    positions, plane_range = _in_plane(mu[:, 0], entry_effects(mu[:, 0]), entries)
    right = right_entries(core, mu, space.operations().unsqueeze(0)).all(-1)
    levels = ends = holes = None
    if latents:
        log_p = torch.stack([log_probability(core, pathway, latents) for pathway in PATHWAYS])
        (levels, ends), holes = _levels(log_p), _holes(log_p)
    return _Epoch(
        positions, plane_range, _directions(mu[:, 0]), np.packbits(right[:, 0].numpy(), axis=-1),
        core.blocks.encoders[:, 0], core.blocks.decoder_A, core.blocks.decoder_B,
        levels, ends, holes,
    )


def short_name(run: RunRecord) -> str:
    """Return the name of a run with that of its experiment, such as v5_5/seed=42."""
    return "/".join(run.path.parts[-2:])


def kept_epochs(run: RunRecord, every: int = 1) -> list[int]:
    """Return the epochs of a page in rising order: those that are multiples of `every`, and the last one.

    Raises RunError for a run without weights.
    """
    every = whole_number(every, "every", 1)
    if epochs := run.epochs:
        return [epoch for epoch in epochs if epoch % every == 0 or epoch == epochs[-1]]
    if not (run.path / CHECKPOINTS / "latest.safetensors").exists():
        raise RunError(
            f"{run.path}: holds no weights: choose a run with weights, such as v5_5/seed=42, or train this run again"
        )
    return [run.checkpoint().epoch]


def _model(run: RunRecord, epoch: int) -> TernaryVAE:
    """Return the model at an epoch. Raises RunError if it has not the architecture of the run's configuration."""
    model = run.model(epoch)
    if model.settings != run.config.model:
        raise RunError(
            f"{run.path}: the weights of epoch {epoch} have another architecture than config.yaml: "
            "restore the run from a copy, or train it again with --fresh"
        )
    return model


def longest_steps(effects: EntryEffects) -> list[int]:
    """Return the two entries whose steps are longest, as a mean over the pathways."""
    return sorted(effects.lengths.mean(0).topk(2).indices.tolist())


def _in_plane(mu: Tensor, effects: EntryEffects, entries: Sequence[int]) -> tuple[Array, list[list[float | None]]]:
    """Return the positions (P, 2, N) of codes (P, N, L) in the plane of two entries, and the ranges of their scales."""
    # A step of length 0 has no direction. Then all positions are 0.
    axes = effects.directions[:, list(entries)].nan_to_num()
    points = axes @ (mu - effects.centre.unsqueeze(1)).mT
    low, high = points.amin(2), points.amax(2)
    levels = (points - low.unsqueeze(2)) / (high - low).clamp_min(torch.finfo(torch.float32).tiny).unsqueeze(2) * LEVELS
    ranges = torch.stack((low, high), 2).flatten(1)
    return levels.round().numpy().astype(np.uint16), [[_short(x, 7) for x in row] for row in ranges.tolist()]


def _directions(mu: Tensor) -> Array:
    """Return the mean and the principal directions (P, 1 + D, L) of codes (P, N, L)."""
    found = torch.stack([principal_directions(code, DIRECTIONS)[0] for code in mu])
    return torch.cat((mu.mean(1, keepdim=True), found), 1).numpy()


def _align(directions: Sequence[Array]) -> None:
    """Choose the signs of the principal directions of all epochs, in place.

    At the first epoch, the largest component becomes positive. A later direction gets the sign that is nearer to the
    direction of the same number at the epoch before.
    """
    found = directions[0][:, 1:]
    likeness = np.take_along_axis(found, np.abs(found).argmax(2)[..., None], 2)
    for index, one in enumerate(directions):
        found = one[:, 1:]
        if index:
            likeness = (found * directions[index - 1][:, 1:]).sum(2, keepdims=True)
        found *= np.where(likeness < 0, np.float32(-1), np.float32(1))


def _levels(log_p: Tensor) -> tuple[Array, list[float | None]]:
    """Return ln p (P, N) as uint8 on the scales between the quantiles `ENDS`, and the ends of both scales."""
    ends = torch.quantile(log_p, torch.tensor(ENDS, dtype=log_p.dtype), dim=1).T
    low, high = ends[:, :1], ends[:, 1:]
    levels = ((log_p - low) / (high - low).clamp_min(1e-9)).clamp(0, 1) * 255
    return levels.round().numpy().astype(np.uint8), [_short(x, 7) for x in ends.flatten().tolist()]


def _holes(log_p: Tensor) -> list[list[tuple[int, float | None]]]:
    """Return the operations with the smallest ln p (P, N) of each pathway, with their ln p."""
    found = log_p.topk(HOLES, largest=False)
    return [
        [(index, _short(value, 4)) for index, value in zip(*rows, strict=True)]
        for rows in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def _parts(packed: Sequence[_Epoch], architecture: Architecture) -> dict[str, bytes]:
    """Return the parts of all epochs, not compressed yet."""
    positions = np.stack([one.positions for one in packed])
    parts = {
        "positions": (positions >> 8).astype(np.uint8).tobytes() + (positions & 255).astype(np.uint8).tobytes(),
        "directions": np.stack([one.directions for one in packed]).astype("<f4").tobytes(),
        "reconstructed": np.stack([one.reconstructed for one in packed]).tobytes(),
    }
    weights = (
        ("encoders", architecture.encoder), ("decoder_A", architecture.decoder_A), ("decoder_B", architecture.decoder_B)
    )
    for name, network in weights:
        parts[name] = _packed(torch.cat([getattr(one, name) for one in packed]), network)
    levels = [one.log_probability for one in packed if one.log_probability is not None]
    return parts | ({"log_probability": np.stack(levels).tobytes()} if levels else {})


def _packed(block: Tensor, network: Network) -> bytes:
    """Return the weights (G, size) of a network as scales and levels.

    With one scale for each neuron, 16 bits are about ten times as exact as float16 numbers, which spend bits on small
    weights.
    """
    levels, scales = torch.empty_like(block, dtype=torch.int16), []
    for (weight, bias), (of_weight, of_bias) in zip(network.views(block), network.views(levels), strict=True):
        largest = torch.maximum(weight.abs().amax(2), bias.abs())
        scale = largest.clamp_min(torch.finfo(torch.float32).tiny * 2**16) / (2**15 - 1)
        of_weight.copy_((weight / scale.unsqueeze(2)).round())
        of_bias.copy_((bias / scale).round())
        scales.append(scale)
    both = levels.numpy().astype("<i2").view(np.uint8)
    return torch.cat(scales, 1).numpy().astype("<f4").tobytes() + both[:, 0::2].tobytes() + both[:, 1::2].tobytes()


def _networks(model: TernaryVAE) -> dict[str, Any]:
    architecture = model.core.architecture
    return {name: _network(getattr(architecture, name)) for name in ("encoder", "decoder_A", "decoder_B")}


def _network(network: Network) -> dict[str, Any]:
    layers = [
        {"inputs": layer.inputs, "outputs": layer.outputs, "relu": layer.relu, "skip": layer.skip}
        for layer in network.layers
    ]
    return {"size": network.size, "inputs": network.layers[0].inputs, "layers": layers}


def _history(run: RunRecord) -> dict[str, list[Any]]:
    table = run.history
    columns = {name: [_short(x, 5) for x in table[column].tolist()] for name, column in HISTORY.items()}
    return {"epoch": table["epoch"].tolist(), **columns}


def _properties(run: RunRecord) -> tuple[list[dict[str, Any]], bytes]:
    """Return the descriptions of the properties, and the values of all operations."""
    table = symmetry.properties()
    facts, rows = [], []

    def add(
        key: str, label: str, kind: str, values: Sequence[str], row: Array, meaning: str | None = None
    ) -> None:
        facts.append({"key": key, "label": label, "kind": kind, "values": list(values), "meaning": meaning})
        rows.append(row.astype(np.uint8))

    for name in symmetry.PREDICATES:
        label = LABELS.get(name, name.replace("_", " "))
        add(name, label, "flag", ("no", "yes"), table[name].to_numpy(), symmetry.meaning(name))
    for name, label in COUNTS.items():
        values, index = np.unique(table[name].to_numpy(), return_inverse=True)
        add(name, label, "count", values.astype(str).tolist(), index)
    depends = table["depends_on"].cat.codes.to_numpy()
    add("depends_on", "depends on", "category", [DEPENDENCE[name] for name in symmetry.DEPENDENCE], depends)
    split = splits.split(run.config.data)
    parts = {"train": split.train, "validation": split.validation, "test": split.test, "left out": split.left_out}
    names = [name for name, part in parts.items() if len(part)]
    of = np.zeros(space.SIZE)
    for place, name in enumerate(names):
        of[parts[name].numpy()] = place
    add("split", "part of the data", "category", names, of)
    return facts, np.stack(rows).tobytes()


def _short(value: float, digits: int) -> float | None:
    """Return a number with a few significant digits, or None if it is not finite."""
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None
