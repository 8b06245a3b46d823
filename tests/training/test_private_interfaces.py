"""What kdexp overrides or sets in transformers' Trainer without its promise: each fails here when a release moves it.

An override that the Trainer no longer calls raises no error: teacher columns would be dropped, projections saved with
the student. So each must be there, take what it took, and be called by the Trainer itself.
"""

import inspect
import re

import pytest
import transformers
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from kdexp.training.trainer import DistillationTrainer

# Parameters as kdexp names them, and why it overrides them.
OVERRIDDEN = {
    "_set_signature_columns_if_needed": ([], "the teacher's columns are kept in the rows"),
    "_get_train_sampler": (["train_dataset"], "rows know their lengths: grouping by length reads none"),
    "_save": (["output_dir", "state_dict"], "projections are written beside the student, not in it"),
    "_load_from_checkpoint": (["resume_from_checkpoint", "model"], "projections are read back from beside it"),
    "_load_best_model": ([], "projections are no part of the best student"),
    "get_batch_samples": (["epoch_iterator", "num_batches", "device"], "the loss is divided by all rows of a step"),
    "compute_loss": (["model", "inputs", "return_outputs", "num_items_in_batch"], "it is the distillation loss"),
    "get_train_dataloader": ([], "settings of the loss are checked at the start of each training"),
    "log": (["logs", "start_time"], "the parts of the loss are logged beside it"),
}
SOURCE = inspect.getsource(Trainer)


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_the_trainer_still_calls_what_is_overridden(name: str) -> None:
    parameters, purpose = OVERRIDDEN[name]
    where = f"kdexp/training/trainer.py overrides Trainer.{name} ({purpose}); transformers {transformers.__version__}"
    assert hasattr(Trainer, name), f"{where} has none"
    found = list(inspect.signature(getattr(Trainer, name)).parameters)[1:]
    assert found == parameters, f"{where} takes {found}"
    assert re.search(rf"self\.{name}\b", SOURCE), f"{where} does not call it"


def test_every_override_is_looked_after() -> None:
    public = {"train", "__init__", "__doc__", "__module__", "__annotations__"}
    overridden = {name for name in vars(DistillationTrainer) if name in dir(Trainer)} - public
    assert overridden == OVERRIDDEN.keys()


def test_columns_are_kept_by_their_names(tmp_path) -> None:
    """`_signature_columns` is what `_set_signature_columns_if_needed` fills and `_remove_unused_columns` reads."""
    assert "self._signature_columns" in inspect.getsource(Trainer._set_signature_columns_if_needed)
    assert "self._signature_columns" in inspect.getsource(Trainer._remove_unused_columns)


def test_the_number_of_gpus_can_be_set(tmp_path) -> None:
    """kdexp/training/loop.py sets `_n_gpu`: DataParallel over all that are visible would split each batch."""
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    arguments._n_gpu = min(arguments.n_gpu, 1) + 6
    assert arguments.n_gpu == min(arguments._n_gpu, 7)


def test_rows_are_grouped_by_lengths_that_are_known() -> None:
    sampler = LengthGroupedSampler(2, lengths=[1, 5, 3, 9])
    assert sorted(sampler) == [0, 1, 2, 3]


def test_checkpoints_are_called_as_they_are_looked_for() -> None:
    assert PREFIX_CHECKPOINT_DIR == "checkpoint"
    assert "PREFIX_CHECKPOINT_DIR" in SOURCE
