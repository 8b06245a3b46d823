"""What the study of which student to ship says: findings, table and pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdexp.export.config import BudgetConfig
from kdexp.results import wording
from kdexp.results.statistics import PairedDifference
from kdexp.study.choose_student.rules import Chosen, Option, front

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {"latency_ms": "ms, one text on one thread", "size_mb": "MB on disk"}

LIMITS = (
    "Fronts and choice are by the mean on validation; scores, gains and intervals are on test (95 %, paired t over "
    "seeds). Students are compared by means over few seeds: neighbours on the front may be equal."
)


def findings(found: Sequence[Option], chosen: Chosen | None, budget: BudgetConfig, metric: str) -> list[str]:
    """The answer in plain sentences.

    Args:
        found: Those that compete.
    """
    points = wording.points_of(metric)
    lines = [
        f"no other file is better on validation at no more {meaning}: "
        + "; ".join(option.name for option in front(found, cost))
        for cost, meaning in COSTS.items()
    ]
    limits = {"latency_ms": budget.latency_ms, "size_mb": budget.size_mb}
    told = ", ".join(f"{name}={limit:g}" for name, limit in limits.items() if limit is not None)
    within = f"within the budget ({told})" if told else "without a budget (budget.latency_ms=, budget.size_mb=)"
    if chosen is None:
        cheapest = {cost: min(getattr(option, cost) for option in found) for cost in limits}
        least = ", ".join(f"{cost}={value:.2g}" for cost, value in cheapest.items())
        return [*lines, f"nothing is {within}: the least are {least}"]
    option = chosen.option
    lines.append(f"chosen on validation {within}: {option.name} ({_costs(option)})")
    if chosen.near:
        near = "; ".join(f"{other.name} ({_costs(other)})" for other in chosen.near)
        lines.append(f"within one paired standard error of it on validation, and faster or smaller: {near}")
    return [
        *lines,
        f"against the teacher, on test: {shown(option.behind_teacher())} {points}",
        f"of these the smaller model alone makes {shown(option.smaller_model())}, and {_worth(option.gain())}",
    ]


def _costs(option: Option) -> str:
    return f"{option.latency_ms:.2f} ms, {option.size_mb:.1f} MB"


def _worth(gain: PairedDifference) -> str:
    if gain.interval is None:
        return f"distillation {shown(gain)} (one seed, or seeds that do not differ: no interval)"
    if gain.interval.low > 0:
        return f"distillation adds {shown(gain)}"
    if gain.interval.high < 0:
        return f"distillation takes {shown(gain)}: without a teacher the same student is better"
    return f"distillation {shown(gain)}: that it makes a difference is not shown"


def shown(difference: PairedDifference) -> str:
    """`+1.20 [+0.80, +1.60]`, in points."""
    interval = difference.interval
    return wording.points(difference.mean) + (f" {wording.interval(interval.low, interval.high)}" if interval else "")


def options_table(found: Sequence[Option], competing: Sequence[Option], metric: str) -> "pd.DataFrame":
    """Every file of every student, the best on validation first."""
    import pandas as pd

    fronts = {cost: {option.name for option in front(competing, cost)} for cost in COSTS}
    ordered = sorted(found, key=lambda option: -option.mean_validation)
    return pd.DataFrame(
        {
            "student": option.student,
            "file": option.file,
            "ms": f"{option.latency_ms:.2f}",
            "MB": f"{option.size_mb:.1f}",
            f"validation {wording.heading(metric)}": wording.mean_and_spread(option.mean_validation, np.nan, metric),
            f"test {wording.heading(metric)}": _score(option.score(), metric),
            f"against the teacher, {wording.points_of(metric)}": shown(option.behind_teacher()),
            f"gain, {wording.points_of(metric)}": shown(option.gain()),
            "seeds": len(option.seeds),
            "front": " ".join(cost.partition("_")[0] for cost in COSTS if option.name in fronts[cost]),
        }
        for option in ordered
    )


def _score(score: PairedDifference, metric: str) -> str:
    """`83.20 [81.15, 85.25]` of shares, in percent."""
    factor, decimals = (1, 2) if wording.is_share(metric) else (0.01, 4)
    told = [score.mean, *((score.interval.low, score.interval.high) if score.interval else ())]
    mean, *ends = (f"{factor * value:.{decimals}f}" for value in told)
    return mean + (f" [{', '.join(ends)}]" if ends else "")


def front_figure(found: Sequence[Option], cost: str, metric: str, chosen: Option | None) -> "Figure":
    """Test score with its interval over seeds against a cost, on a logarithmic axis.

    The front is drawn, the chosen one ringed, and the teacher's score a line.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for file, marker in zip(dict.fromkeys(option.file for option in found), "os^D", strict=False):
        _draw(axes, [option for option in found if option.file == file], cost, marker)
    best = front(found, cost)
    axes.plot([getattr(option, cost) for option in best], [100 * option.mean_test for option in best], "-", alpha=0.5)
    for option in best:
        axes.annotate(
            option.student, (getattr(option, cost), 100 * option.mean_test), (4, 4), fontsize=8,
            textcoords="offset points",
        )  # fmt: skip
    if chosen:
        axes.plot(getattr(chosen, cost), 100 * chosen.mean_test, "o", markersize=14, fillstyle="none", label="chosen")
    teacher = 100 * float(np.nanmean([option.teacher_test for option in found]))
    axes.axhline(teacher, linestyle=":", color="gray", label="teacher")
    axes.set_xscale("log")
    axes.set_xlabel(COSTS[cost])
    axes.set_ylabel(f"test {wording.heading(metric) if wording.is_share(metric) else wording.points_of(metric)}")
    axes.legend()
    return figure


def _draw(axes: "Axes", options: Sequence[Option], cost: str, marker: str) -> None:
    scores = [option.score() for option in options]
    ends = [(score.interval.low, score.interval.high) if score.interval else (score.mean,) * 2 for score in scores]
    lengths = [
        [score.mean - low for score, (low, _) in zip(scores, ends, strict=True)],
        [high - score.mean for score, (_, high) in zip(scores, ends, strict=True)],
    ]
    axes.errorbar(
        [getattr(option, cost) for option in options], [score.mean for score in scores], lengths,
        fmt=marker, capsize=2, elinewidth=0.7, label=options[0].file,
    )  # fmt: skip
