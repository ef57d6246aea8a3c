"""Recorded values of a trained epoch: history columns, validation loss, and messages on divergence."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

from ternary_lab import losses, space
from ternary_lab.metrics.latent_entropy import batch_entropy, soft_entropy
from ternary_lab.model import DualVAE, inject
from ternary_lab.training.step import Figures, Stepper, StepSettings


def epoch_columns(step: Stepper, found: Figures, settings: StepSettings) -> dict[str, Tensor]:
    """Return a dictionary from history column to the values (S, R) in S steps of R runs."""
    log = found.log
    entropy = torch.cat([batch_entropy(part) for part in torch.split(found.z, 64)]).unbind(1)
    compared = (log["aligned_A"], log["aligned_B"]) if step.aligns else entropy
    factors = {p: log[name] * log[f"scale_{p}"] for p, name in (("A", "lambda1"), ("B", "lambda2"))}
    loss = {
        f"loss_{column}": factors[column[-1]] * value
        for column, value in losses.weighted(step.terms, log, settings.terms).items()
    }
    loss["loss_alignment"] = log["lambda3"] * (compared[0] - compared[1]).abs()
    loss |= {f"loss_information_{p}": factor * log[f"information_{p}"] for p, factor in factors.items()}
    terms = {column: log[column] for term in step.terms for column in term.columns}
    return {
        **terms, **loss, "train_loss": torch.stack(list(loss.values())).sum(0), "H_A": entropy[0], "H_B": entropy[1],
        **{name: log[name] for name in ("lambda1", "lambda2", "lambda3")},
        "grad_norm_A": log["norm_A"], "grad_norm_B": log["norm_B"],
    }


def validation_losses(step: Stepper, model: DualVAE, x: Tensor, s: StepSettings) -> list[float]:
    """Return the loss of operations x (V, 9) for every run, as the mean over batches.

    The latents are the posterior means, z = μ, and the factors of the gradient balance are 1.
    """
    rows, batch = len(x), step.config.data.batch_size
    if x.device.type == "cpu":  # One batch at a time fits into a core's cache.
        spans = [(start, min(start + batch, rows), 1) for start in range(0, rows, batch)]
    else:  # All full batches are computed at once, as if each batch belonged to a run of its own.
        full = rows // batch * batch
        spans = [(0, full, rows // batch)] * (full > 0) + [(full, rows, 1)] * (full < rows)
    found = [_batch_losses(step, model, x[a:b], s, batches) for a, b, batches in spans]
    means: list[float] = torch.cat(found).mean(0).tolist()
    return means


def _batch_losses(step: Stepper, model: DualVAE, x: Tensor, s: StepSettings, batches: int) -> Tensor:
    """Return the loss (batches, R) of every batch and run. x (B · batches, 9) holds batches of B operations."""
    x = x.expand(step.runs, -1, -1)
    mu, log_variance = model.encode(x)
    logits, target, numbers, lambdas = model.decode(inject(mu, s.rho)), space.one_hot(x), s.terms, s.lambdas
    if batches > 1:
        each, latent = (step.runs * batches, len(x[0]) // batches), mu.shape[-1]
        mu, log_variance = (v.reshape(2, *each, latent) for v in (mu, log_variance))
        logits, target = logits.reshape(2, *each, *logits.shape[3:]), target.reshape(*each, *target.shape[2:])
        numbers, lambdas = losses.repeated(numbers, batches), lambdas.repeat_interleave(batches, -1)
    batch = losses.Batch(mu, log_variance, mu, s.free_bits_per, target, logits)
    found = losses.compute_terms(step.terms, batch, numbers, losses.Gradients())
    values = losses.weighted(step.terms, losses.by_column(step.terms, found), numbers)
    pathway = {p: reduce(operator.add, (v for column, v in values.items() if column[-1] == p)) for p in "AB"}
    entropy = soft_entropy(mu)[0] if step.aligns else batch_entropy(mu)
    value = lambdas[0] * pathway["A"] + lambdas[1] * pathway["B"] + lambdas[2] * (entropy[0] - entropy[1]).abs()
    return value.view(step.runs, batches).t()


def divergences(
    terms: Sequence[losses.Term], means: Mapping[str, Sequence[float]], per_step: Mapping[str, Tensor],
    val_loss: Sequence[float], epoch: int,
) -> dict[int, str]:
    """Return a dictionary from the index of each run that diverged in this epoch to a message.

    The message names the first value that was not finite, and a remedy.

    Args:
        terms: the loss terms.
        means: for each column, one value per run, which is the mean over the epoch.
        per_step: for each column, the values (S, R) that `epoch_columns` returns.
        val_loss: validation loss of each run after the epoch.
        epoch: number of the epoch, for the message.
    """
    # The columns are in the order in which a step computes them.
    words = {
        **{column: term.words for term in terms for column in term.columns},
        "H_A": "the latent entropy", "H_B": "the latent entropy",
        "loss_information_A": "the information", "loss_information_B": "the information",
        "train_loss": "the training loss", "grad_norm_A": "the gradient", "grad_norm_B": "the gradient",
    }
    found = {}
    for run, loss in enumerate(val_loss):
        if not all(math.isfinite(means[column][run]) for column in words):
            # Find the first step in which a value was not finite, and the first such value of this step.
            bad = ~torch.stack([per_step[column][:, run] for column in words]).isfinite()
            step = int(bad.any(0).nonzero()[0])
            column = list(words)[int(bad[:, step].nonzero()[0])]
            pathway = f" of pathway {column[-1]}" if column[-2:] in ("_A", "_B") else ""
            value, place = f"{words[column]}{pathway}", f"epoch {epoch}, step {step + 1}"
        elif not math.isfinite(loss):
            value, place = "the validation loss", f"epoch {epoch}"
        else:
            continue
        found[run] = f"diverged: {value} was not finite in {place}: lower optimiser.lr_steps or optimiser.grad_clip"
    return found
