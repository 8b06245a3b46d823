"""A sweep's summary as people read it: findings in sentences, figures, tables, in the terminal and as a page."""

import os
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from kdexp.errors import UserError
from kdexp.naming import command_line
from kdexp.results import figures, wording
from kdexp.results.control_report import CONTRAST_NAMES
from kdexp.results.metric_names import GAIN, SPLITS, metric_name
from kdexp.results.report import (
    Block,
    BulletList,
    Facts,
    FigureBlock,
    Heading,
    Paragraph,
    Preformatted,
    TableBlock,
    html_page,
    markdown_text,
)
from kdexp.results.roles import file_role
from kdexp.results.statistics import Interval
from kdexp.results.terminal import print_blocks
from kdexp.study.about import about_blocks
from kdexp.study.summary.evidence import Comparison
from kdexp.study.summary.findings import findings
from kdexp.study.summary.settings import StudySummary, contrasts_of, grid, grid_axes, setting_label, summarize_study
from kdexp.study.summary.tables import runs_table, settings_table
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.secrets import redact
from kdexp.tracking.store import NOTE_TAG, Study
from kdexp.tracking.uri import ui_command

_MOST_CURVES = 8
_ORDER = "Seeds that chose nothing first, then the trials; each from the best on validation."
_MOST_GAINS = 40  # the best on validation: more are not read
_MOST_NOTED = 10  # on MLflow's pages
_MOST_ROWS = 15  # in the terminal


def shown_table(summary: StudySummary) -> pd.DataFrame:
    """The table as people read it: percent and points, rounded."""
    table = summary.table
    shown = table[[*summary.settings, "seeds"]].copy()
    for split in SPLITS:
        pairs = zip(table[split], table[f"{split}_spread"], strict=True)
        shown[f"{split} {wording.heading(summary.metric)}"] = [
            wording.mean_and_spread(mean, spread, summary.metric) for mean, spread in pairs
        ]
    ends, over = _interval_shown(summary)
    points = wording.points_of(summary.metric)
    shown[f"gain, {points} [95 % over {over}]"] = [
        "" if np.isnan(gain) else f"{wording.points(gain)} {wording.interval(low, high)}".rstrip()
        for gain, low, high in 100 * table[["gain", *ends]].to_numpy(float)
    ]
    for name in contrasts_of(table):
        column = f"gain_{name}"
        shown[f"{CONTRAST_NAMES[name]}, {points}"] = [
            "" if np.isnan(gain) else f"{wording.points(gain)} {wording.interval(low, high)}".rstrip()
            for gain, low, high in 100 * table[[column, f"{column}_low", f"{column}_high"]].to_numpy(float)
        ]
    return shown


def _interval_shown(summary: StudySummary) -> tuple[tuple[str, str], str]:
    """Columns of the gains' intervals, and over what they are: one kind in a table or figure."""
    if summary.table["seeds"].max() > 1:
        return ("gain_low", "gain_high"), "seeds"
    return ("rows_low", "rows_high"), "test rows"


def heatmap(summary: StudySummary) -> Figure:
    """Validation and test side by side: mean over seeds, with the spread; the chosen setting is framed."""
    axes, best = grid_axes(summary), summary.best
    assert axes
    assert best is not None
    panels, is_share = [], wording.is_share(summary.metric)
    for split in SPLITS:
        means, spreads = grid(summary, split)
        texts = [
            [_cell(mean, spread, is_share=is_share) for mean, spread in zip(*rows, strict=True)]
            for rows in zip(means.to_numpy(), spreads.to_numpy(), strict=True)
        ]
        framed = None
        if not summary.is_judged_elsewhere:
            framed = (list(means.index).index(best[axes[1]]), list(means.columns).index(best[axes[0]]))
        shown = (100 if is_share else 1) * means
        panels.append(figures.Matrix(f"{split} {wording.heading(summary.metric)}", shown, texts, framed))
    return figures.matrix_figure(panels, "%" if is_share else wording.heading(summary.metric))


def _cell(mean: float, spread: float, *, is_share: bool) -> str:
    if np.isnan(mean):
        return ""
    factor, decimals = (100, 1) if is_share else (1, 3)
    lines = [f"{factor * mean:.{decimals}f}"] + ([] if np.isnan(spread) else [f"± {factor * spread:.{decimals}f}"])
    return "\n".join(lines)


