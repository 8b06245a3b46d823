"""Which runs of a sweep count: of each setting and seed the latest one, and all of one state of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdexp.results.record import RunRecord
from kdexp.tracking.store import StoredRun, date_of

# Where a study does not say what it varies, these are looked at first.
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
# What does not change a result, or only tells what a run is for.
_NO_SETTINGS = (
    "tracking.",
    "hardware.",
    "cache_dir",
    "resume",
    "study",
    "parent_run",
    "trial",
    "varied",
    "condition",
    "families",
    "cross_family.",
    "few_labels.",
    "candidates",
    "budget.",
    "baseline",
)
_MOST_NAMES = 5


@dataclass(frozen=True)
class Counted:
    """What a summary is made of.

    Attributes:
        settings: Params that vary, the seed left out: what tells the records apart, together with the seed.
        left_out: A line per reason: which finished runs do not count, and why.
    """

    records: list[RunRecord]
    settings: list[str]
    left_out: list[str]


def count(finished: Sequence[StoredRun], swept: Sequence[str]) -> Counted:
    """Choose among finished runs, given from the oldest to the latest.

    Two runs of one setting and seed are one result, not two seeds: what else differs between them are the data, the
    files of a model or the libraries, and the latest run is what holds now.

    Args:
        swept: What the sweep says that it varies.
    """
    of_now, of_other_data = _latest_data(finished)
    latest = {run.config_hash: run for run in of_now}
    repeated = [run for run in of_now if latest[run.config_hash] is not run]
    records = {run.run_id: RunRecord.from_stored(run) for run in latest.values()}
    settings = _settings(swept, list(records.values()))
    by_setting = {_place(records[run.run_id], settings): run for run in latest.values()}
    replaced = [run for run in latest.values() if by_setting[_place(records[run.run_id], settings)] is not run]
    reasons = {
        "read other data than the latest run": of_other_data,
        "the same computation again": repeated,
        "computed with other files of a model, or other versions of the libraries, than a later run": replaced,
    }
    return Counted(
        records=[records[run.run_id] for run in by_setting.values()],
        settings=settings,
        left_out=[f"{_named(runs)}: {reason}" for reason, runs in reasons.items() if runs],
    )


def left_behind(sweep: StoredRun, runs: Sequence[StoredRun]) -> list[str]:
    """A line for each earlier sweep over the same settings, whose runs do not count in this one."""
    lines = []
    for other in runs:
        if not other.sweep_key or other.run_id == sweep.run_id or other.started > sweep.started:
            continue
        if other.tags.get("kdexp.sweep_settings") != sweep.tags.get("kdexp.sweep_settings", "unknown"):
            continue
        jobs = [run for run in runs if run.parent_id == other.run_id and run.status == "FINISHED"]
        if jobs:
            lines.append(
                f"{len(jobs)} {'run' if len(jobs) == 1 else 'runs'} of the sweep of {date_of(other.started)} over the "
                "same settings: the data, a model's files or the libraries have changed since"
            )
    return lines


def _latest_data(finished: Sequence[StoredRun]) -> tuple[list[StoredRun], list[StoredRun]]:
    """Those that read what the latest run with the same settings of the task read, and the others.

    Runs of earlier versions do not say what they read, and stay.
    """

    def settings(run: StoredRun) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((name, value) for name, value in run.params.items() if name.startswith("task.")))

    latest = {settings(run): run.data_digest for run in finished if run.data_digest}
    is_of_now = [run.data_digest in ("", latest.get(settings(run))) for run in finished]
    return (
        [run for run, now in zip(finished, is_of_now, strict=True) if now],
        [run for run, now in zip(finished, is_of_now, strict=True) if not now],
    )


def _settings(swept: Sequence[str], records: Sequence[RunRecord]) -> list[str]:
    """Params that vary over the records; a swept group (`teacher=bert,roberta`) shows by its name.

    What the sweep varies comes first, then what else is needed to tell the records apart.
    """
    names = [f"{name}.name" if name in _GROUPS else name for name in swept] or list(_USUAL_SETTINGS)
    # A seed of its own kind is no setting where it is the run's.
    tied = {name for name in names if name.endswith("seed") and _is_tied(records, name)}
    settings = [name for name in names if name not in tied and len({_value(record, name) for record in records}) > 1]
    # What a sweep does not vary differs because its jobs say so, as a file of each seed's own. Runs of no sweep have
    # nothing in common but the study: two that differ in more than the seed are two settings.
    count_places = _num_places if swept else _num_settings
    for name in _further_params(records, names):
        if count_places(records, [*settings, name]) > count_places(records, settings):
            settings.append(name)
    return settings


def _is_tied(records: Sequence[RunRecord], name: str) -> bool:
    """Whether it is the run's seed wherever it is set."""
    return all(_value(record, name) in (None, _value(record, "seed")) for record in records)


