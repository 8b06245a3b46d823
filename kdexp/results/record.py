"""What a run found: the one thing that terminal, MLflow, studies and reports read, and a stored run is read back into.

What its numbers are called in MLflow stands in `metric_names.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Protocol

import numpy as np

from kdexp.results.diagnostics import Calibration, Diagnostics, TokenizerStatistics
from kdexp.results.metric_names import (
    COMPARED,
    COST,
    DIAGNOSTICS,
    DIAGNOSTICS_OF_OLD,
    GAIN,
    RETENTION,
    SPLITS,
    TEACHER_UNCHANGED,
    agreement_metric,
    agreement_role,
    contrast_metric,
    cost_metric,
    gain_metrics,
    metric_name,
    parameters_metric,
    stored_gain,
)
from kdexp.results.roles import CONTRASTS, TUNED, TUNED_BASELINE, Role, file_role, is_teacher
from kdexp.results.shipped import Shipped, shipped_metrics, stored_shipped
from kdexp.results.statistics import Gain


@dataclass(frozen=True)
class ClassCount:
    """Of one class on test: its rows, how many are answered right, and how many rows are answered with it."""

    rows: int
    right: int
    answered: int

    @property
    def recall(self) -> float:
        return self.right / self.rows


@dataclass(frozen=True)
class Scores:
    """One model's metrics by split: `scores.test["accuracy"]`."""

    validation: dict[str, float] = field(default_factory=dict)
    test: dict[str, float] = field(default_factory=dict)
    num_parameters: int | None = None


@dataclass(frozen=True)
class Choice:
    """A schedule that was chosen on validation.

    Attributes:
        num_steps: Optimizer steps.
        is_on_edge: A better one may lie beyond the grid.
    """

    learning_rate: float
    num_steps: int
    is_on_edge: bool


class StoredMetrics(Protocol):
    """A run as a store holds it: what `tracking.store.StoredRun` is."""

    @property
    def run_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def params(self) -> dict[str, str]: ...
    @property
    def metrics(self) -> dict[str, float]: ...
    @property
    def tags(self) -> dict[str, str]: ...


@dataclass(frozen=True)
class RunRecord:
    """What one run found.

    Attributes:
        metric: The task's primary metric; larger is better.
        settings: Every param as MLflow shows it, as text.
        scores: By role. Of a stored run that did not reach its end, as far as it came.
        gain: Student minus baseline, on test.
        contrasts: The same of other pairs, by their name in `CONTRASTS`.
        choices: The schedules of roles that chose among several.
        retention: Student divided by teacher, on test; None where the teacher's score is not above zero, or it was fed
            ids that it cannot read.
        agreement: How far `student`, `baseline`, ... answer the test rows as the teacher does, as a share; of a
            `teacher_<name>`, how far the student answers as that one of several teachers does.
        shipped: By format of the exported files; with them `torch`, the student, and teachers by role.
        costs: Seconds, counts and megabytes by name.
        num_test_rows: None of a stored run.
        notices: What a person should know before believing the numbers; none of a stored run.
        classes: By role, where a row is one of several classes; empty of a stored run.
        run_id, url, experiment_url: In MLflow; the links are None where nothing is tracked, and of a stored run.
    """

    name: str
    metric: str
    scores: dict[Role, Scores]
    settings: dict[str, str] = field(default_factory=dict)
    gain: Gain | None = None
    contrasts: dict[str, Gain] = field(default_factory=dict)
    choices: dict[Role, Choice] = field(default_factory=dict)
    retention: float | None = None
    agreement: dict[Role, float] = field(default_factory=dict)
    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    shipped: dict[str, Shipped] = field(default_factory=dict)
    costs: dict[str, float] = field(default_factory=dict)
    teacher_unchanged: bool = False
    num_test_rows: int | None = None
    notices: Sequence[str] = ()
    classes: Mapping[Role, Mapping[str, ClassCount]] = field(default_factory=dict)
    run_id: str | None = None
    url: str | None = None
    experiment_url: str | None = None

    @property
    def is_trial(self) -> bool:
        """Whether a search proposed it, to choose a setting."""
        return self.settings.get("trial", "None") != "None"

    @property
    def takes_nothing(self) -> bool:
        """Whether the student is trained on the labels alone, and so is its own baseline."""
        settings = self.settings
        is_constant = settings.get("loss.alpha_end", "None") == "None"
        is_hard = settings.get("loss.name") == "ce" or (is_constant and settings.get("loss.alpha") in ("1", "1.0"))
        return is_hard and settings.get("terms", "none") == "none"

    def score(self, split: str, role: Role = "student") -> float | None:
        """The primary metric of a model, or None where it was not measured."""
        scores = self.scores.get(role, Scores())
        return (scores.test if split == "test" else scores.validation).get(self.metric)

    def metrics(self) -> dict[str, float]:
        """All of it under MLflow's names, what the run was made for first: MLflow lists metrics as they arrive."""
        metrics: dict[str, float] = {}
        if self.gain is not None:
            metrics |= gain_metrics(GAIN, self.gain)
        for name, gain in self.contrasts.items():
            metrics |= gain_metrics(contrast_metric(name), gain)
        scores = self._score_metrics()
        metrics |= {name: scores[name] for name in self._leading_scores() if name in scores}
        if self.retention is not None:
            metrics[RETENTION] = self.retention
        metrics |= {agreement_metric(role): value for role, value in self.agreement.items()}
        metrics |= scores
        metrics |= shipped_metrics(self.shipped)
        metrics |= {
            f"{role}/{name}": float(value)
            for role, choice in self.choices.items()
            for name, value in asdict(choice).items()
        }
        metrics |= {cost_metric(name): value for name, value in self.costs.items()}
        metrics |= {
            parameters_metric(role): scores.num_parameters
            for role, scores in self.scores.items()
            # All others are the student, trained or written differently.
            if scores.num_parameters is not None and (role == "student" or is_teacher(role))
        }
        metrics[TEACHER_UNCHANGED] = float(self.teacher_unchanged)
        return metrics | _diagnostics_metrics(self.diagnostics)

    def _score_metrics(self) -> dict[str, float]:
        return {
            metric_name(split, name, role): value
            for role, scores in self.scores.items()
            for split, values in zip(SPLITS, (scores.validation, scores.test), strict=True)
            for name, value in values.items()
        }

    def _leading_scores(self) -> list[str]:
        """What the gain is a difference of, and what taught it."""
        return [metric_name("test", self.metric, role) for role in ("student", "baseline", "teacher")]

    def student_metrics(self) -> list[str]:
        """Those of `metrics` that say how good the student is: what its model is found by."""
        scores = self.scores["student"]
        names = [metric_name(split, name) for split in SPLITS for name in getattr(scores, split)]
        wanted = {*names, parameters_metric("student")}
        return [name for name in self.metrics() if name in wanted or name.startswith(COMPARED)]

    def file_metrics(self, name: str) -> list[str]:
        """Those of `metrics` that are of an exported file."""
        return [key for key in self.metrics() if key.startswith(f"{file_role(name)}/")]

    @classmethod
    def from_stored(cls, run: StoredMetrics) -> "RunRecord":
        """Read a run back: the inverse of `metrics`."""
        metrics = run.metrics
        scores = _scores(metrics)
        costs = {name.removeprefix(COST): value for name, value in metrics.items() if name.startswith(COST)}
        sizes = {parameters_metric(role) for role in scores}
        contrasts = {name: stored_gain(metrics, contrast_metric(name)) for name in CONTRASTS}
        return cls(
            name=run.name,
            run_id=run.run_id,
            metric=run.tags["kdexp.primary_metric"],
            settings=dict(run.params),
            scores=scores,
            gain=stored_gain(metrics, GAIN),
            contrasts={name: gain for name, gain in contrasts.items() if gain},
            choices={
                role: _choice(metrics, role) for role in (TUNED, TUNED_BASELINE) if f"{role}/num_steps" in metrics
            },
            retention=metrics.get(RETENTION),
            agreement=_agreement(metrics),
            diagnostics=_diagnostics(metrics, scores, float(run.params.get("loss.temperature", 1.0))),
            shipped=stored_shipped(metrics),
            costs={name: value for name, value in costs.items() if cost_metric(name) not in sizes},
            teacher_unchanged=metrics.get(TEACHER_UNCHANGED) == 1,
        )


