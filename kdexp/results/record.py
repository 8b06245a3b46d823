"""What a run found: the one thing that terminal, MLflow, studies and reports read, and a stored run is read back into.

MLflow's metric names are spelled here and nowhere else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Protocol

import numpy as np

from kdexp.results.diagnostics import Calibration, Diagnostics, TokenizerStatistics
from kdexp.results.shipped import Shipped, shipped_metrics, stored_shipped
from kdexp.results.statistics import Gain

if TYPE_CHECKING:
    from kdexp.model.encoder import Encoder
    from kdexp.model.legibility import Legibility

Role = str
"""What a model is to a run. An open set: `student`; `teacher`, what the student is taught; `teacher_<name>`, one of
several; `baseline`, the same student without a teacher; `control/<name>`; `export/<format>`."""

PSEUDO_LABELS = "control/pseudo_labels"
"""The student that was taught the teacher's one-hot answers."""
GOLD = "control/gold"
"""The student that was given the gold labels of all text: the ceiling."""
TUNED, TUNED_BASELINE = "control/tuned", "control/tuned_baseline"
"""Distilled student and baseline, each with the best of the same schedules."""

FULL_VOCAB = "control/full_vocab"
"""The student whose vocabulary is trimmed, with all of its tokens."""

SPLITS = ("validation", "test")

CONTRASTS: dict[str, tuple[Role, Role]] = {
    "text": (PSEUDO_LABELS, "baseline"),
    "soft": ("student", PSEUDO_LABELS),
    "tuned": (TUNED, TUNED_BASELINE),
}
"""What is told beside the gain, each a role minus another."""
PARTS = ("text", "soft")
"""Those that add up to the gain."""

GAIN = "kd/gain"
_LOW, _HIGH = "_low", "_high"
_RETENTION = "kd/retention"
_TEACHER_UNCHANGED = "checks/teacher_unchanged"
_PARAMETERS = "_parameters"
# Until version 0.1 they were called readings: old stores are read by that name.
_DIAGNOSTICS = ("diagnostics/", "reading/")


def metric_name(split: str, metric: str, role: Role = "student") -> str:
    """`test/accuracy` of the student, `baseline/test/accuracy` of another role."""
    return f"{split}/{metric}" if role == "student" else f"{role}/{split}/{metric}"


def curve_metrics(role: Role, logged: Mapping[str, float]) -> dict[str, float]:
    """The learning curve of a model other than the student: `teacher/train/loss`, `teacher/train/validation_accuracy`.

    Its last score on validation is not its result, which is that of the kept weights.
    """
    return {
        f"{role}/train/{name.removeprefix('train/').replace('validation/', 'validation_')}": value
        for name, value in logged.items()
    }


def legibility_metrics(found: Mapping[Role, "Legibility"]) -> dict[str, float]:
    """How much of the training text reaches each model, before anything is trained."""
    return {
        f"input/{role}_{name}": value
        for role, item in found.items()
        for name, value in (("unknown_rate", item.unknown_rate), ("truncation_rate", item.truncation_rate))
    }


def vocab_metrics(student: "Encoder") -> dict[str, float]:
    """What trimming its vocabulary took from a student; nothing where it was not trimmed."""
    if student.trimming is None:
        return {}
    full = student.trimming.full
    sizes = {"num_tokens": len(student.tokenizer), "full_num_tokens": len(full.tokenizer)}
    rates = {f"{split}_changed_rate": rate for split, rate in student.trimming.changed_rates.items()}
    return {
        f"vocab/{name}": value for name, value in (sizes | {"full_parameters": full.num_parameters} | rates).items()
    }


