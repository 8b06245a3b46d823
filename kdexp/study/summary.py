"""What a sweep found: every setting over its seeds, chosen on validation, reported on test."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy import stats

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.results.report import (
    Block,
    BulletList,
    FigureBlock,
    Heading,
    Paragraph,
    TableBlock,
    html_page,
)
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.store import StoredRun, Study
from kdexp.tracking.uri import ui_command

logger = logging.getLogger(__name__)

# Where a study does not say what it varies, these are looked at.
_USUAL_SETTINGS = (
    "teacher.name",
    "student.name",
    "task.name",
    "tokenization",
    "loss.name",
    "loss.alpha",
    "loss.temperature",
    "train.learning_rate",
    "train.epochs",
    "train.use_transfer",
    "task.train_size",
    "seed",
)
_GROUPS = ("teacher", "student", "task", "loss", "hardware", "train")


@dataclass(frozen=True)
class StudySummary:
    """A sweep, or a whole study, as far as it is.

    Attributes:
        settings: Params that vary, the seed left out: one row of `table` per combination.
        runs: One row per finished run: `run_id`, settings, `seed`, `validation`, `test`, `baseline`, `teacher`,
            `gain`, `gain_low`, `gain_high` (over test rows).
        table: One row per setting: `seeds`, mean and spread (sample standard deviation over seeds) of validation
            and test, and the gain on test with its 95 % interval over seeds (paired t); those with the most seeds
            first, and among them the best on validation.
        counts: Number of runs by MLflow's status.
        missing: Jobs that are not finished, with the reason where one is known.
        links: What to open in MLflow, by name.
    """

    study: str
    uri: str
    parent_id: str | None
    metric: str
    settings: list[str]
    runs: pd.DataFrame
    table: pd.DataFrame
    counts: dict[str, int]
    missing: list[str]
    links: dict[str, str]

    @property
    def best(self) -> pd.Series | None:
        """The setting chosen on validation."""
        return None if self.table.empty else self.table.iloc[0]


def summarize(study: Study, parent_id: str | None) -> StudySummary:
    """Read a sweep (or, without one, all runs of the study) from the store and sum it up.

    Of several runs of one computation only the latest finished one counts.
    """
    runs = [each for each in (study.runs(parent=parent_id) if parent_id else study.runs()) if not _is_parent(each)]
    finished = {each.config_hash: each for each in runs if each.status == "FINISHED" and each.metrics}
    metric = next((each.tags.get("kdexp.primary_metric", "accuracy") for each in finished.values()), "accuracy")
    parent = next((each for each in study.runs() if each.run_id == parent_id), None)
    swept = parent.tags.get("kdexp.swept", "").split(",") if parent else []
    settings = _settings(swept, list(finished.values()))
    frame = _frame(list(finished.values()), settings, metric)
    return StudySummary(
        study=study.name,
        uri=study.uri,
        parent_id=parent_id,
        metric=metric,
        settings=settings,
        runs=frame,
        table=_table(frame, settings),
        counts=dict(Counter("PRUNED" if "kdexp.pruned" in each.tags else each.status for each in runs)),
        missing=_missing(study, parent_id, runs, finished),
        links=_links(study, parent_id, list(finished.values())),
    )


def summarize_study(uri: str | None, name: str, cache_dir: str) -> list[StudySummary]:
    """Sum up every sweep of a study as far as it is, the latest last; a study without one as a whole."""
    study = Study(uri, name, create=False)
    study.mark_cut_off(Cache(Path(cache_dir).expanduser()))
    sweeps = [run.run_id for run in study.runs() if _is_parent(run)]
    return [summarize(study, parent) for parent in sweeps] or [summarize(study, None)]


def _is_parent(run: StoredRun) -> bool:
    return "kdexp.sweep_key" in run.tags


def _settings(swept: Sequence[str], runs: Sequence[StoredRun]) -> list[str]:
    """Params that vary over the runs; a swept group (`teacher=bert,roberta`) shows by its name."""
    names = [f"{name}.name" if name in _GROUPS else name for name in swept] or list(_USUAL_SETTINGS)
    varies = [name for name in names if len({run.params.get(name) for run in runs}) > 1]
    return [name for name in varies if name != "seed"]


def _frame(runs: Sequence[StoredRun], settings: Sequence[str], metric: str) -> pd.DataFrame:
    names = {
        "validation": f"validation/{metric}",
        "test": f"test/{metric}",
        "baseline": f"baseline/test/{metric}",
        "teacher": f"teacher/test/{metric}",
        "gain": "kd/gain",
        "gain_low": "kd/gain_low",
        "gain_high": "kd/gain_high",
    }
    # Trials of a search chose the setting; where it was trained again to confirm it, only that counts.
    confirmed = {_setting(run, settings) for run in runs if run.params.get("trial") == "None"}
    runs = [run for run in runs if run.params.get("trial") == "None" or _setting(run, settings) not in confirmed]
    rows = [
        {"run_id": run.run_id, "name": run.name}
        | {setting: _number(run.params.get(setting)) for setting in settings}
        | {"seed": _number(run.params.get("seed"))}
        | {name: run.metrics.get(key, np.nan) for name, key in names.items()}
        for run in runs
    ]
    return pd.DataFrame(rows, columns=["run_id", "name", *settings, "seed", *names])


def _setting(run: StoredRun, settings: Sequence[str]) -> tuple[str | None, ...]:
    return tuple(run.params.get(name) for name in settings)


def _number(text: str | None) -> object:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def _table(frame: pd.DataFrame, settings: Sequence[str]) -> pd.DataFrame:
    groups = frame.groupby(list(settings), dropna=False, sort=True) if settings else [((), frame)]
    rows = []
    for values, group in groups:
        if group.empty:
            continue
        row: dict[str, object] = dict(zip(settings, values, strict=True)) | {"seeds": len(group)}
        for name in ("validation", "test"):
            row |= {name: group[name].mean(), f"{name}_spread": group[name].std()}
        row |= dict(zip(("test_low", "test_high"), t_interval(group["test"]), strict=True))
        row |= {"baseline": group["baseline"].mean(), "teacher": group["teacher"].mean(), "gain": group["gain"].mean()}
        low, high = t_interval(group["gain"])
        if len(group) == 1:  # one seed: what is known is what other test rows would change
            low, high = group["gain_low"].iloc[0], group["gain_high"].iloc[0]
        rows.append(row | {"gain_low": low, "gain_high": high})
    return (
        # What was seen with fewer seeds is less sure, and the best of many such was also lucky.
        pd.DataFrame(rows).sort_values(["seeds", "validation"], ascending=False, ignore_index=True)
        if rows
        else pd.DataFrame()
    )


def t_interval(values: pd.Series) -> tuple[float, float]:
    """95 % interval of a mean over seeds (Student's t); nan where there are fewer than two."""
    values = values.dropna()
    if len(values) < 2:
        return np.nan, np.nan
    if values.std() == 0:
        return float(values.mean()), float(values.mean())
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    return float(interval.low), float(interval.high)


def _missing(
    study: Study, parent_id: str | None, runs: Sequence[StoredRun], finished: dict[str, StoredRun]
) -> list[str]:
    noted = json.loads(study.text_artifact(parent_id, "jobs.json") or "{}") if parent_id else {}
    latest = {each.config_hash: each for each in runs}

    def why(key: str) -> str:
        run = latest.get(key)
        if run is None:
            return "not begun"
        return f"{run.status}{': ' + run.tags['kdexp.failure'] if 'kdexp.failure' in run.tags else ''}"

    pruned = {each.config_hash for each in runs if "kdexp.pruned" in each.tags}
    lines = [f"{name}: {why(key)}" for key, name in noted.items() if key not in finished and key not in pruned]
    refused = [each for each in runs if not each.config_hash and each.status == "FAILED"]
    return lines + sorted({f"{each.name}: {each.tags.get('kdexp.failure', 'FAILED')}" for each in refused})


def _links(study: Study, parent_id: str | None, runs: Sequence[StoredRun]) -> dict[str, str]:
    links = {"runs": study.url}
    if parent_id:
        links["sweep"] = study.run_url(parent_id)
    if 1 < len(runs) <= 100:
        links["compare"] = study.compare_url([each.run_id for each in runs])
    return links


def grid_axes(summary: StudySummary) -> tuple[str, str] | None:
    """The two settings of the heatmap (columns, rows): two that vary as numbers, temperature and alpha first."""
    wished = [name for name in ("loss.temperature", "loss.alpha") if name in summary.settings]
    others = [name for name in summary.settings if name not in wished]
    numeric = [name for name in wished + others if pd.api.types.is_numeric_dtype(summary.table[name])]
    return (numeric[0], numeric[1]) if len(numeric) >= 2 else None


def grid(summary: StudySummary, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Mean and spread over seeds as rows x columns of `grid_axes`; other settings are averaged over.

    At alpha = 1 the temperature has no effect: the one result stands in every column.
    """
    axes = grid_axes(summary)
    assert axes
    x, y = axes
    means, spreads = (
        summary.runs.pivot_table(values=split, index=y, columns=x, aggfunc=how) for how in ("mean", "std")
    )
    spreads = spreads.reindex(index=means.index, columns=means.columns)
    if (x, y) == ("loss.temperature", "loss.alpha") and 1.0 in means.index:
        for frame in (means, spreads):
            frame.loc[1.0] = frame.loc[1.0].ffill().bfill()
    return means, spreads


def heatmap(summary: StudySummary) -> Figure:
    """Validation and test side by side: mean over seeds, with the spread; the chosen setting is framed."""
    axes = grid_axes(summary)
    assert axes
    assert summary.best is not None
    x, y = axes
    figure = Figure(figsize=(12, 1.6 + 0.7 * summary.table[y].nunique()), layout="constrained")
    for place, split in zip(figure.subplots(1, 2), ("validation", "test"), strict=True):
        means, spreads = grid(summary, split)
        image = place.imshow(means, aspect="auto", cmap="viridis")
        place.set_xticks(range(means.shape[1]), [f"{value:g}" for value in means.columns])
        place.set_yticks(range(means.shape[0]), [f"{value:g}" for value in means.index])
        place.set(xlabel=x, ylabel=y, title=f"{split} {summary.metric}, %")
        middle = np.nanmean([np.nanmin(means), np.nanmax(means)])
        for row, column in np.argwhere(means.notna().to_numpy()):
            value, spread = means.iloc[row, column], spreads.iloc[row, column]
            text = f"{100 * value:.1f}" + ("" if np.isnan(spread) else f"\n± {100 * spread:.1f}")
            color = "white" if value < middle else "black"
            place.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
        best = (list(means.columns).index(summary.best[x]), list(means.index).index(summary.best[y]))
        place.add_patch(_frame_around(*best))
        figure.colorbar(image, ax=place, format=lambda value, _: f"{100 * value:.0f}")
    return figure


def _frame_around(column: int, row: int):  # type: ignore[no-untyped-def]
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor="red", linewidth=2.5)


def gain_figure(summary: StudySummary) -> Figure:
    """Gain over the baseline on test by setting, with its interval: right of the line, distillation helped."""
    table = summary.table.dropna(subset=["gain"]).iloc[::-1]
    figure = Figure(figsize=(9, 1.2 + 0.3 * max(len(table), 3)), layout="constrained")
    place = figure.subplots()
    errors = 100 * table[["gain_low", "gain_high"]].sub(table["gain"], axis=0).abs().fillna(0).T.to_numpy()
    place.errorbar(100 * table["gain"], range(len(table)), xerr=errors, fmt="o", capsize=3)
    place.set_yticks(range(len(table)), [describe(row, summary.settings) for _, row in table.iterrows()])
    place.axvline(0, color="grey", linestyle="--")
    place.set(xlabel=f"gain over the baseline on test, points of {summary.metric} (95 % interval)")
    return figure


def curves_figure(summary: StudySummary, study: Study, most: int = 8) -> Figure:
    """Validation by step, of one run (the lowest seed) of each of the best settings."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    place = figure.subplots()
    for _, row in summary.table.head(most).iterrows():
        runs = summary.runs
        for name in summary.settings:
            runs = runs[(runs[name] == row[name]) | (runs[name].isna() & pd.isna(row[name]))]
        points = study.history(runs.sort_values("seed").iloc[0]["run_id"], f"validation/{summary.metric}")
        place.plot(*zip(*points, strict=True), marker=".", label=describe(row, summary.settings))
    place.set(xlabel="step", ylabel=f"validation {summary.metric}")
    place.legend(fontsize=8)
    return figure


def describe(row: pd.Series, settings: Sequence[str]) -> str:
    """`loss.alpha=0.5 loss.temperature=4`"""
    named = [(name, row[name]) for name in settings if not pd.isna(row[name])]
    words = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in named]
    return " ".join(words) or "the one setting"


def findings(summary: StudySummary) -> list[str]:
    """The answer in plain sentences."""
    best = summary.best
    if best is None:
        return ["No run is finished yet."]
    lines = [
        f"Chosen on validation among {len(summary.table)} settings: {describe(best, summary.settings)} "
        f"(validation {summary.metric} {_percent(best['validation'], best['validation_spread'])}, "
        f"{_seeds(best['seeds'])}).",
        f"Its result on test: {_percent(best['test'], best['test_spread'])}"
        + (_interval(best["test_low"], best["test_high"], signed=False) if best["seeds"] > 1 else "")
        + f"; teacher {100 * best['teacher']:.2f} %.",
    ]
    if not np.isnan(best["gain"]):
        over = "over seeds, paired t" if best["seeds"] > 1 else "over test rows; one seed"
        verdict = (
            "distillation helped"
            if best["gain_low"] > 0
            else "distillation hurt"
            if best["gain_high"] < 0
            else "no difference that these runs can tell from chance"
        )
        lines.append(
            f"Gain over the same student without a teacher: {100 * best['gain']:+.2f} points"
            f"{_interval(best['gain_low'], best['gain_high'])} ({over}): {verdict}."
        )
    if summary.table["seeds"].max() < 3:
        lines.append("Fewer than three seeds: repeat with seed=0,1,2,3,4 before you believe a difference.")
    rivals = int((summary.table["validation"] > best["validation"] - (best["validation_spread"] or 0)).sum()) - 1
    if rivals > 0 and best["seeds"] > 1:
        lines.append(
            f"{rivals} other settings lie within one spread of the best on validation: it is not the only one."
        )
    return lines


def _seeds(number: float) -> str:
    return "1 seed" if number == 1 else f"{number:.0f} seeds"


def _percent(value: float, spread: float) -> str:
    return f"{100 * value:.2f} %" + ("" if np.isnan(spread) else f" ± {100 * spread:.2f}")


def _interval(low: float, high: float, *, signed: bool = True) -> str:
    sign = "+" if signed else ""
    return "" if np.isnan(low) else f" (95 % [{100 * low:{sign}.2f}, {100 * high:{sign}.2f}])"


def shown_table(summary: StudySummary) -> pd.DataFrame:
    """The table as people read it: percent and points, rounded."""
    table = summary.table
    shown = table[[*summary.settings, "seeds"]].copy()
    for split in ("validation", "test"):
        shown[f"{split} {summary.metric}, %"] = [
            f"{100 * mean:.2f}" + ("" if np.isnan(spread) else f" ± {100 * spread:.2f}")
            for mean, spread in zip(table[split], table[f"{split}_spread"], strict=True)
        ]
    shown["gain, points [95 %]"] = [
        ""
        if np.isnan(gain)
        else f"{100 * gain:+.2f}" + ("" if np.isnan(low) else f" [{100 * low:+.2f}, {100 * high:+.2f}]")
        for gain, low, high in zip(table["gain"], table["gain_low"], table["gain_high"], strict=True)
    ]
    return shown


def report(summary: StudySummary, study: Study) -> str:
    """A page that a colleague can read without MLflow."""
    blocks: list[Block] = [BulletList(findings(summary))]
    if summary.missing:
        blocks += [Heading("Missing"), BulletList(summary.missing)]
    if not summary.table.empty:
        if grid_axes(summary):
            caption = "Mean over seeds ± spread. Red: the setting chosen on validation."
            blocks += [Heading("All settings"), FigureBlock(heatmap(summary), caption)]
        if summary.table["gain"].notna().any():
            blocks.append(FigureBlock(gain_figure(summary), "Gain over the same student without a teacher."))
        blocks.append(FigureBlock(curves_figure(summary, study), "Validation while training, best settings."))
        blocks += [Heading("Results"), TableBlock(shown_table(summary), "Best on validation first.")]
    blocks += [
        Heading("How to read this"),
        Paragraph(
            "A setting is chosen on validation and reported on test. The baseline is the same student, seed and "
            "schedule without a teacher; gain is student minus baseline, paired by seed. ± is the sample standard "
            "deviation over seeds. Intervals are not corrected for the number of settings compared."
        ),
        Heading("In MLflow"),
        BulletList([f"{name}: {link}" for name, link in summary.links.items() if len(link) < 500]),
    ]
    return html_page(f"{summary.study}: {' x '.join(summary.settings) or 'runs'}", blocks)


def log_summary(summary: StudySummary, parent: TrackedRun, study: Study) -> None:
    """Write tables, figures, report and saved view to the parent run."""
    parent.log_text(report(summary, study), "summary/report.html")
    if summary.table.empty:
        return
    parent.log_table(summary.table, "summary/settings.csv")
    parent.log_table(summary.table, "summary/settings.json")
    parent.log_table(summary.runs, "summary/runs.csv")
    if grid_axes(summary):
        parent.log_figure(heatmap(summary), "summary/heatmap.png")
    parent.log_figure(gain_figure(summary), "summary/gain.png")
    best = summary.best
    assert best is not None
    numbers = ("validation", "test", "test_low", "test_high", "gain", "gain_low", "gain_high", "seeds")
    parent.log_metrics({f"best/{name}": best[name] for name in numbers if not pd.isna(best[name])})
    parent.set_tags({"kdexp.best": describe(best, summary.settings)})
    view = study.save_view(summary.parent_id, [*summary.settings, "seed"], summary.metric, contour=grid_axes(summary))
    if view:
        summary.links["view"] = view


def print_summary(summary: StudySummary, most_rows: int = 15) -> None:
    """Print the answer, the best settings, what is missing and what to open."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print()
    counts = ", ".join(f"{number} {status}" for status, number in sorted(summary.counts.items()))
    title = f"study {summary.study}: {' x '.join(summary.settings) or 'runs'} ({counts})"
    if summary.table.empty:
        console.print(Text(title))
    else:
        shown = shown_table(summary).head(most_rows)
        table = Table(title=title, title_justify="left", title_style="bold")
        for name in shown.columns:
            table.add_column(name, justify="right")
        for row in shown.itertuples(index=False):
            table.add_row(*(f"{value:g}" if isinstance(value, float) else str(value) for value in row))
        console.print(table)
        if len(summary.table) > most_rows:
            console.print(Text(f"... and {len(summary.table) - most_rows} more, in summary/settings.csv"))
    for line in findings(summary):
        console.print(Text(line), soft_wrap=True)
    for line in summary.missing:
        console.print(Text(f"missing   {line}"), soft_wrap=True)
    console.print()
    command = ui_command(summary.uri)
    if not command.startswith("http"):
        console.print(Text(f"browse    {command}   then open"))
    for name in ("view", "sweep"):
        if name in summary.links:
            console.print(Text(f"{name:<9} {summary.links[name]}"), soft_wrap=True)
    if "compare" in summary.links and "view" not in summary.links:
        console.print(Text(f"compare   {summary.links['compare']}"), soft_wrap=True)


def main(arguments: Sequence[str]) -> None:
    """`python -m kdexp summary [study=<name>] [tracking.uri=<uri>]`: what a study found, as far as it is.

    Raises:
        UserError: A setting is unknown, or the study is not there.
    """
    settings = {
        "study": "distillation",
        "tracking.uri": None,
        "cache_dir": os.environ.get("KDEXP_CACHE_DIR", "~/.cache/kdexp"),
    }
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name not in settings or not equals:
            raise UserError(re.sub(r"\s", " ", argument), "no such setting", f"expected one of {', '.join(settings)}")
        settings[name] = value
    for summary in summarize_study(settings["tracking.uri"], str(settings["study"]), str(settings["cache_dir"])):
        print_summary(summary)
