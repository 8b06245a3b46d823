"""How good the answers are: of one model, and of a student beside its teacher and its baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from scipy.special import log_softmax, softmax
from scipy.stats import bootstrap
from sklearn.metrics import ConfusionMatrixDisplay, f1_score
from torch import Tensor


def classification_metrics(logits: Tensor, labels: Sequence[int]) -> dict[str, float]:
    """Accuracy, macro-F1, NLL and calibration error.

    Args:
        logits: [rows, classes]
        labels: [rows], class indices

    Returns:
        `accuracy`, `macro_f1` (over the classes that occur in labels or answers), `nll` (mean, nats)
        and `ece`.
    """
    scores = logits.float().numpy().astype(np.float64)
    gold = np.asarray(labels)
    answers = scores.argmax(axis=-1)
    return {
        "accuracy": float((answers == gold).mean()),
        "macro_f1": float(f1_score(gold, answers, average="macro", zero_division=0)),
        "nll": float(-log_softmax(scores, axis=-1)[np.arange(len(gold)), gold].mean()),
        "ece": expected_calibration_error(softmax(scores, axis=-1), gold),
    }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, num_bins: int = 15) -> float:
    """Mean gap between confidence and accuracy over equally wide bins of confidence.

    See Guo et al. 2017, https://arxiv.org/abs/1706.04599, eq. 3.

    Args:
        probabilities: [rows, classes]
        labels: [rows]
    """
    confidence = probabilities.max(axis=-1)
    correct = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    gap_sums = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gap_sums).sum() / len(labels))


@dataclass(frozen=True)
class Gain:
    """Student minus baseline, with the 95 % interval that the choice of test rows leaves open."""

    value: float
    low: float
    high: float


def paired_gain(student: Tensor, baseline: Tensor, labels: Sequence[int]) -> Gain:
    """Difference in accuracy between two models on the same rows.

    The interval is a paired bootstrap over test rows (percentile, 2,000 resamples, fixed seed). It
    says how the gain would vary on other test rows, not with other seeds of the training.

    Args:
        student, baseline: logits, [rows, classes]
        labels: [rows]
    """
    gold = np.asarray(labels)
    difference = (student.argmax(-1).numpy() == gold).astype(float) - (baseline.argmax(-1).numpy() == gold)
    value = float(difference.mean())
    if len(gold) < 2 or not difference.std():
        return Gain(value, value, value)
    interval = bootstrap(
        (difference,),
        np.mean,
        n_resamples=2000,
        batch=100,  # of resamples at a time: bounds the memory on large test sets
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Gain(value, float(interval.low), float(interval.high))


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of rows on which two models predict the same class. Args are logits, [rows, classes]."""
    return float((student.argmax(-1) == teacher.argmax(-1)).float().mean())


def confusion_matrices_figure(
    logits: Mapping[str, Tensor], labels: Sequence[int], label_names: Sequence[str], split: str
) -> Figure:
    """Gold classes against predicted ones, as shares of each gold class: one panel per model.

    Args:
        logits: [rows, classes] by model.
    """
    size = min(4 + 0.35 * len(label_names), 20)
    figure = Figure(figsize=(size * len(logits), size), layout="constrained")
    panels = figure.subplots(1, len(logits), squeeze=False)[0]
    for axes, (model, answers) in zip(panels, logits.items(), strict=True):
        ConfusionMatrixDisplay.from_predictions(
            list(labels),
            answers.argmax(-1).tolist(),
            labels=list(range(len(label_names))),
            display_labels=list(label_names),
            normalize="true",
            include_values=len(label_names) <= 20,
            values_format=".2f",
            xticks_rotation="vertical",
            cmap="Blues",
            colorbar=False,
            ax=axes,
        )
        axes.set_title(f"{model} on {split}")
    return figure
