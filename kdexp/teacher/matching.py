"""Heads that only number their classes: which number is which class is measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdexp.errors import UserError
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.tables.table import shorten

_SURE = 0.01
"""How likely chance may be to put the chosen matching ahead of the next best one."""


@dataclass(frozen=True)
class Matching:
    """Which of a head's outputs is which class.

    Attributes:
        order: Where each of the task's classes lies among the head's outputs.
        agreement: Share of the rows that it answers right so.
        runner_up: The same of the next best matching.
    """

    order: list[int]
    agreement: float
    runner_up: float


def match_classes(
    answers: Answers, labels: Labels, names: Sequence[str], task_names: Sequence[str], role: str
) -> Matching:
    """Match outputs to classes so that as many answers as possible are right.

    The next best matching differs in at least one class. On the rows that only one of both gets right, the best one
    must be ahead by more than chance (sign test at 1 %).

    Raises:
        UserError: It is not: the rows do not tell which output is which class.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.special import bdtrc

    read = answers.read
    given, gold = answers.values[read].argmax(-1).numpy(), labels.values[read.numpy()]
    counts = np.zeros((len(task_names), len(names)))
    np.add.at(counts, (gold, given), 1)
    rows, best = linear_sum_assignment(counts, maximize=True)
    runner_up, others = -1.0, best
    for row in rows:
        without = counts.copy()
        without[row, best[row]] = -len(gold)
        _, other = linear_sum_assignment(without, maximize=True)
        total = counts[rows, other].sum()
        if total > runner_up:
            runner_up, others = total, other
    # Rows that one of both matchings gets right, and not the other.
    differs = best != others
    num_best, num_other = (int(counts[rows[differs], found[differs]].sum()) for found in (best, others))
    if num_best + num_other == 0 or bdtrc(num_best - 1, num_best + num_other, 0.5) >= _SURE:
        classes = [name for name, differ in zip(task_names, differs, strict=True) if differ]
        raise UserError(
            f"{role}.labels",
            f"the teacher only numbers its classes ({shorten(names)}), and {len(gold):,} validation rows do not tell "
            f"which of them are {' and '.join(classes)} ({num_best} rows speak for one way, {num_other} for another)",
            f"name them in the teacher's own order with {role}.labels=[...]",
        )
    return Matching(best.tolist(), float(counts[rows, best].sum() / len(gold)), float(runner_up / len(gold)))
