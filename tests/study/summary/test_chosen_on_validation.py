"""Who competes on validation, who wins, and who is as good."""

import pytest

from kdexp.study.summary.choice import Candidate, choose


def candidates(*scores):
    return [Candidate(dict(enumerate(each))) for each in scores]


def test_the_highest_mean_of_those_that_are_complete_wins():
    choice = choose([*candidates([0.6, 0.7], [0.7, 0.7]), Candidate({0: 0.9})], {0, 1})
    assert (choice.winner, choice.competing, choice.incomplete) == (1, (1, 0), (2,))
    assert (choice.seeds, choice.is_complete) == ((0, 1), True)


def test_without_a_complete_one_the_common_seeds_are_compared():
    choice = choose(candidates([0.6, 0.7], [0.65, 0.6]), {0, 1, 2})
    assert (choice.winner, choice.seeds, choice.is_complete, choice.incomplete) == (0, (0, 1), False, ())
    choice = choose([Candidate({0: 0.6, 1: 0.9}), Candidate({0: 0.7, 2: 0.1})], {0, 1, 2})
    assert (choice.winner, choice.seeds) == (1, (0,))
    # No common seed: the one that most have.
    choice = choose([Candidate({0: 0.9}), Candidate({1: 0.5}), Candidate({1: 0.6})], {0, 1})
    assert (choice.winner, choice.seeds, choice.incomplete) == (2, (1,), (0,))


def test_ties_go_to_fewer_steps_then_to_the_order_of_the_sweep():
    same = [Candidate({0: 0.5}, steps) for steps in (float("nan"), 200, 100, 100)]
    choice = choose(same, {0})
    assert (choice.winner, choice.tied, choice.near) == (2, (0, 1, 3), ())


@pytest.mark.parametrize(("other", "near"), [([0.69, 0.71, 0.69], (1,)), ([0.6, 0.6, 0.61], ())])
def test_those_within_one_paired_standard_error_are_as_good(other, near):
    choice = choose(candidates([0.7, 0.7, 0.7], other), {0, 1, 2})
    assert (choice.winner, choice.near) == (0, near)


def test_one_seed_has_no_standard_error():
    assert choose(candidates([0.7], [0.7 - 1e-6]), {0}).near == ()