def is_teacher(role: Role) -> bool:
    """Whether a model teaches, alone or among several."""
    return role == "teacher" or role.startswith("teacher_")


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
            metrics |= _gain_metrics(GAIN, self.gain)
        for name, gain in self.contrasts.items():
            metrics |= _gain_metrics(contrast_metric(name), gain)
        scores = self._score_metrics()
        metrics |= {name: scores[name] for name in self._leading_scores() if name in scores}
        if self.retention is not None:
            metrics[_RETENTION] = self.retention
        metrics |= {_agreement_name(role): value for role, value in self.agreement.items()}
        metrics |= scores
        metrics |= shipped_metrics(self.shipped)
        metrics |= {
            f"{role}/{name}": float(value)
            for role, choice in self.choices.items()
            for name, value in asdict(choice).items()
        }
        metrics |= {f"cost/{name}": value for name, value in self.costs.items()}
        metrics |= {
            f"cost/{role}{_PARAMETERS}": scores.num_parameters
            for role, scores in self.scores.items()
            # All others are the student, trained or written differently.
            if scores.num_parameters is not None and (role == "student" or is_teacher(role))
        }
        metrics[_TEACHER_UNCHANGED] = float(self.teacher_unchanged)
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
        wanted = {*names, f"cost/student{_PARAMETERS}"}
        return [name for name in self.metrics() if name in wanted or name.startswith("kd/")]

    def file_metrics(self, name: str) -> list[str]:
        """Those of `metrics` that are of an exported file."""
        return [key for key in self.metrics() if key.startswith(f"export/{name}/")]

    @classmethod
    def from_stored(cls, run: StoredMetrics) -> "RunRecord":
        """Read a run back: the inverse of `metrics`."""
        metrics = run.metrics
        scores = _scores(metrics)
        costs = {name.removeprefix("cost/"): value for name, value in metrics.items() if name.startswith("cost/")}
        contrasts = {name: _gain(metrics, contrast_metric(name)) for name in CONTRASTS}
        return cls(
            name=run.name,
            run_id=run.run_id,
            metric=run.tags["kdexp.primary_metric"],
            settings=dict(run.params),
            scores=scores,
            gain=_gain(metrics, GAIN),
            contrasts={name: gain for name, gain in contrasts.items() if gain},
            choices={
                role: _choice(metrics, role) for role in (TUNED, TUNED_BASELINE) if f"{role}/num_steps" in metrics
            },
            retention=metrics.get(_RETENTION),
            agreement=_agreement(metrics),
            diagnostics=_diagnostics(metrics, scores, float(run.params.get("loss.temperature", 1.0))),
            shipped=stored_shipped(metrics),
            costs={name: value for name, value in costs.items() if name.removesuffix(_PARAMETERS) not in scores},
            teacher_unchanged=metrics.get(_TEACHER_UNCHANGED) == 1,
        )


def contrast_metric(name: str) -> str:
    """`kd/gain_text` of `text`."""
    return f"{GAIN}_{name}"


def _gain_metrics(metric: str, gain: Gain) -> dict[str, float]:
    return {metric: gain.value, f"{metric}{_LOW}": gain.low, f"{metric}{_HIGH}": gain.high}


def _gain(metrics: Mapping[str, float], metric: str) -> Gain | None:
    if metric not in metrics:
        return None
    return Gain(metrics[metric], metrics.get(f"{metric}{_LOW}", np.nan), metrics.get(f"{metric}{_HIGH}", np.nan))


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
        number = metrics.get(f"cost/{role if is_teacher(role) else 'student'}{_PARAMETERS}")
        return None if number is None else int(number)

    return {role: Scores(**values, num_parameters=size(role)) for role, values in found.items()}


def _agreement_name(role: Role) -> str:
    if role == "student":
        return "kd/agreement"
    if is_teacher(role):
        return f"kd/agreement_{role.removeprefix('teacher_')}"
    return f"kd/{role}_agreement"


def _agreement(metrics: Mapping[str, float]) -> dict[Role, float]:
    agreement = {}
    for key, value in metrics.items():
        if key == "kd/agreement":
            agreement["student"] = value
        elif key.startswith("kd/agreement_"):
            agreement[f"teacher_{key.removeprefix('kd/agreement_')}"] = value
        elif key.startswith("kd/") and key.endswith("_agreement"):
            agreement[key.removeprefix("kd/").removesuffix("_agreement")] = value
    return agreement


def _diagnostics_metrics(diagnostics: Diagnostics) -> dict[str, float]:
    prefix = _DIAGNOSTICS[0]
    metrics = {
        f"{prefix}{role}_{name}": float(value)
        for role, statistics in diagnostics.tokenizers.items()
        for name, value in asdict(statistics).items()
    }
    if diagnostics.calibration is not None:
        metrics |= {
            f"{prefix}teacher_entropy": diagnostics.calibration.mean_entropy,
            f"{prefix}teacher_soft_entropy": diagnostics.calibration.mean_soft_entropy,
            f"{prefix}max_entropy": diagnostics.calibration.max_entropy,
        }
    return metrics


def _diagnostics(metrics: Mapping[str, float], scores: Mapping[Role, Scores], temperature: float) -> Diagnostics:
    found = {
        key.removeprefix(prefix): value
        for prefix in reversed(_DIAGNOSTICS)
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
