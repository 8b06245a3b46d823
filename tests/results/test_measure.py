"""What is measured of models that get nothing right, or everything."""

import numpy as np
import pytest
import torch

from kdexp.results.measure import ModelAnswers, measure, prediction_figure
from kdexp.results.record import RunRecord
from kdexp.results.terminal import print_result
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.multi_label import MultiLabel
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.kinds.token_labels import TokenLabels


class Rows:
    """A task of four rows of two classes."""

    primary_metric = "accuracy"
    label_names = ("no", "yes")
    kind = SingleLabel(("no", "yes"))
    test = range(4)

    def labels(self, split):
        return Labels(np.array([0, 1, 1, 1]))


def answers(*classes):
    logits = Answers(torch.nn.functional.one_hot(torch.tensor(classes), 2).float() * 4)
    return ModelAnswers({"validation": logits, "test": logits}, 10)


RIGHT, WRONG = answers(0, 1, 1, 1), answers(1, 0, 0, 0)


@pytest.mark.parametrize("teacher", [WRONG, RIGHT])
@pytest.mark.parametrize("student", [WRONG, RIGHT])
@pytest.mark.parametrize("baseline", [WRONG, RIGHT])
def test_nothing_is_divided_by_a_score_of_zero(teacher, student, baseline, capsys):
    models = {"teacher": teacher, "student": student, "baseline": baseline}
    record = measure(Rows(), models, name="run", settings={})
    assert (record.retention is None) == (teacher is WRONG)
    print_result(RunRecord(**{**vars(record), "costs": {"seconds": 1.0}}), "mlflow ui", "cache")
    assert ("retention" in capsys.readouterr().out) == (teacher is RIGHT)
    prediction_figure(Rows(), models)


def test_a_teacher_that_was_fed_foreign_ids_has_nothing_to_retain():
    models = {"teacher": RIGHT, "student": RIGHT}
    assert measure(Rows(), models, name="run", settings={"tokenization": "own"}).retention == 1
    assert measure(Rows(), models, name="run", settings={"tokenization": "student_ids"}).retention is None


class Questions(Rows):
    """Four rows of two labels, each a yes or a no."""

    primary_metric = "micro_f1"
    kind = MultiLabel(("no", "yes"))

    def labels(self, split):
        return Labels(np.array([[0, 1], [1, 0], [1, 1], [0, 0]]))


class Words(Rows):
    """Four rows of one word."""

    primary_metric = "f1"
    label_names = ("O", "B-x")
    kind = TokenLabels(("O", "B-x"))

    def labels(self, split):
        return Labels(np.array([0, 1, 0, 0]), np.ones(4, dtype=int))


@pytest.mark.parametrize(
    ("task", "lengths", "said"),
    [(Questions(), None, "'yes' on every test row"), (Words(), np.ones(4, dtype=int), "'B-x' on every test word")],
)
def test_a_model_that_answers_alike_whatever_it_reads_is_told_of_other_kinds_too(task, lengths, said):
    same = Answers(torch.tensor([[-1.0, 1.0]] * 4), lengths)
    varied = Answers(torch.tensor([[-1.0, 1.0], [1.0, -1.0]] * 2), lengths)
    models = {"student": {"test": same}, "baseline": {"test": varied}}
    record = measure(task, {role: ModelAnswers(item, 10) for role, item in models.items()}, name="run", settings={})
    assert record.notices == [f"the distilled student answers {said}, whatever it reads"]


def test_what_becomes_of_classes_is_told_with_the_result(capsys):
    record = measure(
        Rows(), {"teacher": RIGHT, "student": answers(1, 1, 1, 1), "baseline": RIGHT}, name="run", settings={}
    )
    assert record.notices == [
        "the distilled student answers 'yes' on every test row: its accuracy is the share of that class, 3 of 4"
    ]
    print_result(RunRecord(**{**vars(record), "costs": {"seconds": 1.0}}), "mlflow ui", "cache")
    shown = capsys.readouterr().out
    assert f"notice    {record.notices[0]}" in shown
    assert "recall    by class, baseline -> distilled: no 100.0% -> 0.0%, yes 100.0% -> 100.0%" in shown
