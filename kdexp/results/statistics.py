"""Paired statistics over seeds and test examples: thin wrappers over scipy and statsmodels.

Differences are paired: both models were trained with the same seed and measured on the same examples. The
seeds are the independent observations. Where seeds do not differ at all, or there is only one, there is no
estimate of chance, and so neither interval nor p-value (None).

scipy and statsmodels take seconds to import and are needed only at the end of a run: each function imports its own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Values = Sequence[float] | np.ndarray

# Below this a difference between seeds is the rounding of float64, not a spread.
_NO_SPREAD = 1e-12


@dataclass(frozen=True)
class Interval:
    """Where a value lies, in its own unit."""

    low: float
    high: float

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def lies_within(self, margin: float) -> bool:
        return -margin < self.low and self.high < margin


@dataclass(frozen=True)
class Gain:
    """Student minus baseline, with the 95 % interval that the choice of test rows leaves open."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean over seeds of the differences between two models.

    Attributes:
        interval: 95 % unless another level was asked for; None where seeds give no estimate of chance.
        p_value: Two-sided, of no difference; None likewise.
    """

    mean: float
    interval: Interval | None
    p_value: float | None
    num_seeds: int


@dataclass(frozen=True)
class ExactMcNemar:
    """On how many examples only one of two models is right, and the exact p-value of no difference."""

    only_first: int
    only_second: int
    p_value: float


def paired_t(differences: Values, level: float = 0.95) -> PairedDifference:
    """Paired t test and interval: mean +- t(n - 1) * s / sqrt(n) (Student 1908).

    Assumes that the differences of different seeds are independent and about normal. It speaks about other
    seeds on the same test examples.

    Args:
        differences: One per seed.
    """
    values = _values(differences)
    mean = float(values.mean())
    if not _has_spread(values):
        return PairedDifference(mean, None, None, len(values))
    from scipy.stats import ttest_1samp

    test = ttest_1samp(values, 0.0)
    interval = test.confidence_interval(level)
    return PairedDifference(mean, Interval(float(interval.low), float(interval.high)), float(test.pvalue), len(values))


def resampled_gain(gain: Callable[[np.ndarray], np.ndarray], num_rows: int) -> Gain:
    """Gain on all test rows, and how it would vary on other test rows; not with other seeds of the training.

    The interval is a paired bootstrap over rows (percentile, 2,000 resamples, the same for the same input).

    Args:
        gain: Of samples of row numbers, [samples, rows], the gain on each sample, [samples].
    """
    from scipy.stats import quantile

    random = np.random.default_rng(0)
    # Few samples at a time where there are many rows: bounds the memory, and draws the same numbers.
    batch = max(1, min(100, 10_000_000 // num_rows))
    sizes = [min(batch, 2000 - start) for start in range(0, 2000, batch)]
    resampled = np.concatenate([gain(random.integers(0, num_rows, (size, num_rows))) for size in sizes])
    tail = (1 - 0.95) / 2  # as scipy.stats.bootstrap computes it, to the last digit
    low, high = quantile(resampled, [tail, 1 - tail])
    return Gain(float(gain(np.arange(num_rows)[None])[0]), float(low), float(high))


def two_level_bootstrap(
    differences: np.ndarray, levels: Sequence[float] = (0.95,), *, num_resamples: int = 2000
) -> list[Interval] | None:
    """Percentile intervals of the mean difference over other seeds and other test examples.

    Seeds and examples are crossed (every seed answers the same examples), so both are resampled with
    replacement and every resampled seed is measured on the same resampled examples: the pigeonhole
    bootstrap of Owen 2007 (Annals of Applied Statistics 1). It is cautious about what is
    peculiar to single answers, whose variance counts up to three times. With a handful of seeds their part
    of the spread is too narrow by about sqrt((n - 1) / n): read it beside `paired_t`, never instead.

    Args:
        differences: [seeds, examples], for correctness values in {-1, 0, 1}.

    Returns:
        One interval per level; the same for the same input. None with fewer than two seeds or examples.
    """
    seeds, examples = differences.shape
    if seeds < 2 or examples < 2:
        return None
    random = np.random.default_rng(0)
    means = []
    for _ in range(0, num_resamples, 100):  # 100 at a time: bounds the memory on large test sets
        seed_weights = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=100) / seeds
        example_weights = random.multinomial(examples, np.full(examples, 1 / examples), size=100) / examples
        means.append(((seed_weights @ differences) * example_weights).sum(axis=1))
    resampled = np.concatenate(means)[:num_resamples]
    return [
        Interval(*(float(bound) for bound in np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])))
        for level in levels
    ]


def equivalence_p_value(differences: Values, margin: float) -> float | None:
    """Two one-sided t tests (Schuirmann 1987): small when the mean is shown to lie within +-margin.

    Args:
        differences: One per seed.

    Returns:
        The larger of the two p-values; None where seeds give no estimate of chance.

    Raises:
        ValueError: The margin is not above 0.
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin}")
    values = _values(differences)
    if not _has_spread(values):
        return None
    from statsmodels.stats.weightstats import DescrStatsW

    return float(DescrStatsW(values).ttost_mean(-margin, margin)[0])


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjusted p-values of a family of tests (Holm 1979); None stays None and is not counted.

    statsmodels' own looks for garbage in every call, which takes longer than all the rest of a report.
    """
    known = [(value, place) for place, value in enumerate(p_values) if value is not None]
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (value, place) in enumerate(sorted(known)):
        largest = max(largest, value * (len(known) - rank))
        adjusted[place] = min(largest, 1.0)
    return adjusted


def exact_mcnemar(first_correct: Values, second_correct: Values) -> ExactMcNemar:
    """Exact test of two trained models on the same examples (McNemar 1947; binomial, two-sided).

    It speaks about other test examples, not about other seeds.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    first, second = np.asarray(first_correct, dtype=bool), np.asarray(second_correct, dtype=bool)
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    table = [[int((first & second).sum()), only_first], [only_second, int((~first & ~second).sum())]]
    return ExactMcNemar(only_first, only_second, float(min(mcnemar(table, exact=True).pvalue, 1.0)))


def _values(differences: Values) -> np.ndarray:
    return np.asarray(differences, dtype=np.float64)


def _has_spread(values: np.ndarray) -> bool:
    return len(values) >= 2 and float(np.ptp(values)) > _NO_SPREAD
