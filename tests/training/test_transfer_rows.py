"""Text that only the teacher labels in a training: its share of each batch, and what it counts in the loss."""

import numpy as np
import pytest
import torch

from kdexp import compose, distil
from kdexp.arrow import Rows
from kdexp.errors import UserError
from kdexp.loss.logit import KD
from kdexp.training.arguments import DistillationTrainingArguments
from kdexp.training.sampling import MixedBatches, train_sampler
from kdexp.training.transfer import soft_loss

STUDENT = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.1, 0.0], [2.0, 1.0, -3.0], [0.0, 0.0, 1.0]], requires_grad=True)
TEACHER = torch.tensor([[2.0, -2.0, 0.0], [1.0, 0.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, -1.0]])
LABELS = torch.tensor([0, -100, 1, -100])
LOSS = KD(alpha=0.5, temperature=2.0)


def by_row(rows):
    return sum(LOSS(STUDENT[[row]], TEACHER[[row]], LABELS[[row]], num_examples=8) for row in rows)


def test_a_row_without_gold_label_counts_as_often_as_is_said():
    weighted = soft_loss(LOSS, STUDENT, TEACHER, LABELS, 8, 3.0)
    assert torch.allclose(weighted, by_row([0, 2]) + 3 * by_row([1, 3]))
    assert torch.equal(
        soft_loss(LOSS, STUDENT, TEACHER, LABELS, 8, 1.0), LOSS(STUDENT, TEACHER, LABELS, num_examples=8)
    )
    labelled = soft_loss(LOSS, STUDENT, TEACHER, LABELS.clamp(min=0), 8, 3.0)
    assert torch.allclose(labelled, by_row(range(4)), atol=1e-6)


@pytest.mark.parametrize("lengths", [None, np.random.default_rng(0).integers(3, 40, 230)])
def test_each_batch_holds_as_many_of_them_as_any_other(lengths):
    order = MixedBatches((30, 200), 16, 12, lengths, seed=1)
    assert len(order) == 230
    passes = []
    for epoch in range(2):
        order.set_epoch(epoch)
        passes.append(list(order))
        batches = [passes[-1][start : start + 16] for start in range(0, 230, 16)]
        assert [sum(row >= 30 for row in batch) for batch in batches[:-1]] == [12] * 14
        counts = np.bincount(passes[-1], minlength=230)
        assert counts[:30].max() - counts[:30].min() <= 2  # to within one, and what the last batch leaves out
        assert counts[30:].max() == 1
    assert passes[0] != passes[1]
    order.set_epoch(0)
    assert list(order) == passes[0]
    if lengths is not None:
        spread = np.mean([np.ptp(lengths[batch]) for batch in batches])
        assert spread < 0.5 * np.mean(
            [np.ptp(lengths[np.roll(passes[1], 7)[start : start + 16]]) for start in (0, 99)]
        )


def test_what_has_no_such_rows_is_refused(tmp_path):
    rows = {"input_ids": [[1]] * 40, "labels": np.zeros(40)}
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), transfer_ratio=0.5, per_device_train_batch_size=8, use_cpu=True
    )
    assert isinstance(train_sampler(Rows(rows, rows), args), MixedBatches)
    with pytest.raises(ValueError, match="transfer_ratio needs rows without gold labels beside the labelled ones"):
        train_sampler(Rows(rows), args)
    args.transfer_ratio = 0.01
    with pytest.raises(ValueError, match=r"0\.01 of a batch of 8 leaves no row of text; choose another ratio"):
        train_sampler(Rows(rows, rows), args)
    for setting, value in (("transfer_weight", 0.0), ("transfer_ratio", 1.0)):
        with pytest.raises(ValueError, match=setting):
            DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{setting: value})


def test_a_whole_run_weighs_and_mixes_text_that_only_the_teacher_labels(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEXP_CACHE_DIR", str(tmp_path / "cache"))
    sizes = ("task.train_size=40", "task.validation_size=20", "task.test_size=40", "task.transfer_size=120")
    small = ("teacher.num_layers=1", "teacher.hidden_size=32", "teacher.train.max_steps=3", "train.max_steps=6")
    quick = ("hardware=cpu", "hardware.num_threads=1", "tracking=none", "teacher.chance_check=false")
    common = (*sizes, *small, *quick, "task.transfer=rest", "teacher.learns_from=all", "baseline=false")

    def losses(*settings):
        return distil(compose(*common, *settings)).scores["student"].test["nll"]

    different = {losses(), losses("train.transfer_weight=4"), losses("train.transfer_ratio=0.25")}
    assert len(different) == 3
    with pytest.raises(UserError, match=r"train\.transfer_ratio: 0\.01 of a batch of 32 leaves no row of text"):
        losses("train.transfer_ratio=0.01")
    with pytest.raises(
        UserError, match=r"teacher\.learns_from: got all, but there are no labels beyond those of train"
    ):
        distil(compose(*sizes, *small, *quick, "teacher.learns_from=all"))
