"""The report of the study `few_labels`: curves, one sentence, and what it speaks of."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kdexp.config import Config
from kdexp.results import wording
from kdexp.results.metric_names import cost_metric
from kdexp.results.report import (
    Block,
    BulletList,
    FigureBlock,
    Heading,
    Paragraph,
    TableBlock,
)
from kdexp.results.statistics import paired_t
from kdexp.results.terminal import print_blocks
from kdexp.study.about import about_blocks, log_report
from kdexp.study.few_labels.label_worth import Ladder, Rows, Worth
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.store import StoredRun

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

TITLE = "What are few labels worth with a teacher?"


def report_study(runs: Sequence[StoredRun], parent: TrackedRun, config: Config) -> None:
    """Read what was measured, log curves, report and sentence to the parent run, and print the findings."""
    if not runs:
        return
    ladder = Ladder.of(runs)
    if not ladder.seeds or len(ladder.sizes) < 2:
        logger.warning("no seed has finished two sizes yet: there is no curve to read")
        return
    found = ladder.worth()
    if not found:
        logger.warning("no size with a teacher is finished with every seed: nothing to compare")
        return
    size = config.few_labels.labelled or sorted(found)[min(1, len(found) - 1)]
    size = size if size in found else min(found)
    sentence = worth_sentence(size, found[size], ladder.sizes)
    opening: list[Block] = [Paragraph(f"{sentence}."), BulletList(_facts(runs, ladder, size))]
    table = _table(ladder, found)
    figure, points = _figure(ladder), wording.points_of(ladder.metric)
    blocks: list[Block] = [
        *opening,
        FigureBlock(figure, f"Test {ladder.metric} in {points} by labelled rows, with 95 % intervals over seeds."),
        TableBlock(table, "In brackets 95 % intervals over seeds."),
        *about_blocks(runs),
    ]
    log_report(TITLE, blocks, parent, "few_labels")
    parent.log_table(table, "few_labels/curves.csv")
    parent.log_figure(figure, "few_labels/curves.png")
    _log_curves(ladder, found, parent)
    parent.set_tags({"kdexp.verdict.few_labels": sentence})
    print_blocks([Heading(TITLE), *opening, TableBlock(table)])


def worth_sentence(size: int, found: Worth, sizes: Sequence[int]) -> str:
    """`250 labelled rows and the teacher do as well as about 1,400 labelled rows without it [900, 2,300]`"""
    rows, smallest, most = found.rows, sizes[0], sizes[-1]
    if rows.number is not None:
        what = f"do as well as about {rounded(rows.number):,} labelled rows without it"
    elif rows.is_more and rows == found.low:
        what = f"do better than all {most:,} labelled rows without it"
    elif rows.is_more:
        what = f"do at least as well as all {most:,} labelled rows without it, as far as these seeds tell"
    else:
        what = f"do no better than {smallest:,} labelled rows without it, the fewest measured"
        what += "" if rows == found.high else ", as far as these seeds tell"
    return f"{size:,} labelled rows and the teacher {what} {shown_interval(found, sizes)}"


def shown_interval(found: Worth, sizes: Sequence[int]) -> str:
    """`[150, more than all 1,600]`, in labelled rows."""
    if found.low is None or found.high is None:
        return "(no interval: it takes two seeds that differ)"
    low, high = (_bound(bound, sizes) for bound in (found.low, found.high))
    return f"[{low}]" if low == high else f"[{low}, {high}]"


def _bound(rows: Rows, sizes: Sequence[int]) -> str:
    if rows.number is not None:
        return f"{rounded(rows.number):,}"
    return f"more than all {sizes[-1]:,}" if rows.is_more else f"fewer than {sizes[0]:,}"


def rounded(number: float) -> int:
    """To two digits: an interval says how little the third one means."""
    return int(float(f"{number:.2g}"))


def _facts(runs: Sequence[StoredRun], ladder: Ladder, size: int) -> list[str]:
    """What the sentence speaks of."""
    place = ladder.sizes.index(size)
    means = {name: 100 * float(scores[:, place].mean()) for name, scores in ladder.scores.items()}
    told = ", ".join(
        f"{name} {means[key]:.2f}"
        for key, name in (
            ("baseline", "without a teacher"),
            ("pseudo_labels", "with its hard answers"),
            ("distilled", "with its probabilities"),
            ("teacher", "the teacher"),
        )
        if not np.isnan(means[key])
    )
    validation = max(int(run.tags["kdexp.validation_rows"]) for run in runs)
    facts = [
        f"Test {ladder.metric} with {size:,} labelled rows, in {wording.points_of(ladder.metric)}: {told}.",
        _teacher(runs, ladder.sizes),
        _coverage(runs, len(ladder.seeds)),
        *_steps(runs),
        f"Each training keeps the best epoch on {validation:,} further labelled rows"
        + (", more than the smallest setting has." if validation > ladder.sizes[0] else "."),
    ]
    if ladder.left_out:
        seeds = ", ".join(map(str, ladder.left_out))
        facts.append(f"Not counted, because they have not finished every size: seeds {seeds}.")
    return facts


def _coverage(runs: Sequence[StoredRun], num_seeds: int) -> str:
    """What else the interval, where there is one, lets vary."""
    drawn = {run.params["seed"]: run.params.get("task.subset_seed", "None") for run in runs if _is_taught(run)}
    is_tied = all(subset == seed for seed, subset in drawn.items())
    if num_seeds == 1:
        return "One seed and one choice of labelled rows: nothing is said of others; go on with seed=0,1,2,3,4."
    if not is_tied:
        return (
            f"{num_seeds} seeds on the same labelled rows: the interval speaks of other seeds, with these labelled "
            "rows, with this teacher and on these test rows."
        )
    return (
        f"{num_seeds} seeds, each with labelled rows of its own: the interval speaks of other seeds and other "
        "labelled rows, with this teacher and on these test rows."
    )


def _is_taught(run: StoredRun) -> bool:
    """Whether it has a teacher: the last rung is the baseline on all labels."""
    return run.params.get("loss.alpha") != "1"


def _steps(runs: Sequence[StoredRun]) -> list[str]:
    """How long they were trained: a baseline that learns slowly makes a teacher look like many labels."""
    name = cost_metric("student_steps")
    steps = sorted({int(run.metrics[name]) for run in runs if name in run.metrics})
    if not steps:
        return []
    told = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    return [f"Every student was trained for {told} steps, whatever it learned from; none was tuned."]


def _teacher(runs: Sequence[StoredRun], sizes: Sequence[int]) -> str:
    """Whose labels the teacher learned from."""
    taught = [run for run in runs if _is_taught(run)] or list(runs)
    name = taught[0].params.get("teacher.name", "teacher")
    checkpoint = taught[0].params.get("teacher.checkpoint")
    if not any(run.metrics.get(cost_metric("teacher_train_seconds")) for run in taught):
        return f"The teacher ({checkpoint or name}) was given: it had learned the task before."
    made = f"{name}, pretrained" if checkpoint else f"{name}, a compact model from scratch"
    if taught[0].params.get("teacher.learns_from") == "all":
        return f"The teacher ({made}) learned from all {sizes[-1]:,} labels, of which the student has only its own."
    return f"The teacher ({made}) learned from the same few labelled rows as the student."


def _table(ladder: Ladder, found: Mapping[int, Worth]) -> "pd.DataFrame":
    import pandas as pd

    names = {"baseline": "baseline", "pseudo_labels": "pseudo-labels", "distilled": "distilled", "teacher": "teacher"}
    columns: dict[str, list] = {"labelled rows": [f"{size:,}" for size in ladder.sizes]}
    for key, name in names.items():
        columns[name] = [_cell(ladder.scores[key][:, place]) for place in range(len(ladder.sizes))]
    columns["worth, in labelled rows"] = [
        _worth_cell(found[size], ladder.sizes) if size in found else "" for size in ladder.sizes
    ]
    return pd.DataFrame({name: values for name, values in columns.items() if any(values)})


def _worth_cell(found: Worth, sizes: Sequence[int]) -> str:
    return f"{_bound(found.rows, sizes)} {shown_interval(found, sizes)}"


def _cell(scores: np.ndarray) -> str:
    if np.isnan(scores).any():
        return ""
    found = paired_t(100 * scores)
    interval = "" if found.interval is None else f" [{found.interval.low:.2f}, {found.interval.high:.2f}]"
    return f"{found.mean:.2f}{interval}"


def _figure(ladder: Ladder) -> "Figure":
    from kdexp.results.figures import CurvePoint, learning_curves_figure

    def points(scores: np.ndarray) -> list[CurvePoint]:
        return [
            CurvePoint(size, found.mean, found.interval)
            for size, column in zip(ladder.sizes, scores.T, strict=True)
            if not np.isnan(column).any()
            for found in [paired_t(100 * column)]
        ]

    shown = {"baseline": "without a teacher", "pseudo_labels": "hard answers of the teacher"}
    shown |= {"distilled": "probabilities of the teacher", "teacher": "the teacher itself"}
    curves = {shown[name]: points(scores) for name, scores in ladder.scores.items()}
    return learning_curves_figure(
        {name: curve for name, curve in curves.items() if curve},
        "labelled rows",
        f"test {ladder.metric}, {wording.points_of(ladder.metric)}",
    )


def _log_curves(ladder: Ladder, found: Mapping[int, Worth], parent: TrackedRun) -> None:
    """As metrics whose step is the number of labelled rows."""
    for place, size in enumerate(ladder.sizes):
        metrics = {}
        for name, scores in ladder.scores.items():
            if np.isnan(scores[:, place]).any():
                continue
            curve = paired_t(scores[:, place])
            metrics[f"few_labels/{name}"] = curve.mean
            if curve.interval:
                metrics |= {
                    f"few_labels/{name}_low": curve.interval.low,
                    f"few_labels/{name}_high": curve.interval.high,
                }
        if size in found:
            ends = {"": found[size].rows, "_low": found[size].low, "_high": found[size].high}
            metrics |= {
                f"few_labels/worth{end}": rows.number for end, rows in ends.items() if rows and rows.number is not None
            }
        parent.log_metrics(metrics, step=size)
