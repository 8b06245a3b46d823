"""Single-label classification: classes by name, chance, metrics, gains."""

import numpy as np
import pytest
import torch

from kdexp.errors import UserError
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.chance import chance_test, power
from kdexp.task.kinds.single_label import SingleLabel

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


BALANCED = Labels(np.array([0] * 50 + [1] * 50))


def right_on(labels, num_right):
    correct = torch.tensor([1.0] * num_right + [-1.0] * (labels.num_rows - num_right))
    sign = torch.tensor(1 - 2 * labels.values) * correct
    return Answers(torch.stack([sign, -sign], dim=1))


def test_a_teacher_near_chance_is_refused_with_what_was_tested():
    assert YES_NO.refuse_chance(right_on(BALANCED, 80), BALANCED, "teacher") is None
    with pytest.raises(UserError) as refused:
        YES_NO.refuse_chance(right_on(BALANCED, 52), BALANCED, "teacher")
    # All rows of one class and two of the other are right: Fisher's p is that of scipy.stats.hypergeom.sf.
    assert str(refused.value).startswith(
        "teacher: answers 52 of 100 rows correctly; as many answers of each class would be right on "
        "50.0 by chance (Cohen's kappa 0.04, p = 0.25), and the most frequent class is right on 50: it has not learned"
    )
    with pytest.raises(UserError, match="are its class names in the wrong order"):
        YES_NO.refuse_chance(right_on(BALANCED, 8), BALANCED, "teacher")
    mostly_no = Labels(np.array([0] * 90 + [1] * 10))
    with pytest.raises(UserError, match="it answers 'no' on every row"):
        YES_NO.refuse_chance(right_and_wrong(100, 0), mostly_no, "teacher")


@pytest.mark.parametrize(
    ("counts", "is_better"),
    [((3, 3), False), ((97, 3), True), ((500, 5), True), ((100, 0), False), ((2, 1), False)],
)
def test_a_perfect_teacher_is_never_refused(counts, is_better):
    """Where so few rows cannot show that it is better, that is said instead."""
    labels = Labels(np.repeat([0, 1], counts))
    said = YES_NO.refuse_chance(right_on(labels, labels.num_rows), labels, "teacher")
    assert (said is None) == is_better
    if said:
        assert said.startswith(f"answers {labels.num_rows} of {labels.num_rows} rows correctly")
        assert said.endswith("too few rows to tell whether it is better than chance")


def test_chance_of_several_classes_is_that_of_permuted_labels():
    from scipy.stats import permutation_test
    from sklearn.metrics import cohen_kappa_score

    random = np.random.default_rng(0)
    for num_classes, skill in ((3, 0.0), (3, 0.2), (5, 0.1), (28, 0.05)):
        labels = random.integers(0, num_classes, 150)
        given = np.where(random.random(150) < skill, labels, random.integers(0, num_classes, 150))
        found = chance_test(given, labels, num_classes)
        assert found.kappa == pytest.approx(cohen_kappa_score(labels, given))
        expected = permutation_test(
            (labels,),
            lambda permuted, axis, given=given: (permuted == given).sum(axis=axis),
            permutation_type="pairings",
            alternative="greater",
            vectorized=True,
            n_resamples=1999,
            rng=0,
        )
        assert found.p_value == pytest.approx(expected.pvalue, abs=4 * np.sqrt(0.25 / 1999))


def test_a_teacher_that_knows_nothing_is_rarely_let_through_and_one_that_knows_something_is_found():
    random, labels = np.random.default_rng(0), np.repeat([0, 1, 2], 40)
    by_chance = [chance_test(random.permutation(labels), labels, 3).is_better for _ in range(100)]
    assert sum(by_chance) <= 5  # the 99.9 % point of 100 trials at 1 %
    assert power(labels, 3) == 1.0
    assert power(np.repeat([0, 1, 2], 2), 3) < 0.9


