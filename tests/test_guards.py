"""The checks, by themselves: classes, foreign ids, chance."""

import pytest
import torch
from transformers import BertConfig

from kdexp.errors import UserError
from kdexp.task.evaluate import agreement, classification_metrics
from kdexp.training import checks as guards


def test_classes_are_found_by_name_whatever_their_spelling():
    assert guards.class_order(["Not Entailment", "ENTAILMENT"], ["entailment", "not_entailment"]) == [1, 0]


@pytest.mark.parametrize(
    "teacher", [["LABEL_0", "LABEL_1"], ["no", "yes", "maybe"], ["yes", "yes"], ["positive", "negative"]]
)
def test_other_classes_are_refused_with_both_lists(teacher):
    with pytest.raises(UserError, match=r"the teacher's classes \[.*\] are not the task's \[no, yes\]"):
        guards.class_order(teacher, ["no", "yes"])


def test_ids_inside_the_vocabulary_pass():
    config = BertConfig(vocab_size=100, type_vocab_size=2)
    guards.refuse_foreign_ids(config, largest_id=99, largest_token_type=1)
    with pytest.raises(UserError, match="token id 100"):
        guards.refuse_foreign_ids(config, largest_id=100, largest_token_type=0)
    with pytest.raises(UserError, match="token_type_id 2"):
        guards.refuse_foreign_ids(config, largest_id=5, largest_token_type=2)


def test_a_teacher_near_chance_is_refused_with_the_likely_reason():
    labels = [0] * 50 + [1] * 50
    guards.refuse_chance(80, labels, ["no", "yes"])
    with pytest.raises(UserError, match="is it fine-tuned for this task"):
        guards.refuse_chance(52, labels, ["no", "yes"])
    with pytest.raises(UserError, match="are its class names in the wrong order"):
        guards.refuse_chance(8, labels, ["no", "yes"])
    with pytest.raises(UserError, match=r"most frequent class \(90.0%\)"):
        guards.refuse_chance(90, [0] * 90 + [1] * 10, ["no", "yes"])


def test_metrics_by_hand():
    logits = torch.log(torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]]))
    metrics = classification_metrics(logits, [0, 1, 1, 0])
    assert metrics["accuracy"] == 0.75
    expected_nll = -torch.log(torch.tensor([0.8, 0.4, 0.7, 0.9])).mean().item()
    assert metrics["nll"] == pytest.approx(expected_nll)
    # Each row in a bin of its own: |1-0.8|, |0-0.6|, |1-0.7|, |1-0.9|.
    assert metrics["ece"] == pytest.approx((0.2 + 0.6 + 0.3 + 0.1) / 4)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_agreement_by_hand():
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert agreement(torch.stack([right, wrong, right, right]), torch.stack([right] * 4)) == pytest.approx(0.75)
