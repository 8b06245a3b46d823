"""Single-label classification: classes by name, chance, metrics, gains."""

import numpy as np
import pytest
import torch

from kdexp.errors import UserError
from kdexp.task.kind import Answers, Labels
from kdexp.task.single_label import SingleLabel

YES_NO = SingleLabel(["no", "yes"])


def right_and_wrong(num_right, num_wrong):
    """Answers about rows of class 0."""
    return Answers(torch.tensor([[1.0, 0.0]] * num_right + [[0.0, 1.0]] * num_wrong))


def test_classes_are_found_by_name_whatever_their_spelling():
    kind = SingleLabel(["entailment", "not_entailment"])
    assert kind.output_order(["Not Entailment", "ENTAILMENT"], "teacher") == [1, 0]


@pytest.mark.parametrize(
    "teacher", [["LABEL_0", "LABEL_1"], ["no", "yes", "maybe"], ["yes", "yes"], ["positive", "negative"]]
)
def test_other_classes_are_refused_with_both_lists(teacher):
    with pytest.raises(UserError, match=r"the teacher's classes \[.*\] are not the task's \[no, yes\]"):
        YES_NO.output_order(teacher, "teacher")


def test_a_teacher_near_chance_is_refused_with_the_likely_reason():
    balanced = Labels(np.array([0] * 50 + [1] * 50))

    def answers(num_right):
        correct = torch.tensor([1.0] * num_right + [-1.0] * (100 - num_right))
        sign = torch.tensor(1 - 2 * balanced.values) * correct
        return Answers(torch.stack([sign, -sign], dim=1))

    YES_NO.refuse_chance(answers(80), balanced, "teacher")
    with pytest.raises(UserError, match="is it fine-tuned for this task"):
        YES_NO.refuse_chance(answers(52), balanced, "teacher")
    with pytest.raises(UserError, match="are its class names in the wrong order"):
        YES_NO.refuse_chance(answers(8), balanced, "teacher")
    mostly_no = Labels(np.array([0] * 90 + [1] * 10))
    with pytest.raises(UserError, match=r"most frequent class \(90.0%\)"):
        YES_NO.refuse_chance(right_and_wrong(100, 0), mostly_no, "teacher")


def test_metrics_by_hand():
    answers = Answers(torch.log(torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])))
    metrics = YES_NO.metrics(answers, Labels(np.array([0, 1, 1, 0])))
    assert metrics["accuracy"] == 0.75
    expected_nll = -torch.log(torch.tensor([0.8, 0.4, 0.7, 0.9])).mean().item()
    assert metrics["nll"] == pytest.approx(expected_nll)
    # Each row in a bin of its own: |1-0.8|, |0-0.6|, |1-0.7|, |1-0.9|.
    assert metrics["ece"] == pytest.approx((0.2 + 0.6 + 0.3 + 0.1) / 4)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_metrics_and_the_test_of_chance_are_those_of_scikit_learn_and_scipy():
    """Written out, because importing these takes longer than the rest of a start."""
    from scipy.stats import binomtest
    from sklearn.metrics import f1_score

    random = np.random.default_rng(0)
    for num_rows in range(1, 200):
        num_classes = int(random.integers(2, 7))
        kind = SingleLabel([str(index) for index in range(num_classes)])
        gold = random.integers(0, num_classes, num_rows)
        given = np.where(random.random(num_rows) < random.random(), gold, random.integers(0, num_classes, num_rows))
        answers = Answers(torch.nn.functional.one_hot(torch.tensor(given), num_classes).float())
        expected = f1_score(gold, given, average="macro", zero_division=0)
        assert kind.metrics(answers, Labels(gold))["macro_f1"] == expected
        majority = np.bincount(gold).max() / num_rows
        chance = binomtest(int((given == gold).sum()), num_rows, min(majority, 1.0), alternative="greater").pvalue
        if chance < 0.01:
            kind.refuse_chance(answers, Labels(gold), "teacher")
        else:
            with pytest.raises(UserError, match="no better than always answering"):
                kind.refuse_chance(answers, Labels(gold), "teacher")


def test_agreement_is_of_classes():
    assert YES_NO.agreement(right_and_wrong(300, 100), right_and_wrong(260, 140)) == pytest.approx(0.9)


def test_an_accuracy_gain_of_nothing_is_exactly_nothing():
    """Row by row in whole numbers: no interval may leave zero by rounding."""
    random = np.random.default_rng(0)
    values = torch.tensor(random.normal(size=(97, 3))).float()
    labels = Labels(random.integers(0, 3, 97))
    kind = SingleLabel(["a", "b", "c"])
    rows = random.integers(0, 97, (50, 97))
    assert (kind.gain(Answers(values), Answers(2 * values), labels, rows) == 0).all()
    other = Answers(torch.tensor(random.normal(size=(97, 3))).float())
    by_metric = [
        kind.metrics(Answers(values).take(sample), labels.take(sample))["accuracy"]
        - kind.metrics(other.take(sample), labels.take(sample))["accuracy"]
        for sample in rows
    ]
    assert kind.gain(Answers(values), other, labels, rows) == pytest.approx(by_metric)
