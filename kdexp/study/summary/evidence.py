"""What the runs of one setting show together: the gain over seeds, and over the rows that they answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdexp.results import wording
from kdexp.results.classes import class_notices, count_classes, summed
from kdexp.results.record import RunRecord
from kdexp.results.roles import CONTRASTS, PARTS, Role, file_role, is_teacher
from kdexp.results.statistics import Gain, Interval, PairedDifference, holm, paired_t, two_level_bootstrap
from kdexp.results.verdict import Finding, find
from kdexp.tracking.store import Study

PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class Comparison:
    """One role minus another, in points.

    Attributes:
        difference: Mean over seeds with the paired t interval.
        bootstrap: 95 %, over seeds and test rows; None where rows are not right or wrong, or seeds are too few.
        p_value: Of no difference, Holm-corrected for what is claimed together with it; None without an interval.
    """

    difference: PairedDifference
    bootstrap: Interval | None
    p_value: float | None

    @property
    def finding(self) -> Finding:
        return find(self.difference, self.p_value, self.bootstrap)


@dataclass(frozen=True)
class Evidence(Comparison):
    """A gain over the same student without a teacher, in points.

    Attributes:
        others: The same of further metrics, by name.
        contrasts: The same of what the controls tell, by their name in `results.roles.CONTRASTS`. The two parts of
            the gain are corrected together, and their bootstraps draw the same seeds and rows.
    """

    others: Mapping[str, PairedDifference]
    contrasts: Mapping[str, Comparison]


@dataclass(frozen=True)
class FileEvidence:
    """What an exported file of one setting is worth, in points.

    Attributes:
        gain: The file over the same student without a teacher; None without a baseline.
        against_float32: The file minus the student as it was trained.
    """

    gain: Comparison | None
    against_float32: Comparison


def gather_files(study: Study, records: Sequence[RunRecord]) -> dict[str, FileEvidence]:
    """The evidence of the files that all runs of a setting exported.

    Args:
        records: One per seed.
    """
    names = [name for name in (records[0].shipped if records else ()) if _exported_by_all(name, records)]
    if not names:
        return {}
    correct = _correctness(records, _tables(study, records)) if len(records) > 1 else None

    def comparison(name: str, gains: Sequence[Gain | None], other: Role) -> Comparison | None:
        values = [100 * gain.value for gain in gains if gain is not None]
        if len(values) < len(records):
            return None
        difference = paired_t(values)
        return Comparison(difference, _bootstrap(correct, file_role(name), other), difference.p_value)

    found = {}
    for name in names:
        against = comparison(name, [record.shipped[name].against_float32 for record in records], "student")
        assert against  # every run that exports compares
        found[name] = FileEvidence(
            comparison(name, [record.shipped[name].gain for record in records], "baseline"), against
        )
    return found


def _exported_by_all(name: str, records: Sequence[RunRecord]) -> bool:
    return all(
        file_role(name) in record.scores and record.shipped[name].against_float32 is not None for record in records
    )


def gather(study: Study, records: Sequence[RunRecord]) -> Evidence | None:
    """The evidence of one setting's runs; None where they have no baseline.

    Args:
        records: One per seed.
    """
    gains = [record.gain.value for record in records if record.gain is not None]
    if not gains or len(gains) < len(records):
        return None
    tables = _tables(study, records)
    correct = _correctness(records, tables) if len(records) > 1 else None
    difference = paired_t(100 * np.array(gains))
    return Evidence(
        difference=difference,
        bootstrap=_bootstrap(correct, "student", "baseline"),
        p_value=difference.p_value,
        others={name: paired_t(100 * values) for name, values in _other_gains(records).items()},
        contrasts=_contrasts(records, correct),
    )


def correctness(record: RunRecord, predictions: pd.DataFrame) -> dict[Role, np.ndarray]:
    """Which test rows each model answered right, where that is what the metric counts; else nothing."""
    if not pd.api.types.is_string_dtype(predictions["gold"]):
        return {}
    roles = [role for role in record.scores if role in predictions and not is_teacher(role)]
    correct = {role: (predictions[role] == predictions["gold"]).to_numpy() for role in roles}
    is_counted = all(
        np.isclose(values.mean(), record.scores[role].test[record.metric]) for role, values in correct.items()
    )
    return correct if is_counted else {}


def _tables(study: Study, records: Sequence[RunRecord]) -> list[pd.DataFrame | None]:
    """What each run's models answered on test."""
    return [study.table_artifact(str(record.run_id), PREDICTIONS) for record in records]


