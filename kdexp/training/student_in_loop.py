"""What the student of a training says, and what of a batch it reads."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import nn

from kdexp.loss.base import Outputs
from kdexp.model.forward import config_of, input_names
from kdexp.task.kinds.base import TaskKind
from kdexp.training.checks import outputs_of
from kdexp.training.collate import Batch


class StudentInLoop:
    """Any model that a `Trainer` trains.

    Args:
        kind: Of the task; None where the student itself says what its outputs are, and makes the loss of the labels.
        label_names: Columns that hold labels.
    """

    def __init__(self, model: nn.Module, kind: TaskKind | None, label_names: Sequence[str]) -> None:
        self.model = model
        self._kind = kind
        self._label_names = label_names

    @cached_property
    def _inputs(self) -> frozenset[str] | None:
        return input_names(self.model)

    @property
    def outputs(self) -> Outputs:
        """What its logits say; a model without a config is taken for a classifier."""
        if self._kind is not None:
            return self._kind.outputs
        # Read anew: transformers' models settle it when they first see labels.
        config = config_of(self.model)
        return Outputs.classes if config is None else outputs_of(config)

    @property
    def num_outputs(self) -> int | None:
        """None where no config says it."""
        config = config_of(self.model)
        return None if config is None else config.num_labels

    @property
    def has_own_loss(self) -> bool:
        """Whether it makes the hard loss itself, of the labels that it is given."""
        if self._kind is not None:
            return False
        return self._inputs is None or bool(self._inputs & {"labels", *self._label_names})

    def batch(self, inputs: Mapping[str, Any], teachers_inputs: frozenset[str]) -> Batch:
        """Take a collated batch apart.

        Args:
            teachers_inputs: What a teacher takes of the student's tokens.
        """
        teachers_own = frozenset() if self._inputs is None else teachers_inputs - self._inputs
        batch = Batch.of(inputs, self._label_names, teachers_own)
        if self._kind is not None:
            return batch
        if self._inputs and len(batch.label_columns) == 1 and not self._inputs & batch.label_columns.keys():
            batch.label_columns = {"labels": batch.labels}  # renamed in the data alone
        if self.outputs == Outputs.number and batch.label_columns:  # whole numbers, as files have them
            batch.label_columns = {name: labels.float() for name, labels in batch.label_columns.items()}
            batch.labels = batch.labels.float()
        return batch
