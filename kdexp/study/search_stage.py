"""What a run of a search is: a trial that chooses, or a training that confirms; of the student, or of the baseline."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum

from kdexp.results.record import RunRecord

STAGE = "stage"
"""The column of a summary that tells the runs of a search apart."""

DISTILLATION_ALONE = ("loss", "terms", "controls")
"""How settings begin that the baseline does not have."""


class Stage(StrEnum):
    """As tables say it; those that are no trial were trained with the seeds that chose nothing."""

    confirmed = "confirmed"
    baseline = "baseline, confirmed"
    defaults = "as set"
    earlier = "confirmed earlier"
    winner = "winning trial"
    baseline_winner = "baseline, winning trial"
    trial = "trial"
    baseline_trial = "baseline, trial"

    @property
    def is_trial(self) -> bool:
        return "trial" in self.value

    @property
    def is_baseline(self) -> bool:
        return "baseline" in self.value


def baseline_key(key: str) -> str:
    """What the baseline's trials begin with, where the student's begin with the sweep's key."""
    return hashlib.sha256(f"{key} baseline".encode()).hexdigest()[:32]


def with_stages(records: Sequence[RunRecord], key: str, space: Sequence[str]) -> list[RunRecord]:
    """The runs of a search with their stages among the settings; others as they are.

    Args:
        key: Of the sweep.
        space: Settings that were searched.
    """
    if not any(record.is_trial for record in records):
        return list(records)
    winners = {is_baseline: _winner(records, key, is_baseline) for is_baseline in (False, True)}
    winning = winners[False]

    def setting(record: RunRecord) -> list[str | None]:
        return [record.settings.get(name) for name in space if name != "seed"]

    tried = [setting(record) for record in records if record.is_trial]

    def stage(record: RunRecord) -> Stage:
        if record.is_trial:
            return _trial_stage(record is winners[_is_baseline(record, key)], _is_baseline(record, key))
        if record.settings.get("baseline") == "False":
            return Stage.baseline
        if winning is None or setting(record) == setting(winning):
            return Stage.confirmed
        return Stage.earlier if setting(record) in tried else Stage.defaults

    return [replace(record, settings={**record.settings, STAGE: stage(record)}) for record in records]


def _trial_stage(has_won: bool, is_baseline: bool) -> Stage:
    if is_baseline:
        return Stage.baseline_winner if has_won else Stage.baseline_trial
    return Stage.winner if has_won else Stage.trial


def _is_baseline(record: RunRecord, key: str) -> bool:
    return record.settings["trial"].startswith(baseline_key(key))


def _winner(records: Sequence[RunRecord], key: str, is_baseline: bool) -> RunRecord | None:
    """The trial that is best on validation; of equal ones the first, as Optuna has it."""
    trials = [record for record in records if record.is_trial and _is_baseline(record, key) == is_baseline]
    trials.sort(key=lambda record: int(record.settings["trial"].rpartition("-")[2]))
    scored = [record for record in trials if record.score("validation") is not None]
    return max(scored, key=lambda record: record.score("validation") or 0.0, default=None)


def by_stage(records: Sequence[RunRecord]) -> Mapping[Stage, list[RunRecord]]:
    """The runs of a search by stage."""
    return {
        stage: found for stage in Stage if (found := [item for item in records if item.settings.get(STAGE) == stage])
    }
