"""What a run measures of its models: everything here that depends on what the task asks goes through its kind."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdexp.loss.base import Outputs
from kdexp.results.classes import class_notices, count_classes, same_answer
from kdexp.results.metric_names import SPLITS
from kdexp.results.record import ClassCount, RunRecord, Scores
from kdexp.results.roles import CONTRASTS, Role, is_teacher
from kdexp.results.statistics import Gain, resampled_gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kdexp.task.kinds.base import Answers, Labels, TaskKind
    from kdexp.task.load import Task


@dataclass(frozen=True)
class ModelAnswers:
    """What one model answers, and how large it is.

    Attributes:
        answers: By split: `validation` and `test`. A teacher may lack one, or have no answer (nan) about some rows.
        num_parameters: Of several teachers together, the sum.
    """

    answers: Mapping[str, "Answers"]
    num_parameters: int | None


def decided(task: "Task", models: Mapping[Role, ModelAnswers]) -> dict[Role, ModelAnswers]:
    """The models with the thresholds that each one's answers on validation choose, where the kind has such."""
    labels = task.labels("validation")
    return {
        role: replace(
            model,
            answers={
                split: task.kind.decided(answers, model.answers.get("validation"), labels)
                for split, answers in model.answers.items()
            },
        )
        for role, model in models.items()
    }


def measure(
    task: "Task",
    models: Mapping[Role, ModelAnswers],
    *,
    name: str,
    settings: Mapping[str, Any],
    notices: Sequence[str] = (),
) -> RunRecord:
    """Measure every model of a run on validation and test.

    Args:
        models: By role; `teacher` and `student` at least. With `baseline` there is a gain.
        name: The run's.
        settings: Params as MLflow is to show them.
        notices: What is known already that a person should know.
    """
    metric, models = task.primary_metric, decided(task, models)
    labels = {split: task.labels(split) for split in SPLITS}
    scores = {
        role: Scores(
            **{split: _metrics(task.kind, answers, labels[split]) for split, answers in model.answers.items()},
            num_parameters=model.num_parameters,
        )
        for role, model in models.items()
    }
    test = {role: model.answers["test"] for role, model in models.items() if "test" in model.answers}

    def gain(role: Role, other: Role) -> Gain:
        return resampled_gain(
            lambda rows: task.kind.gain(test[role], test[other], labels["test"], rows), len(task.test)
        )

    classes = _classes(task, test)
    is_ablation = settings.get("tokenization") == "student_ids"
    return RunRecord(
        name=name,
        metric=metric,
        scores=scores,
        settings={key: str(value) for key, value in settings.items()},
        gain=gain("student", "baseline") if "baseline" in test else None,
        # Each resamples the same rows, so that the parts of a gain add up on every sample.
        contrasts={name: gain(*roles) for name, roles in CONTRASTS.items() if set(roles) <= set(test)},
        # Of a teacher that is fed ids it cannot read nothing is left to be retained.
        retention=None if is_ablation else _retention(task.kind, test, labels["test"], metric),
        agreement=_agreement(task.kind, test),
        num_test_rows=len(task.test),
        notices=[*notices, *class_notices(classes), *_same_answers(task, test)],
        classes=classes,
    )


def _classes(task: "Task", test: Mapping[Role, "Answers"]) -> dict[Role, dict[str, ClassCount]]:
    """Where each row is one of several classes, and a model answers all rows."""
    if task.kind.outputs != Outputs.classes or task.kind.has_units:
        return {}
    gold = task.kind.gold(task.labels("test"))
    answered = {role: answers for role, answers in test.items() if len(answers.answered_rows) == answers.num_rows}
    return {role: count_classes(gold, task.kind.decisions(answers)) for role, answers in answered.items()}


def _same_answers(task: "Task", test: Mapping[Role, "Answers"]) -> list[str]:
    """Of models that answer alike whatever they read, where a row is not one of several classes."""
    kind = task.kind
    if kind.outputs == Outputs.classes and not kind.has_units:
        return []

    def distinct(rows: Sequence[Any]) -> set[str]:
        answers = [unit for row in rows for unit in row] if kind.has_units else rows
        return {(", ".join(item) or "no label") if isinstance(item, list) else str(item) for item in answers}

    if len(distinct(kind.gold(task.labels("test")))) < 2:
        return []
    told = {role: distinct(kind.decisions(answers)) for role, answers in test.items()}
    unit = "word" if kind.has_units else "row"
    return [same_answer(role, said.pop(), unit) for role, said in told.items() if len(said) == 1]


