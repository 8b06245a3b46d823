"""What a run found, under the names that the terminal and MLflow show."""

from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from kdexp.task.evaluate import Gain, agreement, classification_metrics, paired_gain
from kdexp.task.load import Task


@dataclass(frozen=True)
class Scores:
    """One model's metrics by split: `scores.test["accuracy"]`."""

    validation: dict[str, float]
    test: dict[str, float]
    num_parameters: int


@dataclass(frozen=True)
class Comparison:
    """The student beside its teacher and, where it was trained, its baseline.

    Attributes:
        gain: Student minus baseline, on test.
        retention: Student divided by teacher, on test.
        agreement, baseline_agreement: Share of test rows answered as the teacher answers them.
        teachers: Each of several teachers by name; `teacher` is then what they answer together.
        agreements: With each of several teachers, the student's.
    """

    primary_metric: str
    teacher: Scores
    student: Scores
    baseline: Scores | None
    gain: Gain | None
    retention: float
    agreement: float
    baseline_agreement: float | None
    teachers: dict[str, Scores] = field(default_factory=dict)
    agreements: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> dict[str, float]:
        """All of it under MLflow's names."""
        named = {"": self.student, "teacher/": self.teacher, "baseline/": self.baseline}
        named |= {f"teacher_{name}/": scores for name, scores in self.teachers.items()}
        metrics = {
            f"{prefix}{split}/{name}": value
            for prefix, scores in named.items()
            if scores is not None
            for split, values in (("validation", scores.validation), ("test", scores.test))
            for name, value in values.items()
        }
        metrics |= {"kd/retention": self.retention, "kd/agreement": self.agreement}
        metrics |= {f"kd/agreement_{name}": value for name, value in self.agreements.items()}
        if self.gain is not None and self.baseline_agreement is not None:
            metrics |= {
                "kd/gain": self.gain.value,
                "kd/gain_low": self.gain.low,
                "kd/gain_high": self.gain.high,
                "kd/baseline_agreement": self.baseline_agreement,
            }
        metrics["cost/student_parameters"] = self.student.num_parameters
        metrics["cost/teacher_parameters"] = self.teacher.num_parameters
        return metrics


Logits = dict[str, Tensor]
"""[rows, classes] by split: `validation` and `test`."""


def compare(
    task: Task,
    teacher: Logits,
    student: Logits,
    baseline: Logits | None,
    *,
    num_parameters: tuple[int, int],
    teachers: dict[str, tuple[Logits, int]],
) -> Comparison:
    """Measure all three on validation and test.

    Args:
        teacher: What the student was taught: one teacher's logits, or what several answer together.
        num_parameters: The teacher's (of all together) and the student's.
        teachers: Logits and number of parameters of each of several teachers; empty where there is one.
    """
    gold = {"validation": task.validation.labels, "test": task.test.labels}

    def score(logits: Logits, size: int) -> Scores:
        validation, test = (classification_metrics(logits[name], gold[name]) for name in ("validation", "test"))
        return Scores(validation, test, size)

    teacher_size, student_size = num_parameters
    teacher_scores, student_scores = score(teacher, teacher_size), score(student, student_size)
    metric = task.primary_metric
    return Comparison(
        primary_metric=metric,
        teacher=teacher_scores,
        student=student_scores,
        baseline=score(baseline, student_size) if baseline else None,
        gain=paired_gain(student["test"], baseline["test"], gold["test"]) if baseline else None,
        retention=student_scores.test[metric] / teacher_scores.test[metric],
        agreement=agreement(student["test"], teacher["test"]),
        baseline_agreement=agreement(baseline["test"], teacher["test"]) if baseline else None,
        teachers={name: score(logits, size) for name, (logits, size) in teachers.items()},
        agreements={name: agreement(student["test"], logits["test"]) for name, (logits, _) in teachers.items()},
    )


def prediction_table(task: Task, logits: dict[str, Tensor]) -> pd.DataFrame:
    """One row per test example: gold class, and each model's answer and class probabilities.

    The text itself stays out of the tracking store; `row` is the example's place in the test split.

    Args:
        logits: [rows, classes] by model: `teacher`, `student`, `baseline`, and each of several teachers.
    """
    gold = task.test.labels
    columns: dict[str, list] = {
        "row": list(range(len(gold))),
        "gold": [task.label_names[label] for label in gold],
    }
    for model, scores in logits.items():
        columns[model] = [task.label_names[index] for index in scores.argmax(-1).tolist()]
        probabilities = torch.softmax(scores.double(), dim=-1).T.tolist()
        for name, column in zip(task.label_names, probabilities, strict=True):
            columns[f"{model}_probability_{name}"] = column
    return pd.DataFrame(columns)
