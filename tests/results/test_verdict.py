"""No verdict says more than its numbers, and all of them say it in the same words."""

import pytest

from kdexp.results.statistics import Gain, Interval, PairedDifference, paired_t
from kdexp.results.verdict import Equivalence, Finding, claim, claim_of_one_seed, find, over_seeds

CLEAR = paired_t([2.0, 2.1, 1.9])


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.02, "this student is better than its baseline"),
        (-0.02, -0.01, "this student is worse than its baseline"),
        (-0.01, 0.01, "which of the two students is better is not settled"),
        (float("nan"), float("nan"), "which of the two students is better is not settled"),
    ],
)
def test_one_seed_says_nothing_of_distillation(low, high, words):
    assert claim_of_one_seed(Gain(0.0, low, high)) == words


@pytest.mark.parametrize(
    ("difference", "p_value", "bootstrap", "finding"),
    [
        (CLEAR, 0.01, None, Finding.better),
        (CLEAR, 0.01, Interval(0.1, 4.0), Finding.better),
        (CLEAR, 0.01, Interval(-0.1, 4.0), Finding.unsettled),  # other rows might show nothing
        (CLEAR, 0.01, Interval(-4.0, -0.1), Finding.unsettled),
        (CLEAR, 0.06, Interval(0.1, 4.0), Finding.unsettled),  # corrected for what else is claimed
        (paired_t([-2.0, -2.1, -1.9]), 0.01, None, Finding.worse),
        (paired_t([2.0]), None, None, Finding.unsettled),
        (paired_t([2.0, 2.0]), None, None, Finding.unsettled),
    ],
)
def test_what_is_found_by_which_numbers(difference, p_value, bootstrap, finding):
    assert find(difference, p_value, bootstrap) == finding


@pytest.mark.parametrize(
    ("p_value", "bootstrap", "finding"),
    [
        (0.01, None, Finding.equivalent),
        (0.01, Interval(-0.5, 0.5), Finding.equivalent),
        (0.01, Interval(-0.5, 1.5), Finding.unsettled),
        (0.06, None, Finding.unsettled),
        (None, None, Finding.unsettled),
    ],
)
def test_small_has_to_be_shown_too(p_value, bootstrap, finding):
    difference = PairedDifference(0.1, Interval(-0.3, 0.5), 0.5, 5)
    assert find(difference, 0.5, None, Equivalence(1.0, p_value, bootstrap)) == finding


def test_every_claim_has_its_words():
    assert [claim(finding, margin=1.0) for finding in Finding] == [
        *("distillation helped", "distillation hurt", "equivalent within ±1 points", "not settled by these data"),
    ]
    assert claim(Finding.worse, "crossing") == "crossing hurt"


def test_an_interval_says_over_what_it_is_and_why_it_is_missing():
    assert over_seeds(CLEAR) == "95 % [+1.75, +2.25] over 3 seeds, paired t"
    both = over_seeds(CLEAR, Interval(1.0, 3.0))
    assert both == "95 % [+1.75, +2.25] over 3 seeds, paired t; [+1.00, +3.00] over seeds and test rows, bootstrap"
    assert over_seeds(paired_t([0.75])) == "no interval: one seed"
    assert over_seeds(paired_t([0.75, 0.75])) == "no interval: 2 seeds that do not differ"
