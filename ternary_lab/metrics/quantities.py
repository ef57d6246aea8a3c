"""A table of the measured quantities with their labels, units, directions and history columns.

The labels in histories, evaluations, tables of studies, figures and the command line come from this table. A quantity
that is measured for each pathway has two columns in a history, `<column>_A` and `<column>_B`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["more", "less"]


@dataclass(frozen=True)
class Quantity:
    """One measured quantity."""

    name: str
    words: str
    unit: str = ""
    better: Better | None = None
    """The better direction: "more" for larger values, "less" for smaller values, and None if neither is better."""
    paired: bool = True
    """True if each pathway has its own value."""

    @property
    def label(self) -> str:
        """Words and unit, for the label of an axis."""
        return f"{self.words}, {self.unit}" if self.unit else self.words

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the history columns that contain this quantity."""
        return (f"{self.name}_A", f"{self.name}_B") if self.paired else (self.name,)


QUANTITIES: dict[str, Quantity] = {quantity.name: quantity for quantity in (
    Quantity("train_loss", "training loss", "nats", "less", paired=False),
    Quantity("val_loss", "validation loss", "nats", "less", paired=False),
    Quantity("val_elbo", "validation ELBO", "nats", "more", paired=False),
    Quantity("ce", "cross-entropy", "nats", "less"),
    Quantity("kl", "KL with free bits", "nats"),
    Quantity("H", "latent entropy H", "nats"),
    Quantity("coverage", "sampled coverage", "%", "more"),
    Quantity("informative_coverage", "informative coverage", "%", "more"),
    Quantity("effective_coverage", "effective coverage", "%", "more"),
    Quantity("neg_elbo", "-ELBO", "nats", "less"),
    Quantity("neg_iwae", "-IWAE", "nats", "less"),
    Quantity("reconstruction", "reconstruction", "%", "more"),
    Quantity("missing_mass", "KL(U‖p)", "nats", "less"),
    Quantity("n99", "n₉₉", "draws", "less"),
    Quantity("active_units", "active units", ""),
    Quantity("spike", "largest rise of the loss", "nats", "less", paired=False),
    Quantity("wobble", "wobble of -ELBO", "nats", "less"),
    Quantity("reconstruction_test", "reconstruction, test", "%", "more"),
    Quantity("expected_coverage", "expected coverage", "%", "more"),
    Quantity("output_entropy", "output entropy H(X)", "nats", "more"),
    Quantity("decoder_noise", "decoder noise H(X|Z)", "nats"),
    Quantity("information", "information I(X;Z)", "nats", "more"),
    Quantity("informative_coverage_raw", "informative coverage, uncorrected", "%", "more"),
    Quantity("rarest", "rarest operation", "N min p", "more"),
    Quantity("neg_log_p", "-ln p(x)", "nats", "less"),
    Quantity("effective_share", "effective share exp(H(X))/N", "%", "more"),
    Quantity("entropy_deficit", "KL(p‖U)", "nats", "less"),
    Quantity("total_variation", "total variation TV(p, U)", "", "less"),
    Quantity("jensen_shannon", "JSD(p, U)", "nats", "less"),
    Quantity("unseen_mass", "unseen mass", "%", "less"),
)}
"""All quantities by name."""


def label(name: str, split: str = "") -> str:
    """Return the words and unit of a quantity, with the split of the measurement, such as "-ELBO, test, nats"."""
    quantity = QUANTITIES[name]
    return ", ".join(part for part in (quantity.words, split, quantity.unit) if part)