def gain_figure(summary: StudySummary) -> Figure:
    """Gain over the baseline on test by setting, with its interval."""
    (low, high), over = _interval_shown(summary)
    rows = [
        figures.IntervalRow(
            setting_label(row, summary.settings),
            100 * row["gain"],
            None if np.isnan(row[low]) else Interval(100 * row[low], 100 * row[high]),
        )
        for _, row in summary.table.dropna(subset=["gain"]).head(_MOST_GAINS).iterrows()
    ]
    points = wording.points_of(summary.metric)
    if wording.is_share(summary.metric):
        points += f" of {summary.metric}"
    label = f"gain over the baseline on test, {points} (95 % over {over})"
    return figures.interval_figure(rows, label)


def curves_figure(summary: StudySummary, study: Study) -> Figure:
    """Validation by step, of one run (the lowest seed) of each of the best settings."""
    curves = {}
    for _, row in summary.table.head(_MOST_CURVES).iterrows():
        runs = summary.runs
        for name in summary.settings:
            runs = runs[(runs[name] == row[name]) | (runs[name].isna() & pd.isna(row[name]))]
        run_id = runs.sort_values("seed").iloc[0]["run_id"]
        curves[setting_label(row, summary.settings)] = study.history(run_id, metric_name("validation", summary.metric))
    return figures.curves_figure(curves, f"validation {summary.metric}")


def _figures(summary: StudySummary, study: Study) -> dict[str, FigureBlock]:
    """Those that the summary has something to show in, by name."""
    found = {}
    if grid_axes(summary):
        chosen = "" if summary.is_judged_elsewhere else " Red: the setting chosen on validation."
        caption = f"Mean over seeds ± spread.{chosen}"
        found["heatmap"] = FigureBlock(heatmap(summary), caption)
    if summary.table["gain"].notna().any():
        found["gain"] = FigureBlock(gain_figure(summary), "Gain over the same student without a teacher.")
    found["curves"] = FigureBlock(curves_figure(summary, study), "Validation while training, best settings.")
    return found


def report_blocks(summary: StudySummary, shown: Mapping[str, FigureBlock]) -> list[Block]:
    """What a colleague can read without MLflow.

    Args:
        shown: Figures by name.
    """
    blocks: list[Block] = [BulletList(findings(summary))]
    if summary.missing:
        blocks += [Heading("Missing"), BulletList(summary.missing)]
    if summary.left_out:
        blocks += [Heading("Left out"), BulletList(summary.left_out)]
    if shown:
        blocks += [Heading("All settings"), *shown.values()]
        blocks += [
            Heading("Results"),
            TableBlock(shown_table(summary), _ORDER if summary.stages else "Best on validation first."),
        ]
    return [
        *blocks,
        *about_blocks(summary.finished),
        Heading("How to read this"),
        Paragraph(
            "A setting is chosen on validation and reported on test. The baseline is the same student, seed and "
            "schedule without a teacher; gain is student minus baseline, paired by seed. ± is the sample standard "
            "deviation over seeds. Intervals are not corrected for the number of settings compared. "
            "docs/statistics.md has the rules by which a setting is chosen and a difference is claimed."
        ),
        Heading("In MLflow"),
        BulletList([f"{name}: {link}" for name, link in summary.links.items() if len(link) < 500]),
    ]


def note_blocks(summary: StudySummary) -> list[Block]:
    """What MLflow's pages of the sweep and of the study open with."""
    blocks: list[Block] = [BulletList(findings(summary))]
    if not summary.table.empty:
        blocks.append(TableBlock(shown_table(summary).head(_MOST_NOTED)))
    lines = [f"{name}: {line}" for name, line in _not_counted(summary)]
    if lines:
        blocks.append(BulletList(lines[:_MOST_NOTED]))
    if command := command_line():
        blocks += [Heading("Command"), Preformatted(command)]
    return blocks


def log_summary(summary: StudySummary, parent: TrackedRun, study: Study) -> None:
    """Write tables, figures, report and saved view to the parent run."""
    shown = {} if summary.table.empty else _figures(summary, study)
    title = f"{summary.study}: {' x '.join(summary.varied) or 'runs'}"
    parent.log_text(html_page(title, report_blocks(summary, shown)), "summary/report.html")
    note = markdown_text(note_blocks(summary))
    parent.set_tags({NOTE_TAG: note})
    study.describe(note)
    if summary.best is None:
        return
    settings = settings_table(summary)
    parent.log_table(settings, "summary/settings.csv")
    parent.log_table(settings, "summary/settings.json")
    parent.log_table(runs_table(summary), "summary/runs.csv")
    for name in ("heatmap", "gain"):
        if name in shown:
            parent.log_figure(shown[name].figure, f"summary/{name}.png")
    if not summary.is_judged_elsewhere:
        _log_choice(summary, summary.best, parent)
    scores = [metric_name(split, summary.metric) for split in SPLITS]
    view = study.save_view(
        summary.parent_id,
        [*summary.varied, "seed"],
        [*scores, GAIN],
        contour=grid_axes(summary),
        scatters=_scatters(summary),
    )
    if view:
        summary.links["view"] = view