def _further_params(records: Sequence[RunRecord], names: Sequence[str]) -> list[str]:
    """Params that all records have and that vary, though nobody said so."""
    if not records:
        return []
    shared = set.intersection(*(set(record.settings) for record in records)) - {*names, "seed"}
    return sorted(
        name
        for name in shared
        if not name.startswith(_NO_SETTINGS)
        and len({record.settings[name] for record in records}) > 1
        and not (name.endswith("seed") and _is_tied(records, name))
    )


def _num_places(records: Sequence[RunRecord], settings: Sequence[str]) -> int:
    return len({_place(record, settings) for record in records})


def _num_settings(records: Sequence[RunRecord], settings: Sequence[str]) -> int:
    return len({tuple(_value(record, name) for name in settings) for record in records})


def _place(record: RunRecord, settings: Sequence[str]) -> tuple[object, ...]:
    # A trial chose a setting, the run that confirms it is another thing.
    return (record.is_trial, _value(record, "seed"), *(_value(record, name) for name in settings))


def _value(record: RunRecord, name: str) -> object:
    return number(setting(record, name))


def setting(record: RunRecord, name: str) -> str | None:
    """A param as it was logged; of one that is a list of options, `none` where it was left out for being empty."""
    return record.settings.get(name, "none" if name == "export" else None)


def number(text: str | None) -> object:
    """A param as the number that it is, if it is one: `4` of one run and `4.0` of another are one setting."""
    try:
        return float(text) if text is not None else None
    except ValueError:
        return text


def _named(runs: Sequence[StoredRun]) -> str:
    names = ", ".join(f"{run.name} [{run.run_id[:8]}]" for run in runs[:_MOST_NAMES])
    return names + (f" and {len(runs) - _MOST_NAMES} more" if len(runs) > _MOST_NAMES else "")


def pruned(runs: Sequence[StoredRun]) -> list[str]:
    """A line for the trials that a search stopped early."""
    stopped = {run.config_hash: run for run in runs if run.is_pruned}
    done = {run.config_hash for run in runs if run.status == "FINISHED"}
    left = [run for key, run in stopped.items() if key not in done]
    return [f"{_named(left)}: stopped early by the search"] if left else []


def missing(noted: Mapping[str, str], runs: Sequence[StoredRun], finished: Sequence[StoredRun]) -> list[str]:
    """Jobs that are not finished, each with the reason where one is known.

    Args:
        noted: Name of every job that the sweep is to have, by the hash of its config.
        runs: All runs of the sweep, from the oldest to the latest.
    """
    latest = {run.config_hash: run for run in runs}
    done = {run.config_hash for run in finished} | {run.config_hash for run in runs if run.is_pruned}

    def why(key: str) -> str:
        run = latest.get(key)
        if run is None:
            return "not begun"
        return f"{run.status}{': ' + run.failure if run.failure else ''}"

    lines = [f"{name}: {why(key)}" for key, name in noted.items() if key not in done]
    mended = set(noted.values())
    refused = {run.name: run for run in runs if not run.config_hash and run.status == "FAILED"}
    return lines + sorted(f"{name}: {run.failure or 'FAILED'}" for name, run in refused.items() if name not in mended)
