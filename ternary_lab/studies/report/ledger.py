"""The ledger: the 295 claims of the training report and their 44 contradictions.

The module also contains the arithmetic that checks the contradictions.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeGuard

from ternary_lab.settings import read_yaml
from ternary_lab.space import SIZE

LEDGER = Path(__file__).parent / "ledger.yaml"

Value = float | str | list[Any] | bool | None


@dataclass(frozen=True)
class Claim:
    """One paraphrased statement of the report."""

    id: str
    section: str
    statement: str
    kind: str
    quantity: str
    pathway: Literal["A", "B", "both", "system"]
    epoch: int | list[int] | None
    value: Value
    unit: str | None
    note: str | None
    decimals: int | None
    """Number of printed digits after the decimal point."""
    untestable: str = ""
    """Reason why the claim cannot be tested here. It is empty if the claim can be tested."""

    @property
    def number(self) -> float | None:
        """The claimed value if this value is one number, otherwise None."""
        if isinstance(self.value, bool) or not isinstance(self.value, int | float):
            return None
        return float(self.value)

    @property
    def half_digit(self) -> float:
        """Half of the last printed digit.

        If the note contains "Approximate", it is half of the last significant digit.
        """
        if self.number is None:
            return 0.0
        digits = self.decimals if self.decimals is not None else _decimals(self.number)
        if self.note and "Approximate" in self.note:
            digits = min(digits, _decimals(self.number))
        return 0.5 * math.pow(10, -digits)

    @property
    def span(self) -> tuple[int, int]:
        """First and last epoch. If the claim names no epoch, the span is the whole run."""
        if isinstance(self.epoch, list):
            return self.epoch[0], self.epoch[1]
        return (0, 103) if self.epoch is None else (self.epoch, self.epoch)

    @property
    def claimed(self) -> str:
        """The claimed value as text."""
        if _is_range(self.value):
            low, high = self.value
            return f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
        if self.number is not None and self.decimals is not None and not (self.note and "Approximate" in self.note):
            return f"{self.number:.{self.decimals}f}"
        return f"{self.value:g}" if self.number is not None else str(self.value)


@dataclass(frozen=True)
class Contradiction:
    """Claims that cannot all be true.

    A hard contradiction follows from the printed text alone.
    """

    id: str
    kind: str
    strength: Literal["hard", "soft"]
    ids: tuple[str, ...]
    explanation: str
    arithmetic: str


@dataclass(frozen=True)
class Ledger:
    """Claims and contradictions by id."""

    claims: Mapping[str, Claim]
    contradictions: Mapping[str, Contradiction]
    recommendations: Mapping[str, str]
    """The audience of each claim that gives advice, by the id of the claim."""
    lines: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Lines of the report that contain each claim, counted from 1, by the id of the claim."""
    repeats: Mapping[str, str] = field(default_factory=dict)
    """The first claim that states the same figure, by the id of each claim that states it again."""

    def holds(self, contradiction: str) -> bool:
        """Return whether arithmetic on the printed values confirms a contradiction."""
        return bool(CHECKS[contradiction](self))

    def v(self, claim: str) -> float:
        """Return the printed number of a claim. Raises ValueError if the claim has no number."""
        number = self.claims[claim].number
        if number is None:
            raise ValueError(f"{claim} prints no number")
        return number

    def text(self, claim: str) -> str:
        return str(self.claims[claim].value)

    def ends(self, claim: str) -> tuple[float, float]:
        value = self.claims[claim].value
        if not isinstance(value, list):
            raise ValueError(f"{claim} prints no range")
        return float(value[0]), float(value[1])

    def hard(self, claim: str) -> list[Contradiction]:
        """Return the hard contradictions of a claim, but only those that arithmetic confirms."""
        return [
            c for c in self.contradictions.values() if c.strength == "hard" and claim in c.ids and self.holds(c.id)
        ]


@functools.cache
def ledger() -> Ledger:
    """Return the ledger that ships with the library."""
    data = read_yaml(LEDGER.read_text(encoding="utf-8"))
    quantities = data["quantities"]
    fields = ("id", "section", "statement", "kind", "quantity", "pathway", "epoch", "value", "unit", "note")
    claims = {
        row["id"]: Claim(
            **{name: row[name] for name in fields}, decimals=quantities[row["quantity"]]["decimals"],
            untestable=row.get("untestable", ""),
        )
        for row in data["claims"]
    }
    contradictions = {
        row["id"]: Contradiction(
            row["id"], row["class"], row["strength"], tuple(row["ids"]), row["explanation"], row["arithmetic"]
        )
        for row in data["self_contradictions"]
    }
    return Ledger(
        claims, contradictions, {row["id"]: row["audience"] for row in data["recommendations"]},
        {name: tuple(lines) for name, lines in data["line_index"].items()},
        {again: first for first, others in data["same_figure"].items() for again in others},
    )