def _log_choice(summary: StudySummary, best: pd.Series, parent: TrackedRun) -> None:
    """The chosen setting and its numbers, for MLflow's tables."""
    gains = ("gain", *(f"gain_{name}" for name in contrasts_of(summary.table)))
    numbers = [f"{gain}{end}" for gain in gains for end in ("", "_low", "_high")]
    numbers += ["test", "test_low", "test_high", "validation", "seeds"]
    parent.log_metrics({f"best/{name}": best[name] for name in numbers if not pd.isna(best[name])})
    if summary.equal_tuning is not None:
        parent.log_metrics(_interval_metrics("best/gain_searched", summary.equal_tuning))
    for name, evidence in summary.files.items():
        parts = {"gain": evidence.gain, "against_float32": evidence.against_float32}
        for part, comparison in parts.items():
            if comparison is not None:
                parent.log_metrics(_interval_metrics(f"best/{file_role(name)}/{part}", comparison))
    parent.set_tags({"kdexp.best": setting_label(best, summary.settings)})


def _scatters(summary: StudySummary) -> list[tuple[str, str]]:
    """Of each exported file, how good it is against how fast it is and how large."""
    return [
        (f"{file_role(name)}/{cost}", metric_name("test", summary.metric, file_role(name)))
        for cost in ("p50_ms", "size_mb")
        for name in summary.files
    ]


def _interval_metrics(name: str, comparison: Comparison) -> dict[str, float]:
    """As fractions; without the ends where seeds give no interval."""
    difference = comparison.difference
    ends = {f"_{end}": getattr(difference.interval, end) for end in ("low", "high") if difference.interval}
    return {f"{name}{end}": value / 100 for end, value in ({"": difference.mean} | ends).items()}


def print_summary(summary: StudySummary) -> None:
    """Print the answer, the best settings, what is missing and what to open."""
    counts = ", ".join(f"{number} {status}" for status, number in sorted(summary.counts.items()))
    title = f"study {summary.study}: {' x '.join(summary.varied) or 'runs'} ({counts})"
    blocks: list[Block] = [Paragraph(title)]
    if not summary.table.empty:
        blocks = [TableBlock(shown_table(summary).head(_MOST_ROWS), title)]
    if len(summary.table) > _MOST_ROWS:
        blocks.append(Paragraph(f"... and {len(summary.table) - _MOST_ROWS} more, in summary/settings.csv"))
    blocks += [Paragraph(line) for line in findings(summary)]
    print_blocks([*blocks, Facts(_not_counted(summary))])
    print_blocks([Facts(_places(summary))])


def _not_counted(summary: StudySummary) -> list[tuple[str, str]]:
    return [("missing", line) for line in summary.missing] + [("left out", line) for line in summary.left_out]


def _places(summary: StudySummary) -> list[tuple[str, str]]:
    command = ui_command(summary.uri)
    browse = [] if command.startswith("http") else [("browse", f"{command}   then open")]
    names: list[str] = [name for name in ("view", "sweep") if name in summary.links]
    if "view" not in names and "compare" in summary.links:
        names.append("compare")
    return browse + [(name, summary.links[name]) for name in names or ["runs"]]


def main(arguments: Sequence[str]) -> None:
    """`python -m kdexp summary [<study>] [tracking.uri=<uri>]`: what a study found, as far as it is.

    Raises:
        UserError: A setting is unknown, or the study is not there.
    """
    settings = {
        "study": os.environ.get("MLFLOW_EXPERIMENT_NAME") or "distillation",
        "tracking.uri": None,
        "cache_dir": os.environ.get("KDEXP_CACHE_DIR", "~/.cache/kdexp"),
    }
    given: dict[str, str | None] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals and not argument.startswith("-"):
            name, value = "study", argument
        if name not in settings:
            shown = redact(re.sub(r"\s", " ", argument))
            raise UserError(shown, "no such setting", f"expected a study's name, or one of {', '.join(settings)}")
        if name in given and given[name] != value:
            raise UserError(name, f"is given twice, {given[name]} and {value}", "name one")
        given[name] = value
    settings |= given
    for summary in summarize_study(settings["tracking.uri"], str(settings["study"]), str(settings["cache_dir"])):
        print_summary(summary)
