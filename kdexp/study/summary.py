"""What a sweep found: every setting over its seeds, chosen on validation, reported on test."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdexp.cache import Cache
from kdexp.results.record import RunRecord
from kdexp.results.statistics import paired_t
from kdexp.tracking.store import StoredRun, Study

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
_SCORES = ("validation", "test", "baseline", "teacher", "gain", "gain_low", "gain_high")


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
        finished: The runs themselves, the latest of each computation.
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
    finished: Sequence[StoredRun] = ()

    @property
    def best(self) -> pd.Series | None:
        """The setting chosen on validation."""
        return None if self.table.empty else self.table.iloc[0]


def summarize_study(uri: str | None, name: str, cache_dir: str) -> list[StudySummary]:
    """Sum up every sweep of a study as far as it is, the latest last; a study without one as a whole.

    Raises:
        UserError: The store cannot be used, or holds no such study.
    """
    study = Study(uri, name, create=False)
    study.mark_cut_off(Cache(Path(cache_dir).expanduser()))
    sweeps = [run.run_id for run in study.runs() if _is_parent(run)]
    return [summarize(study, parent) for parent in sweeps] or [summarize(study, None)]


def summarize(study: Study, parent_id: str | None) -> StudySummary:
    """Read a sweep (or, without one, all runs of the study) from the store and sum it up.

    Of several runs of one computation only the latest finished one counts.
    """
    all_runs = study.runs()
    runs = [run for run in (study.runs(parent=parent_id) if parent_id else all_runs) if not _is_parent(run)]
    finished = {run.config_hash: run for run in runs if run.status == "FINISHED" and run.metrics}
    records = [RunRecord.from_stored(run) for run in finished.values()]
    parent = next((run for run in all_runs if run.run_id == parent_id), None)
    settings = _settings(parent.tags.get("kdexp.swept", "").split(",") if parent else [], records)
    frame = _frame(records, settings)
    return StudySummary(
        study=study.name,
        uri=study.uri,
        parent_id=parent_id,
        metric=records[0].metric if records else "",
        settings=settings,
        runs=frame,
        table=_table(frame, settings),
        counts=dict(Counter("PRUNED" if run.is_pruned else run.status for run in runs)),
        missing=_missing(study, parent_id, runs, finished),
        links=_links(study, parent_id, [run.run_id for run in finished.values()]),
        finished=list(finished.values()),
    )


def setting_label(row: pd.Series, settings: Sequence[str]) -> str:
    """`loss.alpha=0.5 loss.temperature=4`"""
    named = [(name, row[name]) for name in settings if not pd.isna(row[name])]
    words = [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in named]
    return " ".join(words) or "the one setting"


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


def _is_parent(run: StoredRun) -> bool:
    return "kdexp.sweep_key" in run.tags


def _settings(swept: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """Params that vary over the runs; a swept group (`teacher=bert,roberta`) shows by its name."""
    names = [f"{name}.name" if name in _GROUPS else name for name in swept] or list(_USUAL_SETTINGS)
    varies = [name for name in names if len({record.settings.get(name) for record in records}) > 1]
    return [name for name in varies if name != "seed"]


def _frame(records: Sequence[RunRecord], settings: Sequence[str]) -> pd.DataFrame:
    def chosen(record: RunRecord) -> tuple[str | None, ...]:
        return tuple(record.settings.get(name) for name in settings)

    # Trials of a search chose the setting; where it was trained again to confirm it, only that counts.
    confirmed = {chosen(record) for record in records if not record.is_trial}
    rows = [
        {"run_id": record.run_id, "name": record.name}
        | {name: _number(record.settings.get(name)) for name in (*settings, "seed")}
        | _scores(record)
        for record in records
        if not (record.is_trial and chosen(record) in confirmed)
    ]
    return pd.DataFrame(rows, columns=["run_id", "name", *settings, "seed", *_SCORES])


def _scores(record: RunRecord) -> dict[str, float]:
    gain = record.gain
    scores = (
        record.score("validation"),
        *(record.score("test", role) for role in ("student", "baseline", "teacher")),
        *((gain.value, gain.low, gain.high) if gain else (None, None, None)),
    )
    return {name: np.nan if score is None else score for name, score in zip(_SCORES, scores, strict=True)}


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
        row |= dict(zip(("test_low", "test_high"), _interval_over_seeds(group["test"]), strict=True))
        row |= {name: group[name].mean() for name in ("baseline", "teacher", "gain")}
        low, high = _interval_over_seeds(group["gain"])
        if len(group) == 1:  # one seed: what is known is what other test rows would change
            low, high = group["gain_low"].iloc[0], group["gain_high"].iloc[0]
        rows.append(row | {"gain_low": low, "gain_high": high})
    if not rows:
        return pd.DataFrame()
    # What was seen with fewer seeds is less sure, and the best of many such was also lucky.
    return pd.DataFrame(rows).sort_values(["seeds", "validation"], ascending=False, ignore_index=True)


def _interval_over_seeds(values: pd.Series) -> tuple[float, float]:
    """95 % interval of a mean; nan where there are fewer than two seeds, the mean itself where they do not differ."""
    values = values.dropna()
    if len(values) < 2:
        return np.nan, np.nan
    found = paired_t(values.to_numpy())
    return (found.interval.low, found.interval.high) if found.interval else (found.mean, found.mean)


def _missing(
    study: Study, parent_id: str | None, runs: Sequence[StoredRun], finished: Mapping[str, StoredRun]
) -> list[str]:
    noted = json.loads(study.text_artifact(parent_id, "jobs.json") or "{}") if parent_id else {}
    latest = {run.config_hash: run for run in runs}

    def why(key: str) -> str:
        run = latest.get(key)
        if run is None:
            return "not begun"
        return f"{run.status}{': ' + run.tags['kdexp.failure'] if 'kdexp.failure' in run.tags else ''}"

    pruned = {run.config_hash for run in runs if run.is_pruned}
    lines = [f"{name}: {why(key)}" for key, name in noted.items() if key not in finished and key not in pruned]
    refused = [run for run in runs if not run.config_hash and run.status == "FAILED"]
    return lines + sorted({f"{run.name}: {run.tags.get('kdexp.failure', 'FAILED')}" for run in refused})


def _links(study: Study, parent_id: str | None, run_ids: list[str]) -> dict[str, str]:
    links = {"runs": study.url}
    if parent_id:
        links["sweep"] = study.run_url(parent_id)
    if 1 < len(run_ids) <= 100:
        links["compare"] = study.compare_url(run_ids)
    return links