def _choice(metrics: Mapping[str, float], role: Role) -> Choice:
    rate, steps, edge = (metrics[f"{role}/{item.name}"] for item in fields(Choice))
    return Choice(rate, int(steps), edge == 1)


def _scores(metrics: Mapping[str, float]) -> dict[Role, Scores]:
    found: dict[Role, dict[str, dict[str, float]]] = {}
    for key, value in metrics.items():
        *role, split, name = ["", *key.split("/")]
        if split in SPLITS:
            found.setdefault("/".join(role[1:]) or "student", {name: {} for name in SPLITS})[split][name] = value

    def size(role: Role) -> int | None:
        number = metrics.get(parameters_metric(role))
        return None if number is None else int(number)

    return {role: Scores(**values, num_parameters=size(role)) for role, values in found.items()}


def _agreement(metrics: Mapping[str, float]) -> dict[Role, float]:
    return {role: value for key, value in metrics.items() if (role := agreement_role(key))}


def _diagnostics_metrics(diagnostics: Diagnostics) -> dict[str, float]:
    metrics = {
        f"{DIAGNOSTICS}{role}_{name}": float(value)
        for role, statistics in diagnostics.tokenizers.items()
        for name, value in asdict(statistics).items()
    }
    if diagnostics.calibration is not None:
        metrics |= {
            f"{DIAGNOSTICS}teacher_entropy": diagnostics.calibration.mean_entropy,
            f"{DIAGNOSTICS}teacher_soft_entropy": diagnostics.calibration.mean_soft_entropy,
            f"{DIAGNOSTICS}max_entropy": diagnostics.calibration.max_entropy,
        }
    return metrics


def _diagnostics(metrics: Mapping[str, float], scores: Mapping[Role, Scores], temperature: float) -> Diagnostics:
    found = {
        key.removeprefix(prefix): value
        for prefix in (DIAGNOSTICS_OF_OLD, DIAGNOSTICS)
        for key, value in metrics.items()
        if key.startswith(prefix)
    }
    tokenizers = {
        role: TokenizerStatistics(
            vocab_size=int(found[f"{role}_vocab_size"]),
            tokens_per_word=found[f"{role}_tokens_per_word"],
            truncation_rate=found[f"{role}_truncation_rate"],
            unknown_rate=found[f"{role}_unknown_rate"],
            is_cased=found[f"{role}_is_cased"] == 1,
        )
        for role in (name.removesuffix("_vocab_size") for name in found if name.endswith("_vocab_size"))
    }
    if "max_entropy" not in found:
        return Diagnostics(tokenizers)
    taught = scores.get("teacher", Scores()).validation
    calibration = Calibration(
        accuracy=taught.get("accuracy", np.nan),
        ece=taught.get("ece", np.nan),
        mean_entropy=found["teacher_entropy"],
        temperature=temperature,
        mean_soft_entropy=found["teacher_soft_entropy"],
        max_entropy=found["max_entropy"],
    )
    return Diagnostics(tokenizers, calibration)
