"""How good the answers are: of one model, and of a student beside its teacher and its baseline."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log_softmax, softmax
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
    from sklearn.metrics import f1_score  # loads scipy.stats and pandas

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


def agreement(student: Tensor, teacher: Tensor) -> float:
    """Share of rows on which two models predict the same class. Args are logits, [rows, classes]."""
    return float((student.argmax(-1) == teacher.argmax(-1)).float().mean())
