"""What a difference allows to be said: the rules and the words of every verdict, of runs, sweeps and studies alike.

docs/statistics.md gives them in whole. For a comparison of several seeds (differences are paired by seed):

1. Fewer than two seeds, or seeds that do not differ at all: no interval, and nothing is claimed.
2. Better or worse: the paired t test's p-value, Holm-corrected where several claims are made, is below 5 %, and the
   95 % bootstrap interval over seeds and test rows, where there is one, excludes zero on the same side.
3. Equivalent within +-margin, where a margin is given: TOST's p-value, Holm-corrected, is below 5 %, and the 90 %
   bootstrap interval, where there is one, lies within the margin.
4. Otherwise these data do not settle it.

A difference that is both shown and smaller than the margin is told as a difference.
"""

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from kdexp.results import wording
from kdexp.results.statistics import Gain, Interval, PairedDifference

ALPHA = 0.05


class Finding(StrEnum):
    """What a comparison shows."""

    better = "better"
    worse = "worse"
    equivalent = "equivalent"
    unsettled = "unsettled"


@dataclass(frozen=True)
class Equivalence:
    """What there is to show that a difference is small.

    Attributes:
        margin: Half width of what counts as equivalent.
        p_value: Of two one-sided t tests; None where seeds give no estimate of chance.
        bootstrap: 90 %, over seeds and test rows.
    """

    margin: float
    p_value: float | None
    bootstrap: Interval | None = None


def find(
    difference: PairedDifference,
    p_value: float | None,
    bootstrap: Interval | None = None,
    equivalence: Equivalence | None = None,
) -> Finding:
    """Apply the rules of this module to one comparison.

    Args:
        p_value: Of no difference, corrected for the claims that are made together.
        bootstrap: 95 %, over seeds and test rows.
    """
    if difference.interval is None or p_value is None:
        return Finding.unsettled
    sign = np.sign(difference.mean)
    same_side = bootstrap is None or (bootstrap.excludes_zero() and np.sign(bootstrap.low) == sign)
    if p_value < ALPHA and same_side:
        return Finding.better if sign > 0 else Finding.worse
    if equivalence is not None and equivalence.p_value is not None and equivalence.p_value < ALPHA:
        within = equivalence.bootstrap is None or equivalence.bootstrap.lies_within(equivalence.margin)
        return Finding.equivalent if within else Finding.unsettled
    return Finding.unsettled


def claim(finding: Finding, subject: str = "distillation", margin: float | None = None) -> str:
    """The few words that a finding allows.

    Args:
        subject: What helped or hurt.
        margin: In points, where equivalence was asked about.
    """
    match finding:
        case Finding.better:
            return f"{subject} helped"
        case Finding.worse:
            return f"{subject} hurt"
        case Finding.equivalent:
            return f"equivalent within ±{margin:g} points"
    return "not settled by these data"


NOTHING_TAKEN = "none to tell: with this loss the student takes nothing from the teacher, as its baseline"
"""In place of a gain that is zero because both are one training."""

ONE_SEED = "one seed does not settle whether distillation helped: repeat with -m seed=0,1,2,3,4"


def claim_of_one_seed(gain: Gain) -> str:
    """Of two students of one seed: the interval is over test rows, and says nothing of other seeds."""
    if gain.low > 0:
        return "this student is better than its baseline"
    if gain.high < 0:
        return "this student is worse than its baseline"
    return "which of the two students is better is not settled"


def over_seeds(difference: PairedDifference, bootstrap: Interval | None = None) -> str:
    """The intervals of a mean over seeds, each with its kind, or why there are none.

    Args:
        difference, bootstrap: In points.
    """
    interval = difference.interval
    if interval is None:
        reason = "one seed" if difference.num_seeds == 1 else f"{difference.num_seeds} seeds that do not differ"
        return f"no interval: {reason}"
    text = f"95 % {wording.interval(interval.low, interval.high)} over {difference.num_seeds} seeds, paired t"
    if bootstrap is not None:
        text += f"; {wording.interval(bootstrap.low, bootstrap.high)} over seeds and test rows, bootstrap"
    return text