def _correctness(records: Sequence[RunRecord], tables: Sequence[pd.DataFrame | None]) -> dict[Role, np.ndarray] | None:
    """[seeds, rows] of each role that all runs have; None where rows are not right or wrong, or not the same."""
    correct = [
        {} if table is None else correctness(record, table) for record, table in zip(records, tables, strict=True)
    ]
    if not all(correct) or len({len(rows["student"]) for rows in correct}) > 1:
        return None
    shared = [role for role in correct[0] if all(role in rows for rows in correct)]
    return {role: np.stack([rows[role] for rows in correct]).astype(float) for role in shared}


def _bootstrap(correct: Mapping[Role, np.ndarray] | None, role: Role, other: Role) -> Interval | None:
    if correct is None or role not in correct or other not in correct:
        return None
    intervals = two_level_bootstrap(100 * (correct[role] - correct[other]))
    return intervals[0] if intervals else None


def compare(study: Study, firsts: Sequence[RunRecord], seconds: Sequence[RunRecord]) -> Comparison | None:
    """The students of some runs minus those of others, on test, by seed; None where no seed has both."""
    pairs = [
        (first, second)
        for first in firsts
        for second in seconds
        if first.settings.get("seed") == second.settings.get("seed")
    ]
    scores = [(first.score("test"), second.score("test")) for first, second in pairs]
    differences = [100 * (first - second) for first, second in scores if first is not None and second is not None]
    if not differences or len(differences) < len(pairs):
        return None
    correct = [_correctness(runs, _tables(study, runs)) for runs in zip(*pairs, strict=True)]
    bootstrap = None
    if len(pairs) > 1 and correct[0] is not None and correct[1] is not None:
        bootstrap = _bootstrap({"student": correct[0]["student"], "other": correct[1]["student"]}, "student", "other")
    difference = paired_t(differences)
    return Comparison(difference, bootstrap, difference.p_value)


def _contrasts(records: Sequence[RunRecord], correct: Mapping[Role, np.ndarray] | None) -> dict[str, Comparison]:
    """What all runs have of them."""
    names = [name for name in CONTRASTS if all(name in record.contrasts for record in records)]
    differences = {name: paired_t([100 * record.contrasts[name].value for record in records]) for name in names}
    p_values = {name: difference.p_value for name, difference in differences.items()}
    parts = [name for name in PARTS if name in differences]
    p_values |= dict(zip(parts, holm([p_values[name] for name in parts]), strict=True))
    return {
        name: Comparison(difference, _bootstrap(correct, *CONTRASTS[name]), p_values[name])
        for name, difference in differences.items()
    }


def gather_notices(study: Study, records: Sequence[RunRecord]) -> list[str]:
    """Which models of one setting answer one class only, and which classes distillation loses; of several classes.

    Args:
        records: One per seed, whose test rows are counted together.
    """
    tables = [table for table in _tables(study, records) if table is not None]
    if not all(pd.api.types.is_string_dtype(table["gold"]) for table in tables):
        return []
    # A teacher may have no answer about some rows.
    roles = [
        role
        for role in ("teacher", "baseline", "student")
        if tables and all(role in table and table[role].notna().all() for table in tables)
    ]
    return class_notices(
        {
            role: summed([count_classes(table["gold"].tolist(), table[role].tolist()) for table in tables])
            for role in roles
        }
    )


def _other_gains(records: Sequence[RunRecord]) -> dict[str, np.ndarray]:
    """Student minus baseline of what else is a share and larger is better."""
    found = {}
    for name in wording.SHARES:
        scores = [[record.scores[role].test.get(name) for role in ("student", "baseline")] for record in records]
        if name != records[0].metric and all(None not in pair for pair in scores):
            student, baseline = np.array(scores, dtype=float).T
            found[name] = student - baseline
    return found
