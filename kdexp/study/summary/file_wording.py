"""What the exported files of a sweep's chosen setting say, in sentences."""

from collections.abc import Mapping, Sequence

import numpy as np

from kdexp.results import verdict, wording
from kdexp.results.record import RunRecord
from kdexp.results.roles import file_role
from kdexp.study.summary.evidence import Comparison, FileEvidence

_GAINS = {
    verdict.Finding.better: "distillation helped",
    verdict.Finding.worse: "distillation hurt",
}


def file_lines(files: Mapping[str, FileEvidence], records: Sequence[RunRecord]) -> list[str]:
    """How good each file is as it ships, and what it lost on the way.

    Args:
        records: Of the chosen setting, one per seed.
    """
    return [_line(name, evidence, records) for name, evidence in files.items()]


def _line(name: str, evidence: FileEvidence, records: Sequence[RunRecord]) -> str:
    values = np.array([record.score("test", file_role(name)) for record in records], dtype=float)
    metric, points = records[0].metric, wording.points_of(records[0].metric)
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    score = wording.mean_and_spread(values.mean(), spread, metric, with_unit=True)
    parts = [f"As shipped, {name}: {score} on test"]
    if evidence.gain is not None:
        found = _GAINS.get(evidence.gain.finding, "not settled by these data")
        parts.append(
            f"gain {wording.points(evidence.gain.difference.mean)} {points} ({_over(name, evidence.gain, records)})"
        )
        parts[-1] += f": {found}" if len(records) > 1 else ""
    return f"{'; '.join(parts)}; against torch {_change(name, evidence.against_float32, records)}."


def _over(name: str, comparison: Comparison, records: Sequence[RunRecord]) -> str:
    """The intervals of a gain: of one seed that over test rows."""
    if len(records) > 1:
        return verdict.over_seeds(comparison.difference, comparison.bootstrap)
    gain = records[0].shipped[name].gain
    assert gain
    return f"95 % {wording.interval(100 * gain.low, 100 * gain.high)} over test rows; one seed"


def _change(name: str, comparison: Comparison, records: Sequence[RunRecord]) -> str:
    """`within noise`, or what it loses, with the intervals that say so."""
    if len(records) == 1:
        found = records[0].shipped[name].against_float32
        assert found
        return f"{wording.change(100 * found.value, 100 * found.low, 100 * found.high)} (over test rows; one seed)"
    if comparison.difference.interval is None and not comparison.difference.mean:
        return "no different in any seed"
    mean, points = comparison.difference.mean, wording.points_of(records[0].metric)
    over = verdict.over_seeds(comparison.difference, comparison.bootstrap)
    match comparison.finding:
        case verdict.Finding.better:
            return f"it gains {mean:.2f} {points} ({over})"
        case verdict.Finding.worse:
            return f"it loses {-mean:.2f} {points} ({over})"
    return f"within noise: {wording.points(mean)} {points} ({over})"
