"""What a run measures of its models: everything here that depends on what the task asks goes through its kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdexp.results.record import Role, RunRecord, Scores, is_teacher
from kdexp.results.statistics import Gain, resampled_gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from kdexp.task.load import Task


@dataclass(frozen=True)
class ModelAnswers:
    """What one model answers, and how large it is.

    Attributes:
        logits: [rows, classes] by split: `validation` and `test`.
        num_parameters: Of several teachers together, the sum.
    """

    logits: Mapping[str, "Tensor"]
    num_parameters: int | None


def measure(task: "Task", models: Mapping[Role, ModelAnswers], *, name: str, settings: Mapping[str, Any]) -> RunRecord:
    """Measure every model of a run on validation and test.

    Args:
        models: By role; `teacher` and `student` at least. With `baseline` there is a gain.
        name: The run's.
        settings: Params as MLflow is to show them.
    """
    metric = task.primary_metric
    scores = {
        role: Scores(
            validation=_metrics(task, "validation", answers.logits["validation"]),
            test=_metrics(task, "test", answers.logits["test"]),
            num_parameters=answers.num_parameters,
        )
        for role, answers in models.items()
    }
    test = {role: answers.logits["test"] for role, answers in models.items()}
    taught = scores["teacher"].test[metric]
    return RunRecord(
        name=name,
        metric=metric,
        scores=scores,
        settings={key: str(value) for key, value in settings.items()},
        gain=_gain(task, test["student"], test["baseline"]) if "baseline" in test else None,
        retention=scores["student"].test[metric] / taught if taught > 0 else None,
        agreement=_agreement(task, test),
        num_test_rows=len(task.test),
    )


def _metrics(task: "Task", split: str, logits: "Tensor") -> dict[str, float]:
    from kdexp.task.evaluate import classification_metrics

    return classification_metrics(logits, _labels(task, split))


def _gain(task: "Task", student: "Tensor", baseline: "Tensor") -> Gain:
    right, baseline_right = (
        (logits.argmax(-1).numpy() == np.asarray(_labels(task, "test"))).astype(float)
        for logits in (student, baseline)
    )
    return resampled_gain(lambda rows: (right - baseline_right)[rows].mean(axis=-1), len(task.test))


def _agreement(task: "Task", test: Mapping[Role, "Tensor"]) -> dict[Role, float]:
    """The student's with each of several teachers; everybody else's with what the student was taught."""
    from kdexp.task.evaluate import agreement

    return {
        role: agreement(test["student"], logits) if is_teacher(role) else agreement(logits, test["teacher"])
        for role, logits in test.items()
        if role != "teacher"
    }


def _labels(task: "Task", split: str) -> list[int]:
    return {"validation": task.validation, "test": task.test}[split].labels or []


def prediction_table(task: "Task", models: Mapping[Role, ModelAnswers]) -> "pd.DataFrame":
    """One row per test example: gold class, and each model's answer and class probabilities.

    The text itself stays out of the tracking store; `row` is the example's place in the test split.
    """
    import pandas as pd
    import torch

    gold = _labels(task, "test")
    columns: dict[str, list] = {
        "row": list(range(len(gold))),
        "gold": [task.label_names[label] for label in gold],
    }
    for role, answers in models.items():
        logits = answers.logits["test"]
        columns[role] = [task.label_names[index] for index in logits.argmax(-1).tolist()]
        probabilities = torch.softmax(logits.double(), dim=-1).T.tolist()
        for name, column in zip(task.label_names, probabilities, strict=True):
            columns[f"{role}_probability_{name}"] = column
    return pd.DataFrame(columns)


def prediction_figure(task: "Task", models: Mapping[Role, ModelAnswers]) -> "Figure":
    """Gold classes against predicted ones on test, one panel per model."""
    from kdexp.results.figures import confusion_matrices_figure

    return confusion_matrices_figure(
        {role: answers.logits["test"].argmax(-1).tolist() for role, answers in models.items()},
        _labels(task, "test"),
        task.label_names,
        "test",
    )