def _metrics(kind: "TaskKind", answers: "Answers", labels: "Labels") -> dict[str, float]:
    """Of the rows that were answered; teachers may say nothing about some."""
    rows = answers.answered_rows
    if len(rows) == answers.num_rows:
        return kind.metrics(answers, labels)
    return kind.metrics(answers.take(rows), labels.take(rows)) if len(rows) else {}


def _retention(kind: "TaskKind", test: Mapping[Role, "Answers"], labels: "Labels", metric: str) -> float | None:
    """Student divided by teacher, on the rows that the teacher answered."""
    if "teacher" not in test:
        return None
    rows = test["teacher"].answered_rows
    taught = _metrics(kind, test["teacher"], labels).get(metric, 0.0)
    student, labels = (
        (test["student"], labels) if len(rows) == labels.num_rows else (test["student"].take(rows), labels.take(rows))
    )
    return kind.metrics(student, labels)[metric] / taught if taught > 0 else None


def _agreement(kind: "TaskKind", test: Mapping[Role, "Answers"]) -> dict[Role, float]:
    """The student's with each of several teachers; everybody else's with what the student was taught."""

    def agreement(model: "Answers", teacher: "Answers") -> float:
        rows = teacher.answered_rows
        if len(rows) == teacher.num_rows:
            return kind.agreement(model, teacher)
        return kind.agreement(model.take(rows), teacher.take(rows))

    pairs = {
        role: (test["student"], answers) if is_teacher(role) else (answers, test.get("teacher"))
        for role, answers in test.items()
        if role != "teacher"
    }
    return {
        role: agreement(model, teacher)
        for role, (model, teacher) in pairs.items()
        if teacher is not None and len(teacher.answered_rows)
    }


def prediction_table(task: "Task", models: Mapping[Role, ModelAnswers], *, with_text: bool = True) -> "pd.DataFrame":
    """One row per test example: what is right, what each model says, and its probabilities where it has them.

    `row` is the example's place in the test split, the same in every run on this split.

    Args:
        with_text: Show `text` and, of pairs, `text_pair`.
    """
    import pandas as pd

    gold = task.kind.gold(task.labels("test"))
    columns: dict[str, list] = {"row": list(range(len(gold)))}
    if with_text:
        columns |= {"text": list(task.test.first)}
        columns |= {} if task.test.second is None else {"text_pair": list(task.test.second)}
    columns["gold"] = gold
    for role, model in models.items():
        answers = model.answers.get("test")
        if answers is None:
            continue
        columns[role] = task.kind.decisions(answers)
        for row in np.setdiff1d(np.arange(answers.num_rows), answers.answered_rows):
            columns[role][row] = None
        columns |= {f"{role}_{name}": values for name, values in task.kind.scores(answers).items()}
    return pd.DataFrame(columns)


def prediction_figure_name(task: "Task") -> str:
    """What `prediction_figure` is called as a file."""
    match task.kind.outputs:
        case Outputs.classes:
            return "confusion_matrices"
        case Outputs.yes_no:
            return "label_f1"
        case Outputs.number:
            return "numbers"


def prediction_figure(task: "Task", models: Mapping[Role, ModelAnswers]) -> "Figure":
    """What each model answers on test beside the gold labels; those that answered every row.

    Of classes confusion matrices; of labels the F1 of each; of numbers told against gold.
    """
    from kdexp.results import figures

    labels = task.labels("test")
    answers = {
        role: given
        for role, model in models.items()
        if (given := model.answers.get("test")) and len(given.answered_rows) == given.num_rows
    }
    match task.kind.outputs:
        case Outputs.classes:
            read = np.logical_and.reduce([item.read.numpy() for item in answers.values()])  # of words: by every model
            told = {role: item.values.argmax(-1).numpy()[read].tolist() for role, item in answers.items()}
            return figures.confusion_matrices_figure(told, labels.values[read].tolist(), task.label_names, "test")
        case Outputs.yes_no:
            gold = [set(row) for row in task.kind.gold(labels)]
            names = {role: [set(row) for row in task.kind.decisions(item)] for role, item in answers.items()}
            return figures.label_f1_figure(names, gold, task.label_names, "test")
        case Outputs.number:
            numbers = {role: task.kind.decisions(item) for role, item in answers.items()}
            return figures.numbers_figure(numbers, task.kind.gold(labels), "test")
