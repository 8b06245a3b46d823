"""How numbers are said: at the end of a run, in a sweep's summary and in a study's report."""

import math

METRICS = {
    "accuracy": "accuracy",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "macro_recall": "mean recall",
    "map": "mAP",
    "matthews": "Matthews correlation",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "mae": "MAE",
    "nll": "NLL",
    "ece": "ECE",
}
"""What metrics are called; one that is not here goes by its own name."""


SHARES = ("accuracy", "micro_f1", "macro_f1", "macro_recall", "map")
"""Metrics that are shown in percent; of each, larger is better."""


def is_share(metric: str) -> bool:
    """Whether it is shown in percent."""
    return metric in SHARES or metric.endswith(("accuracy", "f1"))


def score(value: float, metric: str) -> str:
    """A share in percent, another metric as it is."""
    return f"{value:.2%}" if is_share(metric) else f"{value:.3f}"


def heading(metric: str) -> str:
    """`accuracy, %` over numbers without their unit."""
    return f"{metric}, %" if is_share(metric) else METRICS.get(metric, metric)


def points_of(metric: str) -> str:
    """What a difference is counted in: 100 times the metric."""
    return "points" if is_share(metric) else f"hundredths of {METRICS.get(metric, metric)}"


def points(value: float) -> str:
    """Signed, two decimals; what rounds to zero is +0.00, never -0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def interval(low: float, high: float) -> str:
    """`[+0.10, +0.30]` of bounds in points; nothing where they are unknown."""
    return "" if math.isnan(low) else f"[{points(low)}, {points(high)}]"


def mean_and_spread(mean: float, spread: float, metric: str, *, with_unit: bool = False) -> str:
    """`83.20 ± 0.15` of shares, in percent; without a spread where it is unknown."""
    factor, decimals, unit = (100, 2, " %" if with_unit else "") if is_share(metric) else (1, 4, "")
    told = f"{factor * mean:.{decimals}f}{unit}"
    return told + ("" if math.isnan(spread) else f" ± {factor * spread:.{decimals}f}")


def p_value(value: float | None) -> str:
    """Three decimals; nothing where there is none."""
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def change(value: float, low: float, high: float) -> str:
    """What the interval of a file's score minus the student's allows to say, in points."""
    if low <= 0 <= high:
        return "within noise"
    return f"{'gains' if low > 0 else 'loses'} {abs(value):.2f} {interval(low, high)}"
