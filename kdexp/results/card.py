"""A model card: what a person has to know who is handed a student, with the metadata that the hub reads.

What is not known is not said: no licence is guessed, and no language.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdexp.loss.base import Outputs
from kdexp.results import wording
from kdexp.results.measure import ModelAnswers
from kdexp.results.record import RunRecord
from kdexp.results.report import Block, BulletList, Facts, Heading, Paragraph, Preformatted, TableBlock, markdown_page
from kdexp.results.roles import Role, file_name
from kdexp.results.statistics import Gain, Interval, resampled_gain

if TYPE_CHECKING:
    import pandas as pd
    from huggingface_hub import EvalResult, ModelCardData

    from kdexp.task.load import Task
    from kdexp.tracking.data_sets import DataSet

_PIPELINES = {"ForTokenClassification": "token-classification", "ForSequenceClassification": "text-classification"}
"""The hub's, by the head of a kind."""
_LICENCE = (
    "The program that wrote this knows no licence. The licences of the data and of the checkpoints that the student "
    "was made from hold: replace `license: unknown` above before this is published."
)


@dataclass(frozen=True)
class CardFacts:
    """What cards say that no number says.

    Attributes:
        data: What the run read, by split.
        language: Of the texts; None where it is not known.
        student, teachers: With what they are made from: `bert 1x24`.
        base_model: The hub's id of the checkpoint that the student began as; None of random weights, and of a folder.
        needs_kdexp: transformers alone cannot load the student.
        command: What makes it again; "" where a program asked.
        version: Of kdexp.
    """

    data: "Sequence[DataSet]"
    student: str
    teachers: Sequence[str]
    version: str
    language: str | None = None
    base_model: str | None = None
    needs_kdexp: bool = False
    command: str = ""


@dataclass(frozen=True)
class _Subject:
    """A model that a card is of, in its run."""

    record: RunRecord
    task: "Task"
    role: Role

    @property
    def file(self) -> str | None:
        """The format that it was exported to."""
        return file_name(self.role)

    @property
    def gain(self) -> Gain | None:
        return self.record.gain if self.file is None else self.record.shipped[self.file].gain


def model_card(
    record: RunRecord, task: "Task", models: Mapping[Role, ModelAnswers], role: Role, facts: CardFacts
) -> str:
    """README.md of a student's folder.

    Args:
        models: Of the whole run; each is told with the interval that the choice of test rows leaves open.
        role: `student`, or of an exported file `export/<format>`.
    """
    subject = _Subject(record, task, role)
    intervals = {name: _interval(task, models[name]) for name in (role, "baseline", "teacher") if name in models}
    metadata = _metadata(subject, facts).to_yaml()
    return f"---\n{metadata}\n---\n\n" + markdown_page(record.name, _body(subject, intervals, facts))


def _interval(task: "Task", model: ModelAnswers) -> Interval | None:
    """95 % of the primary metric on test; None of a model that says nothing about some rows."""
    answers, labels = model.answers.get("test"), task.labels("test")
    if answers is None or len(answers.answered_rows) < answers.num_rows:
        return None
    found = resampled_gain(lambda rows: task.kind.resampled_scores(answers, labels, rows), len(task.test))
    return Interval(found.low, found.high)


def _metadata(subject: _Subject, facts: CardFacts) -> "ModelCardData":
    from huggingface_hub import ModelCardData

    library = "onnx" if subject.file else None if facts.needs_kdexp else "transformers"
    from_hub = sorted({item.source["path"] for item in facts.data if item.source_type == "hugging_face"})
    return ModelCardData(
        language=facts.language,
        license="unknown",
        library_name=library,
        pipeline_tag=_pipeline(subject.task),
        tags=["kdexp", "knowledge-distillation"],
        base_model=facts.base_model,
        datasets=from_hub or None,
        metrics=list(subject.record.scores[subject.role].test),
        model_name=subject.record.name,
        eval_results=_results(subject, facts),
    )


def _pipeline(task: "Task") -> str:
    return _PIPELINES[task.kind.head]


def _results(subject: _Subject, facts: CardFacts) -> "list[EvalResult]":
    from huggingface_hub import EvalResult

    task = subject.task
    test = next((item for item in facts.data if item.split == "test"), None)
    source: Mapping[str, Any] = test.source if test and test.source_type == "hugging_face" else {}
    return [
        EvalResult(
            task_type=_pipeline(task),
            dataset_type=source.get("path") or re.sub(r"[^\w.-]+", "-", task.name),
            dataset_name=test.name if test else task.name,
            dataset_config=source.get("config_name"),
            dataset_revision=source.get("revision"),
            dataset_split="test",
            metric_type=name,
            metric_name=wording.METRICS.get(name, name),
            metric_value=round(value, 4),
        )
        for name, value in subject.record.scores[subject.role].test.items()
    ]


