"""Estimates of the memory of a run, of the free memory, and of the largest cohort that fits."""

from __future__ import annotations

import os

import torch

from ternary_lab.backend.devices import gpu_errors, resolve_device
from ternary_lab.config import Config
from ternary_lab.metrics.sobol import PART, chunk_size
from ternary_lab.model import Architecture
from ternary_lab.space import ENTRIES, SIZE, VALUES

SPARE = 1.25
"""Factor for the memory that the allocator holds in addition to the numbers that `run_bytes` counts."""


def run_bytes(config: Config, device: str) -> int:
    """Estimate the bytes that one run of a cohort needs for training and measuring.

    The estimate counts numbers of four bytes. The run has P parameters, n operations per epoch, batches of B
    operations with S posterior samples each, L latent dimensions, W units in all networks together, D units in the
    larger decoder, and M Sobol latents, which are measured in parts of at most `PART` latents. N is the number of all
    operations. The following numbers are in memory during the whole epoch:

        12 P                  weights, gradients, both moments; the copy to be measured; states of two epochs
        n (54 + (2 S + 2) L)  operations of an epoch, one-hot targets, noise and latents
        6 W Z + 4 Z² + 324 Z  activations and their gradients, distances of the repulsion, terms on the logits, for
                              the Z = B S posterior samples of a step
        12 N per part         sums of the output distribution of both pathways, in float64
        M (L + 9)             Sobol latents
        K (W + 81 + 4·324)    K prior latents of a step, if the loss has information terms

    The following numbers are in memory only during some tasks of the measurement:

        2 E V (W + 81 + L)    -ELBO of V held-out operations with E samples
        C (W + 81 + 4·324)    on a CPU: a decoded chunk of C latents and its outer products
        C (D + L)             on a GPU: the decoder's activations for a part of C latents, or
        C 2·324               on a GPU: the outer products of this part

    The threads of a CPU do these tasks at the same time, so their numbers are added. A GPU does one task after the
    other, so the largest number counts. The sum is multiplied by `SPARE`.

    Measured values with v5.5 are as follows. On two CPU threads, a run needs 95 MB in a cohort of 8 runs and 55 MB in a
    cohort of 64 (benchmarks/cpu.json). On an H100, the peak is 1.7 GB for 1 run (a GPU measures several parts at once
    if there are few runs), 2.0 GB for 8 runs, 9.8 GB for 128 and 35.8 GB for 512 (benchmarks/cuda.json). So each
    further run needs 67 MB, while the estimate is 92 MB.
    """
    architecture, m, e = Architecture(config.model), config.model, config.evaluation
    decoder_b = m.decoder_B_hidden * (1 + 2 * m.decoder_B_blocks)
    logits = VALUES * ENTRIES
    width = 2 * sum(m.encoder_hidden) + sum(m.decoder_A_hidden) + decoder_b + 2 * logits
    train, held_out = (int(SIZE * share) for share in (config.data.train_fraction, config.data.validation_fraction))
    n, batch = config.data.epoch_operations or train, config.data.batch_size * config.training.posterior_samples
    decoding = width + 81 + 4 * 324
    numbers = 12 * architecture.parameters
    numbers += n * (54 + (2 * config.training.posterior_samples + 2) * m.latent_dim)
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
    """Return the number of bytes that one cohort may use.

    On a GPU, this is 80 % of the memory that the process can use. On a CPU, it is half of the machine's memory, divided
    by the number of cores. Raises DeviceError if the GPU is busy.
    """
    if device != "cpu":
        place = resolve_device(device)
        with gpu_errors():
            return int(0.8 * (torch.cuda.mem_get_info(place)[0] + torch.cuda.memory_reserved(place)))
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 // (os.cpu_count() or 1)


def room(config: Config, runs: int, device: str) -> str:
    """Return a message for a cohort of `runs` runs that did not fit into memory.

    The message names the largest cohort that fits. If not even one run fits, the message names other remedies.
    """
    free = free_bytes(device)
    most = min(free // run_bytes(config, device), runs - 1)
    cause = f"{runs} run{'s' if runs > 1 else ''} of {config.name} found no room in {free / 1e9:.1f} GB"
    if most < 1:
        return (
            f"{cause}: close other programmes on the GPU, lower evaluation.latents or data.batch_size, "
            "or use --device cpu"
        )
    return f"{cause}: train at most {most} side by side"
