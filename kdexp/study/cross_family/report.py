"""The report of a cross-family study: figures, tables, and what they say in plain words."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdexp.results import figures, wording
from kdexp.results.diagnostics import Calibration, TokenizerStatistics, calibration_table, tokenizer_table
from kdexp.results.report import Block, BulletList, FigureBlock, Heading, Paragraph, TableBlock
from kdexp.results.statistics import PairedDifference, exact_mcnemar
from kdexp.results.verdict import ALPHA, Finding
from kdexp.study.cross_family.rules import (
    CONDITIONS,
    OWN_TOKENS,
    Contrast,
    Question,
    Verdict,
    explained_by_teachers,
    has_examples,
)
from kdexp.study.cross_family.wording import (
    CONDITION_NAMES,
    WARNINGS,
    claim,
    mechanism_claim,
    mechanism_sentences,
    show_interval,
)

TITLE = "May families be crossed?"
_COLOURS = {
    Finding.better: "#1a7f37",
    Finding.worse: "#b3261e",
    Finding.equivalent: "#1f5fbf",
    Finding.unsettled: "#777777",
}


def report_blocks(
    verdict: Verdict,
    runs: pd.DataFrame,
    *,
    metric: str,
    data: str,
    tokenizers: Mapping[str, TokenizerStatistics],
    calibrations: Mapping[str, Calibration],
    notes: Sequence[str] = (),
    about: Sequence[Block] = (),
) -> list[Block]:
    """The verdict first; then the numbers, what else differs, how it was judged, and what was run.

    Args:
        runs: As `rules.judge` takes them.
        metric: Name of the metric, such as `accuracy`.
        data: What was measured on, such as `reviews (2,000 test rows)`.
        tokenizers: By family.
        calibrations: By teacher, on validation.
        notes: Limits of this study, whole sentences.
        about: What was run.
    """
    seeds = sorted({contrast.difference.num_seeds for contrast in verdict.comparisons})
    shown_seeds = " to ".join(str(count) for count in {seeds[0]: None, seeds[-1]: None}) if seeds else "no"
    points = wording.points_of(metric)
    blocks: list[Block] = [
        *_opening(verdict),
        Paragraph(
            f"Measured on {data}: test {metric} in {points}, {shown_seeds} seeds per comparison. A difference is "
            f"called equivalent where it is shown to lie within ±{verdict.margin:g} {points}. Everything below "
            "speaks of these models and these data only."
        ),
        Heading("Gain over the same student without a teacher"),
        *(
            FigureBlock(
                matrix_figure(verdict.gains, condition),
                f"Gain in {points} by pair: {CONDITION_NAMES[condition]}. In brackets the 95 % interval over seeds.",
            )
            for condition in CONDITIONS
            if any(contrast.condition == condition for contrast in verdict.gains)
        ),
        TableBlock(table(verdict.gains, verdict.margin)),
        *_soft_labels(verdict),
        Heading("Comparisons"),
        FigureBlock(
            forest_figure(verdict.comparisons, verdict.margin),
            f"All comparisons with their 95 % intervals over seeds; the band is ±{verdict.margin:g} {points}.",
        ),
        TableBlock(table(verdict.contrasts, verdict.margin)),
        Heading("What else differs"),
        TableBlock(teacher_table(runs), "Teachers' scores, each reading its own tokens."),
        TableBlock(tokenizer_table(tokenizers), "How each family reads the validation split."),
        TableBlock(calibration_table(calibrations), "How sure the teachers are on validation."),
        Heading("How it was judged"),
        BulletList([*_rules(verdict), *notes]),
    ]
    pairs = single_pairs(runs)
    if len(pairs):
        blocks += [Heading("Single runs against their baselines"), TableBlock(pairs, "p-values are not corrected.")]
    return [*blocks, *about]


def verdict_blocks(verdict: Verdict) -> list[Block]:
    """What was found, under its title: what the terminal shows of the report."""
    return [Heading(TITLE), *_opening(verdict)]


def _opening(verdict: Verdict) -> list[Block]:
    """The verdict, mechanism by mechanism, whose title the page already has."""
    blocks: list[Block] = []
    for mechanism in verdict.mechanisms:
        blocks.append(Paragraph(f"{WARNINGS[mechanism.question]}: {mechanism_claim(mechanism, verdict.margin)}."))
        if mechanism.contrasts:
            blocks.append(BulletList(mechanism_sentences(mechanism, verdict)))
    return blocks


def _soft_labels(verdict: Verdict) -> list[Block]:
    """What is left of each pair's gain where the teacher's hard answers are given on the same text."""
    if not verdict.soft_labels:
        return []
    caption = (
        "The student of the teacher's probabilities minus that of its one-hot answers, each reading its own tokens."
    )
    return [
        Heading("What soft labels add to hard answers"),
        TableBlock(table(verdict.soft_labels, verdict.margin), caption),
    ]


def teacher_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Validation and test scores of every family's teacher, in points."""
    own = runs[runs["condition"] == OWN_TOKENS]
    means = own.groupby("teacher_family", sort=False)[["teacher_validation", "teacher_test"]].mean() * 100
    return pd.DataFrame(
        {
            "teacher": means.index,
            "validation": [f"{value:.2f}" for value in means["teacher_validation"]],
            "test": [f"{value:.2f}" for value in means["teacher_test"]],
        }
    )


