"""The report of a cross-family study: figures, tables, and what they say in plain words."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from kdexp.results.diagnostics import Calibration, TokenizerStatistics, calibration_table, tokenizer_table
from kdexp.results.report import Block, BulletList, FigureBlock, Heading, Paragraph, Preformatted, TableBlock
from kdexp.study.rules import (
    ALPHA,
    CONDITIONS,
    OWN_TOKENS,
    Contrast,
    Finding,
    Question,
    Support,
    Verdict,
    explained_by_teachers,
    show_interval,
    show_points,
    single_pairs,
    table,
)

_WARNINGS = {
    Question.crossing: "Crossing families, with logits only and each model reading its own tokens",
    Question.student_ids: "Feeding the student's token ids to the teacher, as FastFormers' released code does",
    Question.hidden_words: "A hidden-state term across families, aligned on words",
    Question.hidden_position: "A hidden-state term across families, position by position",
}
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
    command: str | None = None,
) -> list[Block]:
    """What the study found first; then the numbers, what else differs, and how it was judged.

    Args:
        runs: As `verdict.judge` takes them.
        metric: Name of the metric, such as `accuracy`.
        data: What was measured on, such as `reviews (2,000 test rows)`.
        tokenizers: By family.
        calibrations: By teacher, on validation.
        notes: Limits of this study, whole sentences.
        command: That repeats it.
    """
    seeds = sorted({contrast.difference.num_seeds for contrast in [*verdict.gains, *verdict.contrasts]})
    shown_seeds = " to ".join(str(count) for count in {seeds[0]: None, seeds[-1]: None}) if seeds else "no"
    blocks: list[Block] = [
        Paragraph(
            f"Measured on {data}: test {metric} in points, {shown_seeds} seeds per comparison. A difference is "
            f"called equivalent where it is shown to lie within ±{verdict.margin:g} points. Everything below "
            "speaks of these models and these data only."
        ),
        Heading("What was found"),
        TableBlock(findings_table(verdict)),
    ]
    for item in verdict.mechanisms:
        if item.support != Support.not_measured:
            blocks += [
                Paragraph(f"{_WARNINGS[item.question]}: that this does harm is {item.support}."),
                BulletList(item.sentences),
            ]
    blocks += [
        Heading("Gain over the same student without a teacher"),
        *(
            FigureBlock(
                matrix_figure(verdict.gains, condition),
                f"Gain in points by pair: {CONDITIONS[condition]}. In brackets the 95 % interval over seeds.",
            )
            for condition in CONDITIONS
            if any(contrast.condition == condition for contrast in verdict.gains)
        ),
        TableBlock(table(verdict.gains, verdict.margin)),
        Heading("Comparisons"),
        FigureBlock(
            forest_figure([*verdict.gains, *verdict.contrasts], verdict.margin),
            f"All comparisons with their 95 % intervals over seeds; the band is ±{verdict.margin:g} points.",
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
    if command:
        blocks += [Heading("To repeat it"), Preformatted(command)]
    return blocks


def findings_table(verdict: Verdict) -> pd.DataFrame:
    """One row per mechanism that the warning mixes up."""
    return pd.DataFrame(
        {
            "the warning, part by part": [_WARNINGS[item.question] for item in verdict.mechanisms],
            "is": [str(item.support) for item in verdict.mechanisms],
            "found on these data": [item.claim for item in verdict.mechanisms],
        }
    )


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


def matrix_figure(gains: Sequence[Contrast], condition: str) -> Figure:
    """Teacher family by student family: the gain of one condition, its interval in each cell."""
    shown = {(item.teacher, item.student): item for item in gains if item.condition == condition}
    teachers = list(dict.fromkeys(teacher for teacher, _ in shown))
    students = list(dict.fromkeys(student for _, student in shown))
    values = np.array(
        [
            [shown[pair].difference.mean if (pair := (teacher, student)) in shown else np.nan for student in students]
            for teacher in teachers
        ]
    )
    # One scale for both signs, wide enough to leave the cells pale under their text; never empty.
    limit = max(1.6 * float(np.nanmax(np.abs(values))), 0.1)
    figure = Figure(figsize=(2.4 + 1.9 * len(students), 1.6 + 1.0 * len(teachers)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=matplotlib.colormaps["RdBu"].with_extremes(bad="#dddddd"),
        norm=TwoSlopeNorm(0.0, -limit, limit),
        aspect="auto",
    )
    for row, teacher in enumerate(teachers):
        for column, student in enumerate(students):
            item = shown.get((teacher, student))
            text = "not run" if item is None else show_points(item.difference.mean)
            if item is not None and item.difference.interval is not None:
                text += f"\n{show_interval(item.difference.interval)}"
            axes.text(column, row, text, ha="center", va="center", color="black")
    axes.set_xticks(range(len(students)), students)
    axes.set_yticks(range(len(teachers)), teachers)
    axes.set_xlabel("student")
    axes.set_ylabel("teacher")
    axes.set_title(f"{condition}: gain over no teacher")
    figure.colorbar(image, ax=axes, label="points")
    return figure


def forest_figure(contrasts: Sequence[Contrast], margin: float) -> Figure:
    """Every comparison as a point with its interval, the band of equivalence behind them."""
    figure = Figure(figsize=(9, 1.2 + 0.34 * len(contrasts)), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(-margin, margin, color="#8883", lw=0)
    axes.axvline(0, color="black", lw=0.8)
    for row, contrast in enumerate(contrasts):
        interval = contrast.difference.interval
        is_claimed = not explained_by_teachers(contrast, margin)
        colour = _COLOURS[contrast.finding if is_claimed else Finding.unsettled]
        if interval is not None:
            axes.plot([interval.low, interval.high], [row, row], color=colour, lw=2, solid_capstyle="butt")
        if contrast.bootstrap is not None:
            axes.plot([contrast.bootstrap.low, contrast.bootstrap.high], [row + 0.2] * 2, color=colour, lw=0.8)
        marker = "o" if contrast.question == Question.gain else "D"
        axes.plot(contrast.difference.mean, row, marker, color=colour, ms=5)
    axes.set_yticks(range(len(contrasts)), [contrast.name for contrast in contrasts])
    axes.set_ylim(len(contrasts) - 0.4, -0.6)
    axes.set_xlabel("points (thick: 95 % over seeds; thin: over seeds and examples)")
    handles = [axes.plot([], [], color=colour, lw=2, label=str(finding))[0] for finding, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


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
        f"{len(verdict.contrasts)} contrasts.",
        "Retention is the student's score divided by its teacher's, in points; of contrasts, its difference.",
        "Where the compared teachers differ by more than the margin on validation, in the direction that would "
        "explain the finding, nothing is claimed about crossing.",
    ]
