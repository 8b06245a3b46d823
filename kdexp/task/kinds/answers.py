"""Gold labels and what a model says of them, unit by unit.

A *unit* is what carries one label: a row, or of token labels a word. Answers and labels hold the units of all rows,
one row after another.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

UNREAD = -math.inf
"""All outputs of a unit that a model did not read, because its tokens were cut off, or because it has none."""


@dataclass(frozen=True)
class Labels:
    """The gold labels of a split.

    Attributes:
        values: [units] or [units, outputs]
        lengths: [rows], the number of units of each row; None where each row is one unit.
    """

    values: np.ndarray
    lengths: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        return len(self.values) if self.lengths is None else len(self.lengths)

    def take(self, rows: np.ndarray) -> "Labels":
        """The labels of these rows, which may repeat."""
        units, lengths = units_of(rows, self.lengths)
        return Labels(self.values[units], lengths)


@dataclass(frozen=True)
class Answers:
    """What a model says about a split.

    Attributes:
        values: [units, outputs], float32, on the CPU: logits, or log-probabilities; `UNREAD` for a unit that the model
            did not read.
        lengths: [rows], the number of units of each row; None where each row is one unit.
        thresholds: [outputs], above which an output is a yes, where the kind decides so and they were chosen
            (`TaskKind.thresholds`); None means the kind's own, which no data chose.
    """

    values: Tensor
    lengths: np.ndarray | None = None
    thresholds: np.ndarray | None = None

    @property
    def num_rows(self) -> int:
        return len(self.values) if self.lengths is None else len(self.lengths)

    @property
    def answered_rows(self) -> np.ndarray:
        """Numbers of the rows that have an answer: nan throughout says nothing."""
        rows = np.arange(self.num_rows)
        units = self.values.isnan().all(dim=-1).numpy()
        if not units.any():
            return rows
        return rows[~units] if self.lengths is None else np.setdiff1d(rows, np.repeat(rows, self.lengths)[units])

    def take(self, rows: np.ndarray) -> "Answers":
        """The answers about these rows, which may repeat."""
        units, lengths = units_of(rows, self.lengths)
        return Answers(self.values[torch.from_numpy(units)], lengths, self.thresholds)

    @property
    def read(self) -> Tensor:
        """[units], false where the model did not read the unit."""
        return is_read(self.values)

    def in_order(self, outputs: Sequence[int]) -> "Answers":
        """The same, with the outputs in another order."""
        thresholds = None if self.thresholds is None else self.thresholds[list(outputs)]
        return Answers(self.values[:, list(outputs)], self.lengths, thresholds)

    def by_row(self) -> "Tensor | UnitsByRow":
        """Row by row, views: [outputs], or [units, outputs] where a row may have several."""
        return self.values if self.lengths is None else UnitsByRow(self.values, self.lengths)


def is_read(values: Tensor) -> Tensor:
    """[units], of answers [units, outputs]: whether the model that gave them read the unit."""
    return ~values.isneginf().all(dim=-1)


class UnitsByRow(Sequence[Tensor]):
    """Views of what the units of each row have: [units, outputs].

    Args:
        values: [units of all rows, outputs]
        lengths: [rows]
    """

    def __init__(self, values: Tensor, lengths: np.ndarray) -> None:
        self._values = values
        self._ends = np.cumsum(lengths)
        self._starts = self._ends - lengths

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: Any) -> Any:
        return self._values[self._starts[row] : self._ends[row]]


def units_of(rows: np.ndarray, lengths: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Places of the units of some rows, and how many each has."""
    if lengths is None:
        return rows, None
    starts = np.cumsum(lengths) - lengths
    taken = lengths[rows]
    within = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
    return np.repeat(starts[rows], taken) + within, taken