def _body(subject: _Subject, intervals: Mapping[Role, Interval | None], facts: CardFacts) -> list[Block]:
    record, task = subject.record, subject.task
    format_name = f", as {subject.file}" if subject.file else ""
    teachers, data = " and ".join(facts.teachers), _shown_task(task, facts)
    blocks: list[Block] = [
        Paragraph(f"Tells {task.kind.tells}. Distilled from {teachers} on {data}{format_name}."),
        Heading("How good it is"),
        TableBlock(
            _scores(subject, intervals), f"on {len(task.test):,} test rows; 95 % intervals are over these rows"
        ),
    ]
    if subject.gain is not None:
        gain = f"{_points(subject.gain)} {wording.points_of(record.metric)}"
        blocks.append(Paragraph(f"{gain} over the same student without a teacher."))
    blocks += [
        Heading("Data"),
        TableBlock(_splits(task), f"{_data_names(task, facts)}; digests are SHA-256 of texts and labels"),
        Heading("Made from"),
        Facts(_origin(subject, facts)),
        Heading("Licence"),
        Paragraph(_LICENCE),
        Heading("Use"),
        Preformatted('python -m kdexp predict <this folder> "a text"'),
    ]
    if record.notices:
        blocks += [Heading("Notices"), BulletList(record.notices)]
    if facts.command:
        blocks += [Heading("Command"), Preformatted(facts.command)]
    return blocks


def _scores(subject: _Subject, intervals: Mapping[Role, Interval | None]) -> "pd.DataFrame":
    import pandas as pd

    names = {subject.role: "this student", "baseline": "the same student without a teacher", "teacher": "teacher"}
    rows = []
    for role, name in names.items():
        test = subject.record.scores[role].test if role in subject.record.scores else {}
        metric, found = subject.record.metric, intervals.get(role)
        if metric in test:
            bounds = f" [{found.low:.4f}, {found.high:.4f}]" if found else ""
            others = {key: f"{value:.4f}" for key, value in test.items() if key != metric}
            rows.append({"": name, metric: f"{test[metric]:.4f}{bounds}"} | others)
    return pd.DataFrame(rows).fillna("")


def _points(gain: Gain) -> str:
    return f"{wording.points(100 * gain.value)} {wording.interval(100 * gain.low, 100 * gain.high)}"


def _splits(task: "Task") -> "pd.DataFrame":
    import pandas as pd

    splits = {name: getattr(task, name) for name in ("train", "validation", "test", "transfer")}
    return pd.DataFrame(
        {"split": name, "rows": f"{len(split):,}", "digest": split.digest}
        for name, split in splits.items()
        if split is not None
    )


def _shown_task(task: "Task", facts: CardFacts) -> str:
    """Of a person's own data its name: the task's is `file` then, and says nothing."""
    train = next((item.name for item in facts.data if item.split == "train"), None)
    return train if task.name == "file" and train else task.name


def _data_names(task: "Task", facts: CardFacts) -> str:
    names = ", ".join(dict.fromkeys(item.name for item in facts.data)) or task.name
    places = dict.fromkeys(_place(item) for item in facts.data if item.source_type == "hugging_face")
    return names + "".join(f" ({place})" for place in places)


def _place(data: "DataSet") -> str:
    parts = (data.source["path"], data.source.get("config_name"), data.source.get("revision"))
    return " ".join(part for part in parts if part)


def _origin(subject: _Subject, facts: CardFacts) -> list[tuple[str, str]]:
    record, task = subject.record, subject.task
    found = [("teachers" if len(facts.teachers) > 1 else "teacher", ", ".join(facts.teachers))]
    found.append(("student", facts.student))
    scores = ((role, record.scores.get(role)) for role in ("teacher", "student"))
    found += [
        (f"parameters of the {role}", f"{item.num_parameters:,}")
        for role, item in scores
        if item and item.num_parameters
    ]
    if task.kind.outputs != Outputs.number:
        found.append(("labels", ", ".join(task.label_names)))
    settings = {"loss": "loss.name", "alpha": "loss.alpha", "temperature": "loss.temperature", "seed": "seed"}
    found += [(name, record.settings[key]) for name, key in settings.items() if key in record.settings]
    if record.run_id:
        found.append(("MLflow run", record.run_id))
    return [*found, ("kdexp", facts.version)]
