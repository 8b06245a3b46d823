"""Kinds of task whose metrics are computed of many samples at once, from how often each row is in each of them."""

from abc import abstractmethod

import numpy as np

from kdexp.task.kinds import resampled
from kdexp.task.kinds.base import Answers, Labels, TaskKind


class ScoredByCounts(TaskKind):
    """Its metrics need no copies of the rows of a sample."""

    @abstractmethod
    def score(self, metric: str, answers: Answers, labels: Labels, counts: np.ndarray) -> np.ndarray:
        """A metric of each sample.

        Args:
            counts: [samples, rows], how often each row is in each sample.

        Returns:
            [samples]
        """

    def resampled_scores(self, answers: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        return self.score(self.primary_metric, answers, labels, resampled.row_counts(rows, labels.num_rows))

    def gain(self, student: Answers, baseline: Answers, labels: Labels, rows: np.ndarray) -> np.ndarray:
        counts = resampled.row_counts(rows, labels.num_rows)
        taught, alone = (self.score(self.primary_metric, model, labels, counts) for model in (student, baseline))
        return taught - alone