def test_metrics_by_hand():
    answers = Answers(torch.log(torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])))
    metrics = YES_NO.metrics(answers, Labels(np.array([0, 1, 1, 0])))
    assert metrics["accuracy"] == 0.75
    expected_nll = -torch.log(torch.tensor([0.8, 0.4, 0.7, 0.9])).mean().item()
    assert metrics["nll"] == pytest.approx(expected_nll)
    # Each row in a bin of its own: |1-0.8|, |0-0.6|, |1-0.7|, |1-0.9|.
    assert metrics["ece"] == pytest.approx((0.2 + 0.6 + 0.3 + 0.1) / 4)
    assert metrics["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_macro_f1_is_that_of_scikit_learn():
    """Written out, because importing these takes longer than the rest of a start."""
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


def imbalanced(num_rows=200, seed=0):
    """Gold labels of which nine in ten are `no`, and answers that know something."""
    random = np.random.default_rng(seed)
    gold = (random.random(num_rows) < 0.1).astype(int)
    scores = random.normal(size=(num_rows, 2)) + 1.2 * np.eye(2)[gold]
    return Answers(torch.tensor(scores).float()), Labels(gold)


def test_a_gain_in_macro_f1_is_that_of_resampled_rows():
    kind = YES_NO.with_primary("macro_f1")
    (student, labels), (baseline, _) = imbalanced(), imbalanced(seed=1)
    rows = np.random.default_rng(2).integers(0, 200, (50, 200))
    expected = [
        kind.metrics(student.take(sample), labels.take(sample))["macro_f1"]
        - kind.metrics(baseline.take(sample), labels.take(sample))["macro_f1"]
        for sample in rows
    ]
    assert kind.gain(student, baseline, labels, rows) == pytest.approx(expected)
    assert not kind.gain(student, student, labels, rows).any()


def test_balanced_weights_are_scikit_learns_and_weigh_the_hard_loss():
    from sklearn.utils.class_weight import compute_class_weight

    answers, labels = imbalanced()
    kind = YES_NO.weighted("balanced", labels)
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels.values)
    assert kind.class_weights == pytest.approx(expected)
    gold = torch.tensor(labels.values)
    own = torch.nn.functional.cross_entropy(
        answers.values, gold, weight=torch.tensor(expected).float(), reduction="sum"
    )
    loss = kind.hard_loss(answers.values, gold, num_examples=None, label_smoothing=0.0)
    assert loss.item() == pytest.approx(own.item() / 200, rel=1e-5)
    given = YES_NO.weighted([1, 5], labels).hard_loss(answers.values, gold, num_examples=None, label_smoothing=0.0)
    own = torch.nn.functional.cross_entropy(answers.values, gold, weight=torch.tensor([1.0, 5.0]), reduction="sum")
    assert given.item() == pytest.approx(own.item() / 200, rel=1e-5)
    assert YES_NO.weighted("none", labels).class_weights is None


def test_a_class_that_is_nearly_all_is_told():
    _, labels = imbalanced()
    assert any("'no' is 90%" in line and "macro_f1" in line for line in YES_NO.announcements(labels))
    even = Labels(np.array([0, 1] * 50))
    assert not any("macro_f1" in line for line in YES_NO.announcements(even))


@pytest.mark.parametrize(
    ("metric", "reference"), [("matthews", "matthews_corrcoef"), ("macro_recall", "recall_score")]
)
def test_official_metrics_are_scikit_learns_on_resampled_rows_too(metric, reference):
    import sklearn.metrics

    def expected(given: np.ndarray, gold: np.ndarray) -> float:
        options = {"average": "macro", "zero_division": np.nan} if metric == "macro_recall" else {}
        return getattr(sklearn.metrics, reference)(gold, given, **options)

    random = np.random.default_rng(0)
    gold, rows = random.integers(0, 3, 60), random.integers(0, 60, (7, 60))
    student, baseline = (Answers(torch.from_numpy(random.normal(size=(60, 3)).astype(np.float32))) for _ in range(2))
    kind = SingleLabel(["a", "b", "c"]).with_primary(metric)
    labels = Labels(gold)
    given, alone = (answers.values.argmax(-1).numpy() for answers in (student, baseline))
    assert kind.metrics(student, labels)[metric] == pytest.approx(expected(given, gold))
    gains = [expected(given[sample], gold[sample]) - expected(alone[sample], gold[sample]) for sample in rows]
    assert kind.gain(student, baseline, labels, rows) == pytest.approx(gains)
    assert metric not in SingleLabel(["a", "b", "c"]).metrics(student, labels)
