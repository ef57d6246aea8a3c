"""How much memory a cohort takes while it is trained and measured, and how large a cohort finds room."""

from __future__ import annotations

import os

from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.config import Config
from ternary_lab.metrics.sobol import PART, chunk_size
from ternary_lab.model import Architecture
from ternary_lab.space import ENTRIES, SIZE, VALUES

SPARE = 1.25
"""What the allocator holds beyond what is counted: see `run_bytes`."""


def run_bytes(config: Config, device: str) -> int:
    """An estimate of the memory that one run of a cohort takes while it trains and is measured.

    Counted in numbers of four bytes: for P parameters, an epoch of n operations in batches of B, latents of L
    dimensions, networks of W units in all and D in the larger decoder,

        12 P                  weights, gradients, both moments; the copy that is measured; states of two epochs
        n (54 + 4 L)          an epoch's operations, one-hot targets, noise, and latents
        6 W B + 4 B² + 324 B  activations and their gradients, distances of the repulsion, terms on the logits
        12 N per part         sums of the output distribution of both pathways, in float64
        M (L + 9)             Sobol latents
        K (W + 81 + 4·324)    prior latents of a step, where the loss asks for information

    and what measuring holds for a while:

        2 S V (W + 81 + L)    the held-out operations' -ELBO, of S samples
        C (W + 81 + 4·324)    on a CPU: a chunk of latents, decoded, and its outer products
        C (D + L)             on a GPU: a part of the latents on its way through the decoder, or
        C 2·324               its outer products

    A CPU's threads do these at once, a GPU one after the other. All of it times `SPARE`. On two CPU threads eight
    v5.5 runs took 95 MB a run, and 64 of them 55 (benchmarks/cpu.json). On an H100 one took 1.7 GB at its peak, for
    parts are measured side by side where runs are few, 8 took 2.0 GB, 128 took 9.8 GB and 512 took 35.8 GB
    (benchmarks/cuda.json): 67 MB for each further run, of which this says 92.
    """
    architecture, m, e = Architecture(config.model), config.model, config.evaluation
    decoder_b = m.decoder_B_hidden * (1 + 2 * m.decoder_B_blocks)
    logits = VALUES * ENTRIES
    width = 2 * sum(m.encoder_hidden) + sum(m.decoder_A_hidden) + decoder_b + 2 * logits
    train, held_out = (int(SIZE * share) for share in (config.data.train_fraction, config.data.validation_fraction))
    n, batch = config.data.epoch_operations or train, config.data.batch_size
    decoding = width + 81 + 4 * 324
    numbers = 12 * architecture.parameters
    numbers += n * (54 + 4 * m.latent_dim)
    numbers += 6 * width * batch + 4 * batch**2 + 324 * batch
    numbers += 12 * SIZE * -(-e.latents // PART)
    numbers += e.latents * (m.latent_dim + 9)
    numbers += config.information.latents * decoding if config.information.enabled else 0
    elbo = 2 * e.elbo_samples * held_out * (width + 81 + m.latent_dim)
    if device == "cpu":
        numbers += min(chunk_size(resolve_device(device)), e.latents) * decoding + elbo
    else:
        decoder = max(sum(m.decoder_A_hidden), decoder_b) + logits
        numbers += max(min(PART, e.latents) * max(decoder + m.latent_dim, 2 * 324), elbo)
    return int(4 * SPARE * numbers)


def free_bytes(device: str) -> int:
    """Memory for one cohort: 80 % of what a GPU has for this process, or half of the machine's shared by its cores.

    Raises DeviceError where the GPU is busy.
    """
    if device != "cpu":
        import torch

        place = resolve_device(device)
        with gpu_errors():
            return int(0.8 * (torch.cuda.mem_get_info(place)[0] + torch.cuda.memory_reserved(place)))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // (os.cpu_count() or 1)


def room(config: Config, runs: int, device: str) -> str:
    """What to do where a cohort of `runs` found no room on a GPU: the largest that does."""
    free = free_bytes(device)
    most = min(free // run_bytes(config, device), runs - 1)
    of = f"{runs} run{'s' if runs > 1 else ''} of {config.name} found no room in {free / 1e9:.1f} GB"
    if most < 1:
        return f"{of}: close what else uses it, lower evaluation.latents or data.batch_size, or use --device cpu"
    return f"{of}, {most} will: train at most {most} side by side"