def _is_range(value: Value) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)


def _decimals(number: float) -> int:
    text = repr(number)
    if "e" in text:
        mantissa, exponent = text.split("e")
        return max(0, _decimals(float(mantissa)) - int(exponent))
    return len(text.split(".")[1].rstrip("0")) if "." in text else 0


def _mean(led: Ledger, epoch: int) -> float:
    """Return the mean of the printed coverages of A and B at one epoch."""
    return (led.v(f"coverage-a-epoch-{epoch}") + led.v(f"coverage-b-epoch-{epoch}")) / 2


def _change(led: Ledger, new: str, old: str) -> float:
    """Return the relative change between two printed numbers, in percent."""
    return 100 * (led.v(new) / led.v(old) - 1)


def _share(led: Ledger, operations: str) -> float:
    return led.v(operations) / float(SIZE) * 100


CHECKS: Mapping[str, Callable[[Ledger], bool]] = {
    "peak-a-three-values": lambda c: (
        round(_share(c, "unique-ops-a-epoch-69"), 2) != c.v("coverage-a-epoch-69-headline")
        and c.v("coverage-headline") != c.v("conclusion-coverage")
    ),
    "peak-exceeded-by-table": lambda c: (
        max(c.v("coverage-a-epoch-0"), c.v("coverage-a-epoch-70")) > c.v("coverage-a-epoch-69-headline")
        and c.v("coverage-b-epoch-100") > c.v("coverage-b-epoch-69-headline")
    ),
    "spike-percentage": lambda c: (
        round(_change(c, "train-loss-epoch-50", "train-loss-epoch-49")) != c.v("loss-spike-pct")
    ),
    "recovery-percentage": lambda c: (
        round(_change(c, "train-loss-epoch-51", "train-loss-epoch-50")) != c.v("loss-recovery-pct")
    ),
    "surge-not-both": lambda c: c.v("coverage-jump-b-epoch-50") < c.ends("coverage-surge-both-20-30")[0],
    "over-98-from-60": lambda c: c.v("coverage-b-epoch-60") < c.ends("coverage-over-98-from-60")[0],
    "entropy-floor": lambda c: any(
        c.v(f"entropy-{p}-epoch-{e}") < c.ends("entropy-above-2-8-throughout")[0]
        for p, e in (("a", 0), ("b", 0), ("a", 50), ("b", 40), ("b", 50))
    ),
    "entropy-100-equals-103": lambda c: all(
        c.v(f"entropy-{p}-epoch-100") == c.v(f"entropy-{p}-epoch-103") for p in "ab"
    ),
    "entropy-maximum-unit": lambda c: (
        math.log(c.v("latent-dim"))
        < min(c.v(f"entropy-{name}") for name in ("a-epoch-40", "a-epoch-100", "b-epoch-100"))
        and c.v("entropy-max-log2-16") == math.log2(c.v("latent-dim"))
    ),
    "val-loss-stable": lambda c: (
        min(c.v("val-loss-epoch-40"), c.ends("val-loss-late-range")[0]) > 2 * c.v("best-val-loss")
    ),
    "latest-checkpoint-val-loss": lambda c: c.v("checkpoint-latest-val-loss") < c.ends("val-loss-late-range")[0],
    "gradual-rise-vs-jump": lambda c: c.v("train-loss-epoch-50") / c.v("train-loss-epoch-49") > 2,
    "recovery-never-complete": lambda c: (
        min(c.v("train-loss-epoch-60"), c.v("train-loss-epoch-100")) > c.v("train-loss-epoch-49")
    ),
    "train-above-val-late": lambda c: c.v("train-loss-epoch-60") > c.ends("val-loss-late-range")[1],
    "beta-a-zero": lambda c: c.v("beta-a-start") != c.v("beta-a-zero-at-epoch-0"),
    "early-coverage-beta-sign": lambda c: (
        c.v("beta-b-start") < c.v("beta-a-start") and c.v("coverage-b-epoch-0") < c.v("coverage-a-epoch-0")
    ),
    "beta-coverage-sign": lambda c: c.v("higher-beta-coverage-plus-4") > 0 > c.v("coverage-a-falls-with-beta"),
    "plus-42-is-a-only": lambda c: (
        round(c.v("entropy-change-a")) >= c.v("higher-beta-utilisation-plus-42") > c.v("entropy-change-b")
    ),
    "sudden-vs-gradual-beta-b": lambda c: (
        (1 - 1 / c.v("beta-b-warmup-epochs")) * c.v("beta-b-end") * c.v("kl-b-epoch-50") > c.v("train-loss-epoch-49")
    ),
    "epoch-50-confounded": lambda c: (
        c.claims["lr-epoch-50"].epoch == c.claims["beta-b-end"].epoch == c.claims["beta-a-end"].epoch
        and c.v("coverage-jump-a-epoch-50") > c.v("coverage-jump-b-epoch-50")
    ),
    "kl-exceeds-loss": lambda c: (
        c.v("beta-a-start") * c.v("kl-a-epoch-0") > c.v("train-loss-epoch-0")
        and c.v("beta-b-end") * c.v("kl-b-epoch-50") > c.v("train-loss-epoch-50")
    ),
    "free-bits-floor": lambda c: (
        c.v("beta-a-start") * c.v("free-bits") * c.v("latent-dim")
        > max(c.v("best-val-loss"), c.v("train-loss-epoch-10"))
    ),
    "kl-target-reading": lambda c: (
        max(c.v("kl-a-epoch-100"), c.v("kl-b-epoch-100")) / c.v("latent-dim") < c.ends("kl-target-range")[1]
        < min(c.v("kl-a-epoch-100"), c.v("kl-b-epoch-100"))
    ),
    "collapse-evidence": lambda c: c.v("kl-a-epoch-50") / c.v("latent-dim") < 1.1 * c.v("free-bits"),
    "entropy-vs-coverage": lambda c: (
        c.v("entropy-a-epoch-40") > c.v("entropy-a-epoch-0") and c.v("coverage-a-epoch-40") < c.v("coverage-a-epoch-0")
    ),
    "frozen-but-training": lambda c: (
        c.text("role-b-frozen").startswith("frozen") and c.v("kl-b-epoch-0") != c.v("kl-b-epoch-100")
    ),
    "combined-is-mean": lambda c: all(
        abs(c.v(f"coverage-combined-epoch-{e}") - _mean(c, e)) <= 0.051 for e in (0, 10, 40, 50, 60, 70, 100)
    ),
    "smooth-transition": lambda c: c.v("coverage-a-epoch-49") < c.v("coverage-a-epoch-40") - 10,
    "statenet-scales": lambda c: c.ends("delta-lambda1-range")[0] > c.v("statenet-lambda-scale") / 100,
    "statenet-activity": lambda c: c.ends("delta-lr-typical")[1] < 0.02 * c.v("statenet-lr-scale"),
    "gradient-ratio": lambda c: abs(c.ends("gradient-balance-late")[0] - c.v("gradient-balance-near-1")) > 0.1,
    "epoch-count": lambda c: c.v("checkpoint-latest-epoch") - 0 + 1 != c.v("epochs-completed"),
    "stop-reason": lambda c: c.text("early-stopping-met") != c.text("timeline-end-103"),
    "compute-saving": lambda c: (
        round(100 * (1 - c.v("rec-future-stop-120") / c.v("epochs-planned"))) != c.v("rec-future-saving-67")
    ),
    "hash-already-or-later": lambda c: (
        "hash" in c.text("v5-5-uses-hash") and c.text("rec-future-hash-in-loop") == "v5.6"
        and c.v("history-current-run") - c.v("history-hash-coverage") > 1
    ),
    "hash-vs-unique": lambda c: c.v("history-sampling-coverage") - c.v("history-hash-coverage") > 1,
    "variance-claim": lambda c: (
        SIZE * abs(c.v("v5-4-v5-5-difference")) / 100
        > 2 * math.sqrt(2 * SIZE - c.v("unique-ops-b-epoch-69") - SIZE * c.v("v5-4-peak") / 100)
    ),
    "v5-4-comparison-basis": lambda c: (
        c.v("v5-5-peak") < max(c.v("coverage-a-epoch-0"), c.v("coverage-b-epoch-100"))
        and max(c.v("coverage-a-epoch-40"), c.v("coverage-b-epoch-40")) < c.v("v5-4-peak")
    ),
    "generalisation-untested": lambda c: not any(
        claim.number is not None for claim in c.claims.values() if claim.quantity == "heldout_recon_accuracy_pct"
    ),
    "warmup-advice": lambda c: (
        c.text("rec-keep-warmup-schedule") == "unchanged"
        and c.v("rec-shift-beta-b-warmup") != c.v("beta-b-warmup-epochs")
    ),
    "checkpoint-60-70-advice": lambda c: _mean(c, 100) > max(_mean(c, 60), _mean(c, 70)),
    "denser-monitoring-advice": lambda c: c.v("monitoring-interval-v5-5") == 1,
    "unreached-schedule": lambda c: (
        c.v("phase-transition-completed") == 1 and c.v("epochs-completed") < c.claims["lr-epoch-120"].span[0]
        and c.v("rho-epoch-103") < c.ends("rho-range")[1]
    ),
    "checkpoint-contents": lambda c: (
        abs(c.v("param-count-total") * 4 * 3 / c.v("checkpoint-size") - 1) < 0.05
        and c.text("logs-in-checkpoints") not in c.text("checkpoint-contains-optimizer")
    ),
}
"""A condition on the printed values for every contradiction. The conditions test only the report, not the model."""
