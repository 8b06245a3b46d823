"""Units of rows that have several: where they lie among those of all rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor


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
