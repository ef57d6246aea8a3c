"""Memory: an estimate for each run of a cohort, the free memory, and the largest cohort that fits."""

from __future__ import annotations

import os

import torch

from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.config import Config
from ternary_lab.metrics.sobol import PART, chunk_size
from ternary_lab.model import Architecture
from ternary_lab.space import ENTRIES, SIZE, VALUES

SPARE = 1.25
"""Factor for memory that the allocator holds beyond the numbers counted in `run_bytes`."""


def run_bytes(config: Config, device: str) -> int:
    """An estimate of the bytes that one run of a cohort needs for training and measuring.

    It counts numbers of four bytes, for P parameters, an epoch of n operations in batches of B, latents of L
    dimensions, W units in all networks together and D units in the larger decoder. During the whole epoch:

        12 P                  weights, gradients, both moments; the copy to be measured; states of two epochs
        n (54 + 4 L)          operations of an epoch, one-hot targets, noise and latents
        6 W B + 4 B² + 324 B  activations and their gradients, distances of the repulsion, terms on the logits
        12 N per part         sums of the output distribution of both pathways, in float64
        M (L + 9)             Sobol latents
        K (W + 81 + 4·324)    K prior latents of a step, if the loss has information terms

    During a part of measuring:

        2 S V (W + 81 + L)    -ELBO of V held-out operations with S samples
        C (W + 81 + 4·324)    on a CPU: a decoded chunk of C latents and its outer products
        C (D + L)             on a GPU: the decoder's activations for a part of C latents, or
        C 2·324               its outer products

    The threads of a CPU do these at the same time, a GPU one after the other. The sum is multiplied by `SPARE`.

    Measured with v5.5: on two CPU threads 95 MB per run for 8 runs and 55 MB for 64 (benchmarks/cpu.json). On an H100 a
    peak of 1.7 GB for 1 run (few runs are measured in several parts at once), 2.0 GB for 8, 9.8 GB for 128 and 35.8 GB
    for 512 (benchmarks/cuda.json): 67 MB for each further run, where the estimate is 92 MB.
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
    """Bytes for one cohort: 80 % of the GPU memory that this process can use, or half the machine's memory per core.

    Raises DeviceError if the GPU is busy.
    """
    if device != "cpu":
        place = resolve_device(device)
        with gpu_errors():
            return int(0.8 * (torch.cuda.mem_get_info(place)[0] + torch.cuda.memory_reserved(place)))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // (os.cpu_count() or 1)


def room(config: Config, runs: int, device: str) -> str:
    """The remedy for a cohort of `runs` that did not fit into the memory: the largest cohort that does."""
    free = free_bytes(device)
    most = min(free // run_bytes(config, device), runs - 1)
    cause = f"{runs} run{'s' if runs > 1 else ''} of {config.name} found no room in {free / 1e9:.1f} GB"
    if most < 1:
        return (
            f"{cause}: close other programmes on the GPU, lower evaluation.latents or data.batch_size, "
            "or use --device cpu"
        )
    return f"{cause}: train at most {most} side by side"
