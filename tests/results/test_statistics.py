"""Statistics against numbers that others published, closed forms, and simulated coverage."""

import math

import numpy as np
import pytest
from scipy import stats

from kdexp.results.statistics import (
    Interval,
    equivalence_p_value,
    exact_mcnemar,
    holm,
    paired_t,
    resampled_gain,
    two_level_bootstrap,
)

# R's data set `sleep`: extra hours of sleep of ten patients under two drugs (Student 1908).
FIRST = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_paired_t_gives_what_r_gives_for_sleep():
    # t.test(extra ~ group, paired = TRUE): p = 0.002833, interval -2.4598858 to -0.7001142, mean -1.58
    result = paired_t([a - b for a, b in zip(FIRST, SECOND, strict=True)])
    assert result.mean == pytest.approx(-1.58, abs=1e-12)
    assert result.p_value == pytest.approx(0.002833, abs=5e-7)
    assert (result.interval.low, result.interval.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert result.num_seeds == 10


def test_no_estimate_of_chance_no_interval():
    for differences in ([0.1], [0.1, 0.1], [0.3, 0.1 + 0.2]):
        result = paired_t(differences)
        assert (result.interval, result.p_value) == (None, None)
        assert result.mean == pytest.approx(differences[0])
        assert equivalence_p_value(differences, 1.0) is None
    assert two_level_bootstrap(np.zeros((1, 50))) is None


def test_equivalence_against_the_closed_form_of_t_with_two_degrees():
    # mean 1, s = 1, n = 3: t = (1 - 5) * sqrt(3); with 2 degrees P(T < t) = 1/2 + t / (2 sqrt(2 + t^2))
    t = (1 - 5) * math.sqrt(3)
    expected = 0.5 + t / (2 * math.sqrt(2 + t * t))
    assert equivalence_p_value([0, 1, 2], margin=5) == pytest.approx(expected, rel=1e-9)
    # A mean at the margin is rejected in one of two cases.
    assert equivalence_p_value([4, 5, 6], margin=5) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="margin must be above 0"):
        equivalence_p_value([0, 1, 2], margin=0)


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.04 * 1, each at least the one before.
    assert holm([0.04, 0.01, None, 0.03, 0.02]) == pytest.approx([0.06, 0.04, None, 0.06, 0.06])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([None]) == [None]


def test_mcnemar_by_hand():
    # Only the first is right once, only the second eight times: 2 (C(9,0) + C(9,1)) / 2^9
    first = [True] * 1 + [False] * 8 + [True] * 20 + [False] * 5
    second = [False] * 1 + [True] * 8 + [True] * 20 + [False] * 5
    result = exact_mcnemar(first, second)
    assert (result.only_first, result.only_second) == (1, 8)
    assert result.p_value == pytest.approx(20 / 512)
    assert exact_mcnemar([True, False], [True, False]).p_value == 1


def test_paired_t_covers_95_percent():
    random = np.random.default_rng(1)
    intervals = [paired_t(random.normal(0.3, 1.0, size=5)).interval for _ in range(2000)]
    coverage = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.937 < coverage < 0.963  # 0.95 +- 2.7 standard errors


def test_equivalence_errs_at_most_in_5_percent():
    random = np.random.default_rng(2)
    wrong = np.mean([equivalence_p_value(random.normal(1.0, 1.0, size=5), margin=1.0) < 0.05 for _ in range(2000)])
    assert wrong < 0.06


def test_the_bootstrap_covers_what_seeds_and_examples_leave_open():
    random = np.random.default_rng(3)
    covered = {"both": 0, "examples only": 0}
    trials = 200
    for _ in range(trials):
        # A true mean of 0.5, a spread of seeds and one of examples of the same size, and noise.
        seeds = random.normal(0, 0.1, size=(15, 1))
        examples = random.normal(0, 1.0, size=(1, 100))
        differences = 0.5 + seeds + examples + random.normal(0, 1.0, size=(15, 100))
        (interval,) = two_level_bootstrap(differences, num_resamples=500)
        covered["both"] += interval.low <= 0.5 <= interval.high
        seeds_alone = paired_t(differences.mean(axis=1)).interval
        covered["examples only"] += seeds_alone.low <= 0.5 <= seeds_alone.high
    assert covered["both"] >= 0.90 * trials
    # An interval over seeds alone does not know that the examples are a sample.
    assert covered["examples only"] < 0.6 * trials


@pytest.mark.parametrize("num_rows", [1, 200])
def test_the_gain_over_resampled_rows_is_that_of_scipy(num_rows):
    difference = np.random.default_rng(6).integers(-1, 2, size=num_rows).astype(float)
    gain = resampled_gain(lambda rows: difference[rows].mean(axis=-1), num_rows)
    assert gain.value == difference.mean()
    if num_rows == 1:
        assert gain.low == gain.high == gain.value
        return
    expected = stats.bootstrap(
        (difference,), np.mean, n_resamples=2000, batch=100, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert (gain.low, gain.high) == (expected.low, expected.high)


def test_the_bootstrap_is_repeatable_and_nested():
    differences = np.random.default_rng(4).integers(-1, 2, size=(5, 300)).astype(float)
    first, second = (two_level_bootstrap(differences, (0.9, 0.95)) for _ in range(2))
    assert first == second
    narrow, wide = first
    assert wide.low <= narrow.low < differences.mean() < narrow.high <= wide.high


def test_the_bootstrap_of_examples_agrees_with_the_normal_interval():
    # Seeds that agree leave the examples' standard error alone.
    row = np.random.default_rng(5).choice([-1.0, 0.0, 1.0], p=[0.05, 0.85, 0.1], size=2000)
    (interval,) = two_level_bootstrap(np.tile(row, (4, 1)))
    error = 1.96 * row.std() / math.sqrt(len(row))
    assert interval.low == pytest.approx(row.mean() - error, abs=0.08 * error)
    assert interval.high == pytest.approx(row.mean() + error, abs=0.08 * error)


def test_intervals_know_where_they_lie():
    assert Interval(0.1, 0.2).excludes_zero()
    assert Interval(-0.2, -0.1).excludes_zero()
    assert not Interval(-0.1, 0.2).excludes_zero()
    assert Interval(-0.1, 0.2).lies_within(0.3)
    assert not Interval(-0.3, 0.2).lies_within(0.3)
