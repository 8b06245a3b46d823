"""What the numbers of a run are called in MLflow, spelled here and nowhere else."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kdexp.results.roles import Role, is_teacher
from kdexp.results.statistics import Gain

if TYPE_CHECKING:
    from kdexp.model.encoder import Encoder
    from kdexp.model.legibility import Legibility

SPLITS = ("validation", "test")

COMPARED = "kd/"
"""What the names begin with that tell student, baseline and teacher beside each other."""
GAIN, RETENTION = "kd/gain", "kd/retention"
TEACHER_UNCHANGED = "checks/teacher_unchanged"
COST, DIAGNOSTICS = "cost/", "diagnostics/"
# Until version 0.1 they were called readings: old stores are read by that name.
DIAGNOSTICS_OF_OLD = "reading/"

_AGREEMENT = "kd/agreement"
_LOW, _HIGH = "_low", "_high"


def metric_name(split: str, metric: str, role: Role = "student") -> str:
    """`test/accuracy` of the student, `baseline/test/accuracy` of another role."""
    return f"{split}/{metric}" if role == "student" else f"{role}/{split}/{metric}"


def contrast_metric(name: str) -> str:
    """`kd/gain_text` of `text`."""
    return f"{GAIN}_{name}"


def cost_metric(name: str) -> str:
    """`cost/student_steps` of `student_steps`."""
    return f"{COST}{name}"


def parameters_metric(role: Role) -> str:
    """How many weights a model has; all but teachers are the student, trained or written differently."""
    return cost_metric(f"{role if is_teacher(role) else 'student'}_parameters")


def agreement_metric(role: Role) -> str:
    """How far two models answer alike: `kd/agreement` of the student, which is compared with its teacher."""
    if role == "student":
        return _AGREEMENT
    if is_teacher(role):
        return f"{_AGREEMENT}_{role.removeprefix('teacher_')}"
    return f"{COMPARED}{role}_agreement"


def agreement_role(metric: str) -> Role | None:
    """The inverse of `agreement_metric`; None of another metric."""
    if metric == _AGREEMENT:
        return "student"
    if metric.startswith(f"{_AGREEMENT}_"):
        return f"teacher_{metric.removeprefix(f'{_AGREEMENT}_')}"
    if metric.startswith(COMPARED) and metric.endswith("_agreement"):
        return metric.removeprefix(COMPARED).removesuffix("_agreement")
    return None


def gain_metrics(metric: str, gain: Gain) -> dict[str, float]:
    """A difference and its interval: `kd/gain`, `kd/gain_low`, `kd/gain_high`."""
    return {metric: gain.value, f"{metric}{_LOW}": gain.low, f"{metric}{_HIGH}": gain.high}


def stored_gain(metrics: Mapping[str, float], metric: str) -> Gain | None:
    """The inverse of `gain_metrics`; None where there is none."""
    if metric not in metrics:
        return None
    return Gain(metrics[metric], metrics.get(f"{metric}{_LOW}", np.nan), metrics.get(f"{metric}{_HIGH}", np.nan))


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
