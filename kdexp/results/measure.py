"""What a run measures of its models: everything here that depends on what the task asks goes through its kind."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdexp.loss.base import Outputs
from kdexp.results.record import SPLITS, Role, RunRecord, Scores, is_teacher
from kdexp.results.statistics import resampled_gain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from kdexp.task.kind import Answers, TaskKind
    from kdexp.task.load import Task


@dataclass(frozen=True)
class ModelAnswers:
    """What one model answers, and how large it is.

    Attributes:
        answers: By split: `validation` and `test`.
        num_parameters: Of several teachers together, the sum.
    """

    answers: Mapping[str, "Answers"]
    num_parameters: int | None


def measure(task: "Task", models: Mapping[Role, ModelAnswers], *, name: str, settings: Mapping[str, Any]) -> RunRecord:
    """Measure every model of a run on validation and test.

    Args:
        models: By role; `teacher` and `student` at least. With `baseline` there is a gain.
        name: The run's.
        settings: Params as MLflow is to show them.
    """
    metric = task.primary_metric
    labels = {split: task.labels(split) for split in SPLITS}
    scores = {
        role: Scores(
            **{split: task.kind.metrics(model.answers[split], labels[split]) for split in SPLITS},
            num_parameters=model.num_parameters,
        )
        for role, model in models.items()
    }
    test = {role: model.answers["test"] for role, model in models.items()}
    gain = None
    if "baseline" in test:
        gain = resampled_gain(
            lambda rows: task.kind.gain(test["student"], test["baseline"], labels["test"], rows), len(task.test)
        )
    taught = scores["teacher"].test[metric]
    return RunRecord(
        name=name,
        metric=metric,
        scores=scores,
        settings={key: str(value) for key, value in settings.items()},
        gain=gain,
        retention=scores["student"].test[metric] / taught if taught > 0 else None,
        agreement=_agreement(task.kind, test),
        num_test_rows=len(task.test),
    )


def _agreement(kind: "TaskKind", test: Mapping[Role, "Answers"]) -> dict[Role, float]:
    """The student's with each of several teachers; everybody else's with what the student was taught."""
    return {
        role: kind.agreement(test["student"], answers)
        if is_teacher(role)
        else kind.agreement(answers, test["teacher"])
        for role, answers in test.items()
        if role != "teacher"
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
        answers = model.answers["test"]
        columns[role] = task.kind.decisions(answers)
        columns |= {f"{role}_{name}": values for name, values in task.kind.scores(answers).items()}
    return pd.DataFrame(columns)


def prediction_figure(task: "Task", models: Mapping[Role, ModelAnswers]) -> "Figure | None":
    """Gold classes against predicted ones on test, one panel per model; None where answers are no classes."""
    if task.kind.outputs != Outputs.classes:
        return None
    from kdexp.results.figures import confusion_matrices_figure

    return confusion_matrices_figure(
        {role: model.answers["test"].values.argmax(-1).tolist() for role, model in models.items()},
        task.labels("test").values.tolist(),
        task.label_names,
        "test",
    )
