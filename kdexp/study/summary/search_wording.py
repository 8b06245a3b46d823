"""What a search found, in sentences: the best of student and baseline, each confirmed on seeds that chose nothing."""

import numpy as np

from kdexp.results import verdict, wording
from kdexp.results.metric_names import SPLITS
from kdexp.study.search_stage import STAGE, Stage
from kdexp.study.summary.settings import StudySummary, setting_label

_SIDES = {
    "student": (Stage.winner, Stage.trial, Stage.confirmed),
    "baseline": (Stage.baseline_winner, Stage.baseline_trial, Stage.baseline),
}


def search_lines(summary: StudySummary) -> list[str]:
    """Who won, what confirms it, and the gain at equal tuning."""
    lines = [_side(summary, side) for side in _SIDES]
    comparison = summary.equal_tuning
    if comparison is not None:
        lines.append(
            f"Gain at equal tuning, both searched and both confirmed: "
            f"{wording.points(comparison.difference.mean)} {wording.points_of(summary.metric)} "
            f"({verdict.over_seeds(comparison.difference, comparison.bootstrap)}): "
            f"{verdict.claim(comparison.finding)}."
        )
    if Stage.defaults in summary.stages:
        line = f"As it was set before the search: {_measured(summary, Stage.defaults)}"
        lines.append(f"{line}{', on validation no worse than what was found' if _found_nothing(summary) else ''}.")
    return [line for line in lines if line]


def _side(summary: StudySummary, side: str) -> str:
    winner, trial, confirmed = _SIDES[side]
    won, others = summary.stages.get(winner, []), summary.stages.get(trial, [])
    if not won:
        if confirmed in summary.stages:
            return f"The {side} has none of the settings that were searched: {_measured(summary, confirmed)}."
        return ""
    row = summary.table[summary.table[STAGE] == winner].iloc[0]
    score = wording.mean_and_spread(row["validation"], np.nan, summary.metric, with_unit=True)
    line = (
        f"The {side}'s best of {len(won) + len(others)} finished trials on validation: "
        f"{setting_label(row, summary.settings)} "
        f"({score} with the seed that chose it)"
    )
    if confirmed in summary.stages:
        return f"{line}; with other seeds {_measured(summary, confirmed)}."
    return f"{line}; not confirmed yet."


def _found_nothing(summary: StudySummary) -> bool:
    """Whether what was set before is as good on validation as what won, both on seeds that chose nothing."""
    found, before = (summary.stages.get(stage, []) for stage in (Stage.confirmed, Stage.defaults))
    if not found or not before:
        return False
    found_mean, mean_before = (
        np.mean([record.score("validation") for record in records]) for records in (found, before)
    )
    return bool(mean_before >= found_mean)


def _measured(summary: StudySummary, stage: Stage) -> str:
    """`validation 57.90 % ± 0.80, test 55.55 % ± 1.20 (3 seeds)`"""
    records = summary.stages[stage]
    told = []
    for split in SPLITS:
        values = np.array([record.score(split) for record in records], dtype=float)
        spread = values.std(ddof=1) if len(values) > 1 else np.nan
        told.append(f"{split} {wording.mean_and_spread(values.mean(), spread, summary.metric, with_unit=True)}")
    return f"{', '.join(told)} ({len(records)} seed{'' if len(records) == 1 else 's'})"