def table(contrasts: Sequence[Contrast], margin: float) -> pd.DataFrame:
    """One row per comparison, in points."""
    return pd.DataFrame(
        [
            {
                "comparison": contrast.name,
                "seeds": contrast.difference.num_seeds,
                "points": wording.points(contrast.difference.mean),
                "95 % over seeds": show_interval(contrast.difference.interval),
                "95 % over seeds and examples": show_interval(contrast.bootstrap),
                "p (Holm)": wording.p_value(contrast.p_holm),
                "p of equivalence (Holm)": wording.p_value(contrast.p_equivalence),
                "retention": _retention(contrast),
                "verdict": claim(contrast.question, contrast.finding, margin)
                + (", but the teachers differ" if explained_by_teachers(contrast, margin) else ""),
            }
            for contrast in contrasts
        ]
    )


def single_pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Exact McNemar test of each run's student against its baseline; empty without per-example correctness."""
    rows = []
    for run in runs.to_dict("records") if has_examples(runs) else []:
        test = exact_mcnemar(run["student_correct"], run["baseline_correct"])
        rows.append(
            {
                "pair": f"{run['teacher_family']} -> {run['student_family']}",
                "condition": run["condition"],
                "seed": run["seed"],
                "only student right": test.only_first,
                "only baseline right": test.only_second,
                "p (exact McNemar)": wording.p_value(test.p_value),
            }
        )
    return pd.DataFrame(rows)


def matrix_figure(gains: Sequence[Contrast], condition: str) -> Figure:
    """Teacher family by student family: the gain of one condition, its interval in each cell."""
    # Colours and the order of families are those of all conditions, so that the figures can be compared.
    shown = {(item.teacher, item.student): item for item in gains if item.condition == condition}
    teachers = pd.Index(dict.fromkeys(item.teacher for item in gains), name="teacher")
    students = pd.Index(dict.fromkeys(item.student for item in gains), name="student")
    largest = max((abs(item.difference.mean) for item in gains), default=0.0)
    cells = [[shown.get((teacher, student)) for student in students] for teacher in teachers]
    values = [[np.nan if cell is None else cell.difference.mean for cell in row] for row in cells]
    matrix = figures.Matrix(
        f"{condition}: gain over no teacher",
        pd.DataFrame(values, index=teachers, columns=students),
        [["not run" if cell is None else _cell(cell.difference) for cell in row] for row in cells],
    )
    return figures.matrix_figure([matrix], "points", largest=largest)


def forest_figure(contrasts: Sequence[Contrast], margin: float) -> Figure:
    """Every comparison as a point with its interval, the band of equivalence behind them."""
    rows = [
        figures.IntervalRow(
            contrast.name,
            contrast.difference.mean,
            contrast.difference.interval,
            contrast.bootstrap,
            # What teachers of unequal quality would explain as well is not coloured as found.
            _COLOURS[Finding.unsettled if explained_by_teachers(contrast, margin) else contrast.finding],
            "o" if contrast.question == Question.gain else "D",
        )
        for contrast in contrasts
    ]
    label = "points (thick: 95 % over seeds; thin: over seeds and examples)"
    legend = {str(finding): colour for finding, colour in _COLOURS.items()}
    return figures.interval_figure(rows, label, margin=margin, legend=legend)


def _rules(verdict: Verdict) -> list[str]:
    bootstrap = any(contrast.bootstrap is not None for contrast in verdict.gains)
    return [
        "Differences are paired by seed: the same seed gives both students the same initial weights and batches.",
        f"A difference is claimed where the paired t test, Holm-corrected, gives p < {ALPHA:g}"
        + (
            " and the paired bootstrap over seeds and test examples agrees."
            if bootstrap
            else "; test examples are not resampled here, so the claims are about this test set."
        ),
        f"Equivalence is claimed where two one-sided t tests with a margin of {verdict.margin:g} points, "
        f"Holm-corrected, give p < {ALPHA:g}.",
        f"Holm's correction runs over {len(verdict.gains)} gains and, apart from these, over "
        + (f"{len(verdict.soft_labels)} additions of soft labels and over " if verdict.soft_labels else "")
        + f"{len(verdict.contrasts)} contrasts.",
        "Retention is the student's score divided by its teacher's, in points; of contrasts, its difference.",
        "Where the compared teachers differ by more than the margin on validation, in the direction that would "
        "explain the finding, nothing is claimed about crossing.",
    ]


def _retention(contrast: Contrast) -> str:
    """In points; of a contrast the difference of two, signed."""
    retention, form = contrast.retention, ".1f" if contrast.question == Question.gain else "+.1f"
    if np.isnan(retention.mean):
        return ""
    interval = retention.interval
    shown = "" if interval is None else f" [{interval.low:{form}}, {interval.high:{form}}]"
    return f"{retention.mean:{form}}{shown}"


def _cell(difference: PairedDifference) -> str:
    return "\n".join(filter(None, [wording.points(difference.mean), show_interval(difference.interval)]))
