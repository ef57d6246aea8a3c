"""Estimates from draws of a generator, when nothing but the draws is known.

n draws are independent operations with the unknown distribution p. Operation x occurs c_x times among them. f₁ and f₂
are the numbers of operations that occur once and twice. All N operations are known, so f₀, the number of operations
that do not occur, is known as well.

    C(m), m ≤ n     expected coverage of m draws: mean over x of 1 - binom(n - c_x, m)/binom(n, m), which has no bias
                    (rarefaction, Hurlbert 1971)
    n₉₉             the least m at which this C(m) is 99 %; unknown if even n draws do not reach 99 %
    unseen mass     f₁/n, probability that the next draw is an operation that has not occurred (Good 1953)
    H(X)            Σ (c_x/n)(ψ(n) - ψ(c_x)) (Zhang 2012), plus an estimate of the rest R, which is defined below (Chao,
                    Wang and Jost 2013). ψ is the digamma function
    KL(U‖p)         a lower bound only: mean over x of ψ(n + 1) - ψ(c_x + 1), minus ln N
    TV, JSD         bounds only, from a set of operations that are drawn more often than others, and from KL(p‖U)

Why only bounds: an operation that does not occur may have any small probability, even 0. Then KL(U‖p) may have any
value from the bound to infinity. The same holds for the rarest operation. The counts of draws scatter around n p(x), so
the TV and the JSD of the counts are too large; without p, nobody knows by how much.

Every interval is made for a level of 95 %; most reach a higher level. The parts of the intervals:

    error of draws  1.96 standard deviations. The variance is that of the jackknife, which is not too small in
                    expectation (Efron and Stein 1981)
    C(m), n₉₉       the number of operations that occur also has a variance of at most N C(m)(1 - C(m)), because the
                    events that operations occur are negatively associated (Dubhashi and Ranjan 1998). The smaller of
                    the two variances counts. The standard deviation of the number is set to at least 1
    unseen mass     the variance of Esty (1983). If f₁ and f₂ are 0, the upper end is that of a Poisson count of 0
    H(X)            Zhang's estimate lacks R = Σ_{k≥n} M_k/k, where M_k = Σ p(1 - p)^k is the expected unseen mass after
                    k draws. M_k falls with k, and no distribution over N operations has M_k > N/(ek). So R is at most
                    M_n (1 + ln(N/(e n M_n))), or N/(e n) if this logarithm is negative. The interval reaches
                    up by this bound, with the upper end of the unseen mass for M_n. It is therefore wide for few draws
    KL(U‖p)         ψ(n + 1) - ψ(c + 1) estimates the first n terms of the series -ln p = Σ_{k≥1} (1 - p)^k/k without
                    bias. No term is negative, so the sum is a lower bound
    TV, JSD         no set A of operations has |p(A) - |A|/N| > TV. One half of the draws chooses A: the operations that
                    are drawn more often than the mean. The other half gives a lower bound of p(A) (Clopper and Pearson
                    1934). Above, TV ≤ √(KL(p‖U)/2) (Pinsker 1964). Then TV²/2 ≤ JSD ≤ TV ln 2 (Pinsker; Lin 1991)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import betaincinv, digamma, exp1, gammaln

from ternary_lab.space import SIZE

QUANTILE = 1.959964
"""97.5 % quantile of the standard normal distribution."""
ZERO_COUNT = 3.688879
"""Upper end of the 95 % interval of a Poisson mean whose count is 0 (Garwood 1936)."""
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Estimate:
    """A value with a 95 % interval.

    `value` is None if only bounds are known. An end that is not known is infinite. Both ends of the interval of an
    exact value are the value itself.
    """

    value: float | None
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Estimate:
        return cls(value, value, value)


class Draws:
    """Estimates from the counts (N,) of the operations among n draws. Coverages are in percent, entropies in nats."""

    def __init__(self, counts: Array) -> None:
        self.counts = counts
        self.n = int(counts.sum())
        self.unique = int((counts > 0).sum())
        self._c, self._f = np.unique(counts, return_counts=True)
        """The different counts, and the number of operations that have each count."""

    def coverage(self, m: int) -> Estimate:
        """Return the expected coverage of m draws, 1 ≤ m ≤ n, in percent."""
        value = self._sum(self._found(self.n, m))
        before = self._found(self.n - 1, min(m, self.n - 1))
        jackknife = self._variance(lambda c: before(c - 1) - before(c))
        error = QUANTILE * max(1.0, math.sqrt(min(jackknife, value * (1 - value / SIZE))))
        low, high = max(1.0, value - error), min(float(SIZE), value + error)
        return Estimate(*(100 * share / SIZE for share in (value, low, high)))

    def draws_needed(self, percent: float = 99.0) -> Estimate:
        """Return the number of draws at which the expected coverage reaches `percent`."""
        value = self._first(lambda its: its.value, percent)
        low, high = self._first(lambda its: its.high, percent), self._first(lambda its: its.low, percent)
        return Estimate(value, self.n if low is None else low, math.inf if high is None else high)

    @cached_property
    def unseen_mass(self) -> Estimate:
        """The probability that the next draw is an operation that has not occurred, in percent."""
        if self.unique == SIZE:
            return Estimate.exact(0.0)
        once, twice = self._number(1), self._number(2)
        value = once / self.n
        error = QUANTILE * math.sqrt(once * (1 - value) + 2 * twice) / self.n
        high = min(1.0, max(value + error, ZERO_COUNT / self.n))
        return Estimate(100 * value, 100 * max(0.0, value - error), 100 * high)

    @cached_property
    def entropy(self) -> Estimate:
        """The output entropy H(X) in nats."""
        def term(n: int) -> Callable[[Array], Array]:
            return lambda c: np.where(c > 0, c / n * (digamma(n) - digamma(np.maximum(c, 1))), 0.0)

        before = term(self.n - 1)
        shown = self._sum(term(self.n))
        error = QUANTILE * math.sqrt(self._variance(lambda c: before(c - 1) - before(c)))
        most = self._most_not_shown()
        once, twice = self._number(1), max(1, self._number(2))
        x = 2 * twice / once if once else math.inf
        # The scaled exponential integral; above 50 it equals 1/x within 2 %, and exp(x) would grow beyond all floats.
        not_shown = once / self.n * (math.exp(x) * float(exp1(x)) if x < 50 else 1 / x)
        top = math.log(SIZE)
        return Estimate(
            min(top, shown + min(not_shown, most)), max(0.0, min(top, shown - error)), min(top, shown + most + error)
        )

    @cached_property
    def missing_mass(self) -> Estimate:
        """A lower bound of KL(uniform ‖ p) in nats."""
        n = self.n
        bound = self._sum(lambda c: digamma(n + 1) - digamma(c + 1)) / SIZE - math.log(SIZE)
        # Without one draw of an operation with count c, the mean is larger by 1/(c N), and smaller for all draws alike.
        error = QUANTILE * math.sqrt(self._variance(lambda c: 1 / (SIZE * np.maximum(c, 1))))
        return Estimate(None, max(0.0, bound - error), math.inf)

    @cached_property
    def total_variation(self) -> Estimate:
        """Bounds of the total variation between p and the uniform distribution."""
        choosing = np.random.default_rng(0).binomial(self.counts, 0.5)
        measured = self.counts - choosing
        chosen = choosing > choosing.sum() / SIZE
        hits, n = int(measured[chosen].sum()), int(measured.sum())
        least = float(betaincinv(hits, n - hits + 1, 0.025)) if hits else 0.0
        most = math.sqrt((math.log(SIZE) - self.entropy.low) / 2)
        return Estimate(None, max(0.0, least - float(chosen.mean())), min(1 - 1 / SIZE, most))

    @property
    def jensen_shannon(self) -> Estimate:
        """Bounds of the Jensen-Shannon divergence between p and the uniform distribution, in nats."""
        distance = self.total_variation
        return Estimate(None, distance.low**2 / 2, distance.high * math.log(2))

    def _most_not_shown(self) -> float:
        """Return an upper bound of R, in nats (see the top of the module)."""
        unseen = self.unseen_mass.high / 100
        if unseen == 0:
            return 0.0
        ratio = SIZE / (math.e * self.n * unseen)
        return unseen * (1 + math.log(ratio) if ratio > 1 else ratio)

    def _number(self, count: int) -> int:
        """Return the number of operations that occur `count` times."""
        return int(self._f[self._c == count].sum())

    def _sum(self, term: Callable[[Array], Array]) -> float:
        """Return the sum over operations of a function of their counts."""
        return float((self._f * term(self._c)).sum())

    def _variance(self, change: Callable[[Array], Array]) -> float:
        """Return the jackknife variance of a sum over operations.

        `change` returns by how much the sum changes if one draw of an operation with count c is left out. A term that
        is the same for all draws may be missing.
        """
        drawn = self._c > 0
        c = self._c[drawn]
        weights, changes = c * self._f[drawn], change(c)
        mean = float((weights * changes).sum()) / self.n
        return (self.n - 1) / self.n * float((weights * (changes - mean) ** 2).sum())

    @staticmethod
    def _found(n: int, m: int) -> Callable[[Array], Array]:
        """Return the function 1 - binom(n - c, m)/binom(n, m) of counts c.

        It is the probability that an operation with c of n draws is among m of these draws, chosen at random.
        """
        def found(c: Array) -> Array:
            others = np.maximum(n - c, m)
            log_missed = gammaln(others + 1) - gammaln(others - m + 1) - gammaln(n + 1) + gammaln(n - m + 1)
            return np.where(n - c < m, 1.0, -np.expm1(log_missed))

        return found

    def _first(self, part: Callable[[Estimate], float | None], percent: float) -> int | None:
        """Return the least number of draws in 1..n for which a part of the expected coverage is at least `percent`.

        `part` returns the value or an end of the interval. The result is None if n draws do not reach `percent`.
        """
        def reached(m: int) -> bool:
            found = part(self.coverage(m))
            return found is not None and found >= percent

        if not reached(self.n):
            return None
        low, high = 0, self.n
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return high
