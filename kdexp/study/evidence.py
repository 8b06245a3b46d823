"""What the runs of one setting show together: the gain over seeds, and over the rows that they answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kdexp.results.record import RunRecord
from kdexp.results.statistics import Interval, PairedDifference, paired_t, two_level_bootstrap
from kdexp.results.verdict import Finding, find
from kdexp.tracking.store import Study

PREDICTIONS = "predictions.parquet"


@dataclass(frozen=True)
class Evidence:
    """A gain over the same student without a teacher, in points.

    Attributes:
        difference: Mean over seeds with the paired t interval.
        bootstrap: 95 %, over seeds and test rows; None where rows are not right or wrong, or seeds are too few.
        others: The same of further metrics, by name.
    """

    difference: PairedDifference
    bootstrap: Interval | None
    others: Mapping[str, PairedDifference]

    @property
    def finding(self) -> Finding:
        return find(self.difference, self.difference.p_value, self.bootstrap)


def gather(study: Study, records: Sequence[RunRecord]) -> Evidence | None:
    """The evidence of one setting's runs; None where they have no baseline.

    Args:
        records: One per seed.
    """
    gains = [record.gain.value for record in records if record.gain is not None]
    if not gains or len(gains) < len(records):
        return None
    return Evidence(
        difference=paired_t(100 * np.array(gains)),
        bootstrap=_bootstrap(study, records) if len(records) > 1 else None,
        others={name: paired_t(100 * values) for name, values in _other_gains(records).items()},
    )


def correctness(record: RunRecord, predictions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which test rows student and baseline answered right, where that is what the metric counts; else nothing."""
    if not pd.api.types.is_string_dtype(predictions["gold"]) or "baseline" not in predictions:
        return {}
    correct = {role: (predictions[role] == predictions["gold"]).to_numpy() for role in ("student", "baseline")}
    is_counted = all(
        np.isclose(values.mean(), record.scores[role].test[record.metric]) for role, values in correct.items()
    )
    return correct if is_counted else {}


def _bootstrap(study: Study, records: Sequence[RunRecord]) -> Interval | None:
    tables = [study.table_artifact(str(record.run_id), PREDICTIONS) for record in records]
    correct = [
        {} if table is None else correctness(record, table) for record, table in zip(records, tables, strict=True)
    ]
    if not all(correct) or len({len(rows["student"]) for rows in correct}) > 1:
        return None
    differences = np.stack([rows["student"].astype(float) - rows["baseline"].astype(float) for rows in correct])
    intervals = two_level_bootstrap(100 * differences)
    return intervals[0] if intervals else None


def _other_gains(records: Sequence[RunRecord]) -> dict[str, np.ndarray]:
    """Student minus baseline of what else is a share and larger is better."""
    found = {}
    for name in ("accuracy", "macro_f1"):
        scores = [[record.scores[role].test.get(name) for role in ("student", "baseline")] for record in records]
        if name != records[0].metric and all(None not in pair for pair in scores):
            student, baseline = np.array(scores, dtype=float).T
            found[name] = student - baseline
    return found
