"""What a sweep found: every setting over its seeds, chosen on validation, reported on test."""

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from kdexp.cache import Cache
from kdexp.results.record import RunRecord
from kdexp.results.roles import CONTRASTS
from kdexp.results.statistics import paired_t
from kdexp.study.search_stage import STAGE, Stage, by_stage, with_stages
from kdexp.study.summary.choice import Candidate, Choice, choose
from kdexp.study.summary.counted import count, left_behind, missing, number, pruned, setting
from kdexp.study.summary.evidence import (
    Comparison,
    Evidence,
    FileEvidence,
    compare,
    gather,
    gather_files,
    gather_notices,
)
from kdexp.tracking.store import StoredRun, Study

_MOST_COMPARED = 40  # MLflow asks for them one by one, and a link with more does not open everywhere
_SCORES = ("validation", "test", "baseline_test", "teacher_test", "gain", "rows_low", "rows_high")
_BESIDE = ("baseline", "controls", "export")
INTERNAL = ("steps",)
"""Columns of `runs` that only the choice reads."""


@dataclass(frozen=True)
class StudySummary:
    """A sweep, or a whole study, as far as it is.

    Attributes:
        settings: Params that vary, the seed left out: one row of `table` per combination.
        runs: One row per finished run: `run_id`, settings, `seed`, `validation`, `test`, `baseline_test`,
            `teacher_test`, `gain`, and its 95 % interval over test rows: `rows_low`, `rows_high`. Of controls
            `gain_<contrast>`.
        table: One row per setting: `seeds`, mean and spread (sample standard deviation over seeds) of validation
            and test, and the gain on test with its 95 % interval over seeds (paired t), `gain_low`, `gain_high`:
            nan where there are fewer than two seeds or they do not differ. Of a single seed the interval over test
            rows, `rows_low`, `rows_high`. Those that compete first, the chosen one before all; see `choice`.
        choice: What was chosen on validation, by the places in `table`; None where no run is finished.
        chosen: The runs of the chosen setting.
        evidence: The chosen setting's gain; None where it has no baseline.
        notices: What becomes of single classes in the chosen setting.
        files: What the chosen setting's exported files are worth.
        stages: Of a search its runs by what they are; `settings` then begins with `stage`.
        equal_tuning: Of a search the confirmed student minus the confirmed baseline, each at its best; None before.
        counts: Number of runs by MLflow's status.
        missing: Jobs that are not finished, with the reason where one is known.
        left_out: Finished runs that do not count, with the reason.
        links: What to open in MLflow, by name.
        finished: The runs that count, as they are stored.
        kind: Of the sweep, as `SweepKey.kind`.
        verdict: What a study of its own found, in a sentence, where it has.
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
    left_out: list[str]
    links: dict[str, str]
    finished: Sequence[StoredRun] = ()
    choice: Choice | None = None
    chosen: Sequence[RunRecord] = ()
    evidence: Evidence | None = None
    notices: Sequence[str] = ()
    files: Mapping[str, FileEvidence] = field(default_factory=dict)
    stages: Mapping[Stage, Sequence[RunRecord]] = field(default_factory=dict)
    equal_tuning: Comparison | None = None
    kind: str = "grid"
    verdict: str = ""

    @property
    def best(self) -> pd.Series | None:
        """The setting chosen on validation."""
        return None if self.table.empty else self.table.iloc[0]

    @property
    def varied(self) -> list[str]:
        """What a person varied."""
        return [name for name in self.settings if name != STAGE]

    @property
    def varies_no_student(self) -> bool:
        """Whether all that varies is what is measured beside the student."""
        return bool(self.varied) and all(name.partition(".")[0] in _BESIDE for name in self.varied)

    @property
    def is_judged_elsewhere(self) -> bool:
        """Whether a study of its own judges what these runs show, and no setting is chosen among them."""
        return self.kind not in ("grid", "search")


def summarize_study(uri: str | None, name: str, cache_dir: str) -> list[StudySummary]:
    """Sum up every sweep of a study as far as it is, the latest last; a study without one as a whole.

    Raises:
        UserError: The store cannot be used, or holds no such study.
    """
    study = Study(uri, name, create=False)
    study.mark_cut_off(Cache(Path(cache_dir).expanduser()))
    runs = study.runs()
    sweeps = [run.run_id for run in runs if run.sweep_key]
    return [summarize(study, parent, runs) for parent in sweeps] or [summarize(study, None, runs)]


def summarize(study: Study, parent_id: str | None, all_runs: Sequence[StoredRun] | None = None) -> StudySummary:
    """Sum up a sweep (or, without one, all runs of the study).

    Args:
        all_runs: The study's runs, where they were read already.
    """
    all_runs = study.runs() if all_runs is None else all_runs
    runs = [run for run in all_runs if not run.sweep_key and parent_id in (None, run.parent_id)]
    parent = next((run for run in all_runs if run.run_id == parent_id), None)
    finished = [run for run in runs if run.status == "FINISHED" and run.metrics]
    swept = parent.tags.get("kdexp.swept", "").split(",") if parent else []
    counted = count(finished, [name for name in swept if name])
    noted = json.loads(study.text_artifact(parent_id, "jobs.json") or "{}") if parent_id else {}
    in_order = _in_order(counted.records, noted, finished)
    records = with_stages(in_order, parent.sweep_key if parent else "", counted.settings)
    stages = by_stage(records)
    settings = [STAGE, *counted.settings] if stages else counted.settings
    frame = _frame(records, settings)
    table, choice = _table(frame, settings, _planned_seeds(noted, runs))
    run_ids = [str(record.run_id) for record in counted.records]
    chosen = _of_winner(records, frame, table.iloc[0], settings) if choice else []
    return StudySummary(
        study=study.name,
        uri=study.uri,
        parent_id=parent_id,
        metric=counted.records[0].metric if counted.records else "",
        settings=settings,
        runs=frame,
        table=table,
        counts=_counts(runs),
        missing=missing(noted, runs, finished),
        left_out=counted.left_out + pruned(runs) + (left_behind(parent, all_runs) if parent else []),
        links=_links(study, parent_id, run_ids),
        finished=[run for run in finished if run.run_id in run_ids],
        choice=choice,
        chosen=chosen,
        evidence=gather(study, chosen) if chosen else None,
        notices=gather_notices(study, chosen),
        files=gather_files(study, chosen),
        stages=stages,
        equal_tuning=compare(study, stages.get(Stage.confirmed, []), stages.get(Stage.baseline, [])),
        kind=_kind(parent, settings),
        verdict=parent.tags.get("kdexp.verdict.few_labels", "") if parent else "",
    )


def _kind(parent: StoredRun | None, settings: Sequence[str]) -> str:
    """Sweeps of earlier versions do not say it."""
    said = parent.tags.get("kdexp.sweep_kind") if parent else None
    return said or ("cross_family" if "condition" in settings else "grid")


def _counts(runs: Sequence[StoredRun]) -> dict[str, int]:
    """Computations by what became of them: one that was repeated, or deleted and restored, counts once."""
    states: dict[str, str] = {}
    for run in runs:
        key = run.config_hash or run.name
        if states.get(key) != "FINISHED":
            states[key] = "PRUNED" if run.is_pruned else run.status
    return dict(Counter(states.values()))


def setting_label(row: pd.Series, settings: Sequence[str]) -> str:
    """`loss.alpha=0.5 loss.temperature=4`"""
    named = [(name, row[name]) for name in settings if name != STAGE and not pd.isna(row[name])]
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
    runs = summary.runs
    if STAGE in runs:
        runs = runs[[not Stage(stage).is_baseline for stage in runs[STAGE]]]
    means, spreads = (runs.pivot_table(values=split, index=y, columns=x, aggfunc=how) for how in ("mean", "std"))
    spreads = spreads.reindex(index=means.index, columns=means.columns)
    if (x, y) == ("loss.temperature", "loss.alpha") and 1.0 in means.index:
        for frame in (means, spreads):
            frame.loc[1.0] = frame.loc[1.0].ffill().bfill()
    return means, spreads


def _frame(records: Sequence[RunRecord], settings: Sequence[str]) -> pd.DataFrame:
    rows = [
        {"run_id": record.run_id, "name": record.name}
        | {name: number(setting(record, name)) for name in (*settings, "seed")}
        | _scores(record)
        | {f"gain_{name}": gain.value for name, gain in record.contrasts.items()}
        | {"steps": record.costs.get("student_steps", np.nan)}
        for record in records
    ]
    names = [f"gain_{name}" for name in CONTRASTS if any(name in record.contrasts for record in records)]
    return pd.DataFrame(rows, columns=["run_id", "name", *settings, "seed", *_SCORES, *names, *INTERNAL])


def contrasts_of(table: pd.DataFrame) -> list[str]:
    """What controls tell in `runs` or `table`, by its name in `CONTRASTS`."""
    return [name for name in CONTRASTS if f"gain_{name}" in table]


def _scores(record: RunRecord) -> dict[str, float]:
    gain = record.gain
    scores = (
        record.score("validation"),
        *(record.score("test", role) for role in ("student", "baseline", "teacher")),
        *((gain.value, gain.low, gain.high) if gain else (None, None, None)),
    )
    return {name: np.nan if score is None else score for name, score in zip(_SCORES, scores, strict=True)}


def _table(
    frame: pd.DataFrame, settings: Sequence[str], planned: Collection[object]
) -> tuple[pd.DataFrame, Choice | None]:
    """The settings, those that compete first, and what was chosen, by the places in the table.

    Args:
        frame: In the order of the sweep.
    """
    grouped = frame.groupby(list(settings), dropna=False, sort=False) if settings else [((), frame)]
    groups = [(values, group) for values, group in grouped if not group.empty]
    if not groups:
        return pd.DataFrame(), None
    candidates = [
        Candidate(dict(zip(group["seed"], group["validation"], strict=True)), group["steps"].mean())
        for _, group in groups
    ]
    # The trials of a search have one seed, and chose: what they confirmed is not compared with them.
    stages: list[Stage | None] = [Stage(group[STAGE].iloc[0]) if STAGE in group else None for _, group in groups]
    confirmed = [place for place, stage in enumerate(stages) if stage == Stage.confirmed]
    running = confirmed or [place for place, stage in enumerate(stages) if not (stage and stage.is_baseline)]
    running = running or list(range(len(groups)))
    choice = choose([candidates[place] for place in running], planned)
    order = [running[place] for place in choice.competing]
    rest = set(range(len(groups))) - set(order)
    order += sorted(rest, key=lambda place: (_is_trial(stages[place]), -groups[place][1]["validation"].mean()))
    places = {place: order.index(running[place]) for place in range(len(running))}
    table = pd.DataFrame([_row(settings, *groups[place]) for place in order])
    return table, choice.renumbered(places)


def _is_trial(stage: Stage | None) -> bool:
    return stage is not None and stage.is_trial


def _row(settings: Sequence[str], values: tuple[object, ...], group: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = dict(zip(settings, values, strict=True)) | {"seeds": len(group)}
    for name in ("validation", "test"):
        row |= {name: group[name].mean(), f"{name}_spread": group[name].std()}
    row |= dict(zip(("test_low", "test_high"), _interval_over_seeds(group["test"]), strict=True))
    # What some seeds lack is not told of the others alone: it would be a mean of other runs than those beside it.
    row |= {name: group[name].mean(skipna=False) for name in ("baseline_test", "teacher_test")}
    for name in ("gain", *(f"gain_{name}" for name in contrasts_of(group))):
        row[name] = group[name].mean(skipna=False)
        row |= dict(zip((f"{name}_low", f"{name}_high"), _interval_over_seeds(group[name]), strict=True))
    return row | {name: group[name].iloc[0] if len(group) == 1 else np.nan for name in ("rows_low", "rows_high")}


def _interval_over_seeds(values: pd.Series) -> tuple[float, float]:
    """95 % interval of a mean; nan where there are fewer than two seeds, they do not differ, or some lack it."""
    interval = paired_t(values.to_numpy()).interval if len(values) > 1 and values.notna().all() else None
    return (interval.low, interval.high) if interval else (np.nan, np.nan)


def _planned_seeds(noted: Mapping[str, str], runs: Sequence[StoredRun]) -> set[object]:
    """Those that each setting is to have; of a search those of its confirmation, once it has one."""
    trained = [run for run in runs if run.params.get("trial", "None") == "None"]
    seeds = {number(run.params["seed"]) for run in trained or runs if "seed" in run.params}
    if len(trained) < len(runs):
        return seeds
    return seeds | {number(seed) for name in noted.values() for seed in re.findall(r"(?:^| )seed=(\S+)", name)}


def _in_order(records: Sequence[RunRecord], noted: Mapping[str, str], runs: Sequence[StoredRun]) -> list[RunRecord]:
    """As the sweep has them; those that it does not have, and those of no sweep, as they were run."""
    places = {key: place for place, key in enumerate(noted)}
    place_of = {run.run_id: places.get(run.config_hash, len(places)) for run in runs}
    # Of one student that was measured several times the run comes first that tells most.
    return sorted(
        records, key=lambda record: (record.gain is None, -len(record.contrasts), place_of[str(record.run_id)])
    )


def _of_winner(
    records: Sequence[RunRecord], frame: pd.DataFrame, best: pd.Series, names: list[str]
) -> list[RunRecord]:
    """The runs of the chosen setting."""
    is_chosen = (frame[names].isna() & best[names].isna()) | (frame[names] == best[names])
    run_ids = set(frame[is_chosen.all(axis=1)]["run_id"])
    return [record for record in records if record.run_id in run_ids]


def _links(study: Study, parent_id: str | None, run_ids: list[str]) -> dict[str, str]:
    links = {"runs": study.url}
    if parent_id:
        links["sweep"] = study.run_url(parent_id)
        view = study.saved_view(parent_id)
        links |= {"view": view} if view else {}
    if 1 < len(run_ids) <= _MOST_COMPARED:
        links["compare"] = study.compare_url(run_ids)
    return links
