"""A sweep's answer in plain sentences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from kdexp.results import verdict, wording
from kdexp.results.metric_names import SPLITS
from kdexp.results.statistics import Gain
from kdexp.study.summary.control_wording import control_lines
from kdexp.study.summary.file_wording import file_lines
from kdexp.study.summary.search_wording import search_lines
from kdexp.study.summary.settings import StudySummary, setting_label

_MOST_NAMED = 5
_JUDGED = {
    "cross_family": "What crossing families does is judged",
    "few_labels": "What a teacher is worth, in labelled rows, is told",
    "choose_student": "Which student ships, and as which file, is told",
}


def findings(summary: StudySummary) -> list[str]:
    """The answer in plain sentences."""
    best = summary.best
    if best is None:
        return ["No run is finished yet."]
    if summary.is_judged_elsewhere:
        said = [f"{summary.verdict}."] if summary.verdict else []
        return [*said, f"{_JUDGED[summary.kind]} in the study's own report: {summary.kind}/report.html."]
    is_repeated = best["seeds"] > 1
    seeds = f"{best['seeds']:.0f} seeds" if is_repeated else "1 seed"
    validation, test = (
        wording.mean_and_spread(best[name], best[f"{name}_spread"], summary.metric, with_unit=True) for name in SPLITS
    )
    low, high = (wording.mean_and_spread(best[name], np.nan, summary.metric) for name in ("test_low", "test_high"))
    interval = "" if np.isnan(best["test_low"]) else f" (95 % [{low}, {high}] over seeds, t)"
    chosen = [
        f"{_opening(summary, best)} (validation {summary.metric} {validation}, {seeds}).",
        *([] if summary.varies_no_student else _choice_lines(summary)),
    ]
    # A file of answers may say nothing of the test rows.
    teacher = "" if pd.isna(best["teacher_test"]) else f"; teacher {_score(summary, best['teacher_test'])}"
    whose = "The student" if summary.stages else "Its result"
    lines = [
        *(search_lines(summary) if summary.stages else chosen),
        f"{whose} on test: {test}{interval}{teacher}.",
        *_gain_lines(summary),
        *(f"{'Over the test rows of all seeds' if is_repeated else 'On test'}: {said}." for said in summary.notices),
        *_control_lines(summary),
        *file_lines(summary.files, summary.chosen),
    ]
    if summary.table["seeds"].max() < 3:
        setting = "hydra.sweeper.search.confirm_seeds=[1,2,3,4,5]" if summary.stages else "seed=0,1,2,3,4"
        lines.append(f"Fewer than three seeds: repeat with {setting} before you believe a difference.")
    return lines


def _score(summary: StudySummary, value: float) -> str:
    return wording.mean_and_spread(value, np.nan, summary.metric, with_unit=True)


def _opening(summary: StudySummary, best: pd.Series) -> str:
    """Among how many settings the best one was chosen; of one, nothing was."""
    assert summary.choice
    num_compared = len(summary.table) - len(summary.choice.incomplete)
    label = setting_label(best, summary.settings)
    if summary.varies_no_student:
        varied = " and ".join(summary.varied)
        return f"Nothing to choose, as {varied} is measured beside the student and does not change it"
    if num_compared > 1:
        return f"Chosen on validation among {num_compared} settings: {label}"
    return "One setting" if len(summary.table) == 1 else f"One setting is finished: {label}"


def _choice_lines(summary: StudySummary) -> list[str]:
    """On what the choice rests, and how sure it is."""
    choice = summary.choice
    assert choice
    lines, seeds = [], ", ".join(f"{seed:g}" if isinstance(seed, float) else str(seed) for seed in choice.seeds)
    if not choice.is_complete:
        lines.append(f"No setting is finished on every planned seed: compared on seed {seeds} alone.")
    if choice.incomplete:
        lines.append(
            f"Not compared, since not finished on seed {seeds}: {_named(summary, choice.incomplete, with_score=True)}."
        )
    if choice.tied:
        lines.append(
            f"The same on validation: {_named(summary, choice.tied)}; fewer steps, then the sweep's order, decide."
        )
    if choice.near:
        lines.append(f"Within one paired standard error of it on validation: {_named(summary, choice.near)}.")
    return lines


def _named(summary: StudySummary, places: Sequence[int], *, with_score: bool = False) -> str:
    labels = []
    for place in places[:_MOST_NAMED]:
        row = summary.table.iloc[place]
        score = f" ({row['seeds']:.0f} finished, {_score(summary, row['validation'])})" if with_score else ""
        labels.append(setting_label(row, summary.settings) + score)
    more = len(places) - len(labels)
    return "; ".join(labels) + (f" and {more} more" if more else "")


def _control_lines(summary: StudySummary) -> list[str]:
    if summary.evidence is None or all(record.takes_nothing for record in summary.chosen):
        return []
    return control_lines(summary.evidence, summary.chosen)


def _gain_lines(summary: StudySummary) -> list[str]:
    """What the chosen setting gains, and what that allows to be said."""
    evidence, best = summary.evidence, summary.best
    if evidence is None or best is None:
        return []
    if all(record.takes_nothing for record in summary.chosen):
        return [f"Gain over the same student without a teacher: {verdict.NOTHING_TAKEN}."]
    points = wording.points_of(summary.metric)
    gain = f"Gain over the same student without a teacher: {wording.points(evidence.difference.mean)} {points}"
    if evidence.difference.num_seeds == 1:
        interval = wording.interval(100 * best["rows_low"], 100 * best["rows_high"])
        said = verdict.claim_of_one_seed(Gain(best["gain"], best["rows_low"], best["rows_high"]))
        return [f"{gain} (95 % {interval} over test rows; one seed): {said}."]
    lines = [f"{gain} ({verdict.over_seeds(evidence.difference, evidence.bootstrap)}): "]
    lines[0] += f"{verdict.claim(evidence.finding)}."
    lines += [
        f"Its gain in {wording.METRICS.get(name, name)}: {wording.points(difference.mean)} "
        f"{wording.points_of(name)} "
        f"({verdict.over_seeds(difference)})."
        for name, difference in evidence.others.items()
    ]
    return lines
