"""Metrics on resampled rows, all samples at once.

A sample of rows is the number of times that each row is in it: [samples, rows]. Every metric here is computed from
those counts and from what is sorted or counted once, and equals the metric of the rows themselves. `np.ones((1, n))`
is the rows as they are. Counts are whole numbers in float64, so that two models that answer alike score exactly alike.
"""

import numpy as np

Floats = np.ndarray


def row_counts(rows: np.ndarray, num_rows: int) -> Floats:
    """How often each row is in each sample: [samples, rows].

    Args:
        rows: [samples, rows], row numbers.
    """
    flat = rows + num_rows * np.arange(len(rows))[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(rows) * num_rows)
    return counts.reshape(len(rows), num_rows).astype(np.float64)


def class_counts(classes: np.ndarray, num_classes: int, rows: np.ndarray, kept: np.ndarray | None = None) -> Floats:
    """How often each class occurs in each sample: [samples, classes].

    Args:
        classes: [rows]
        rows: [samples, rows], row numbers.
        kept: [rows], truth values: only these count.
    """
    flat = classes[rows] + num_classes * np.arange(len(rows))[:, None]
    weights = None if kept is None else kept[rows].ravel().astype(np.float64)
    counts = np.bincount(flat.ravel(), weights=weights, minlength=len(rows) * num_classes)
    return counts.reshape(len(rows), num_classes).astype(np.float64)


def f1(hits: Floats, told: Floats) -> Floats:
    """2 TP / (2 TP + FP + FN); nan where there is neither a gold label nor an answer.

    Args:
        hits: TP.
        told: Gold labels and answers together: 2 TP + FP + FN.
    """
    return np.divide(2 * hits, told, out=np.full(hits.shape, np.nan), where=told > 0)


def matthews(correct: Floats, gold: Floats, told: Floats) -> Floats:
    """Correlation of answers with gold classes (Gorodkin 2004; of two classes Matthews 1975), 0 where one is constant.

    Args:
        correct: [samples], rows that are answered right.
        gold, told: [samples, classes], rows that have a class, and that are answered with it.
    """
    total = gold.sum(axis=-1)
    shared = correct * total - (gold * told).sum(axis=-1)
    spread = np.sqrt((total**2 - (told**2).sum(axis=-1)) * (total**2 - (gold**2).sum(axis=-1)))
    return np.divide(shared, spread, out=np.zeros_like(spread), where=spread > 0)


def mean_known(values: Floats) -> Floats:
    """Mean over the last axis of what is no nan; 0 where nothing is."""
    known = ~np.isnan(values)
    return np.where(known, values, 0.0).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)


def average_precision(scores: np.ndarray, gold: np.ndarray, counts: Floats) -> Floats:
    """Area under the steps of precision by recall: [samples]; nan where a sample has no gold yes.

    As scikit-learn's: rows with one score are one step.

    Args:
        scores: [rows]
        gold: [rows], 0 or 1.
        counts: [rows, samples]: this way round the rows of a sample lie far apart, and sorting them is quick.
    """
    if not gold.any():
        return np.full(counts.shape[1], np.nan)
    order = np.argsort(-scores, kind="stable")
    ends = _last_of_equals(scores[order])
    counts = counts[order]
    # Only steps that gain recall count: there are as many as gold yeses, which are few.
    yes = np.flatnonzero(gold[order])
    step = np.searchsorted(ends, yes)
    last = _last_of_equals(step)
    told = counts.cumsum(axis=0)[ends[step[last]]]
    hits = counts[yes].cumsum(axis=0)[last]
    precision = np.divide(hits, told, out=np.zeros_like(hits), where=told > 0)
    area = (np.diff(hits, axis=0, prepend=0.0) * precision).sum(axis=0)
    return np.divide(area, hits[-1], out=np.full(counts.shape[1], np.nan), where=hits[-1] > 0)


def pearson(left: np.ndarray, right: np.ndarray, counts: Floats) -> Floats:
    """Pearson's correlation: [samples]; 0 where one of both is constant, since it says nothing then.

    Args:
        left, right: [rows], or [samples, rows].
    """
    total = counts.sum(axis=1)
    left, right = (values - _mean(values, counts, total) for values in (_scaled(left), _scaled(right)))
    covariance = (counts * left * right).sum(axis=1)
    spread = np.sqrt((counts * left**2).sum(axis=1) * (counts * right**2).sum(axis=1))
    return np.divide(covariance, spread, out=np.zeros(len(counts)), where=spread > 1e-12 * total)


def spearman(left: np.ndarray, right: np.ndarray, counts: Floats) -> Floats:
    """Spearman's correlation: Pearson's of the ranks, of which equals share their mean: [samples].

    Args:
        left, right: [rows]
    """
    return pearson(_ranks(left, counts), _ranks(right, counts), counts)


def _ranks(values: np.ndarray, counts: Floats) -> Floats:
    """[samples, rows]: the rank of each row's value among those that are in the sample."""
    order = np.argsort(values, kind="stable")
    ends = _last_of_equals(values[order])
    group = np.searchsorted(ends, np.arange(len(values)))
    below = counts[:, order].cumsum(axis=1)[:, ends]
    start = np.concatenate([np.zeros((len(counts), 1)), below[:, :-1]], axis=1)
    ranks = np.empty_like(counts)
    ranks[:, order] = ((start + below + 1) / 2)[:, group]
    return ranks


def _last_of_equals(ordered: np.ndarray) -> np.ndarray:
    """Places of the last of each run of equal values."""
    return np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def _scaled(values: np.ndarray) -> Floats:
    """Around zero and of the size of one: a correlation does not change, and small numbers do not vanish."""
    values = np.asarray(values, dtype=np.float64)
    values = values - values.mean(axis=-1, keepdims=True)
    largest = np.abs(values).max(axis=-1, keepdims=True)
    return values / np.where(largest > 0, largest, 1.0)


def _mean(values: Floats, counts: Floats, total: Floats) -> Floats:
    return ((counts * values).sum(axis=1) / total)[:, None]
