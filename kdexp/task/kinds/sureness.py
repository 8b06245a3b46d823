"""How often a model is right where it is so sure: from which score on its answers can be left alone."""

import numpy as np

from kdexp.task.kinds.base import Answers, Labels, TaskKind

STEPS = 1000
"""Thresholds are told in thousandths."""


def sureness_table(kind: TaskKind, answers: Answers, labels: Labels) -> dict[str, list[int]] | None:
    """For every threshold from 0 to 1, how many rows have at least that score, and how many of these are right.

    Returns:
        `rows` and `right`, [STEPS + 1] each; None of a kind whose answers have no score.
    """
    scores = kind.row_scores(answers)
    if scores is None:
        return None
    pairs = zip(kind.decisions(answers), kind.gold(labels), strict=True)
    right = np.array([decision == gold for decision, gold in pairs], dtype=bool)
    # Row i counts for every threshold up to its score; the small number is for scores that are a threshold.
    places = np.minimum((scores.astype(np.float64) * STEPS + 1e-6).astype(int), STEPS)

    def from_above(chosen: np.ndarray) -> list[int]:
        counts = np.bincount(chosen, minlength=STEPS + 1)
        return [int(count) for count in counts[::-1].cumsum()[::-1]]

    return {"rows": from_above(places), "right": from_above(places[right])}
