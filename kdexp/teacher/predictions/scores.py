"""What a file of answers says, by the key of each text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from kdexp.loss.base import Outputs
from kdexp.task.split import Split
from kdexp.teacher.base import Scale


@dataclass(frozen=True)
class Question:
    """What a file has to answer.

    Attributes:
        names: Of the outputs, in the order that is wanted.
        is_pair: The task's texts are pairs.
    """

    names: Sequence[str]
    outputs: Outputs
    is_pair: bool


@dataclass(frozen=True)
class ScoreFile:
    """What a file answers.

    Attributes:
        keys: [texts], ascending, each once: what `Split.text_keys` gives for these texts, or `Split.id_keys`.
        by_id: Rows are joined by their names.
        values: [texts, outputs], float32
        notes: What was found, in one line each.
    """

    keys: np.ndarray
    values: Tensor
    scale: Scale
    notes: Sequence[str]
    by_id: bool = False


def split_rows(scores: ScoreFile, split: Split) -> np.ndarray:
    """Where each row of a split lies in the file, [rows]; -1 where the file does not answer it."""
    keys = split.id_keys if scores.by_id else split.text_keys
    if not len(scores.keys):
        return np.full(len(keys), -1)
    places = np.minimum(np.searchsorted(scores.keys, keys), len(scores.keys) - 1)
    return np.where(scores.keys[places] == keys, places, -1)
