"""What the controls of a sweep's chosen setting say, in sentences."""

from collections.abc import Sequence

import numpy as np

from kdexp.results import verdict, wording
from kdexp.results.control_report import NAMES, text_part
from kdexp.results.record import RunRecord
from kdexp.results.roles import GOLD, PARTS, TUNED, TUNED_BASELINE, Role
from kdexp.study.summary.evidence import Comparison, Evidence


def control_lines(evidence: Evidence, records: Sequence[RunRecord]) -> list[str]:
    """Of what the gain is made, and what remains of it at equal tuning.

    Args:
        records: Those of the evidence, one per seed.
    """
    return [*_parts(evidence, records), *_tuned(evidence, records)]


def _parts(evidence: Evidence, records: Sequence[RunRecord]) -> list[str]:
    if not set(PARTS) <= set(evidence.contrasts):
        return []
    text, soft = (_told(name, evidence.contrasts[name], records) for name in PARTS)
    first = text_part(records[0].settings.get("terms", "none"))
    lines = [
        f"Of the gain, {first} are {text}; soft labels are {soft}"
        + (" (p-values Holm-corrected over the two)." if len(records) > 1 else ".")
    ]
    if all(GOLD in record.scores for record in records):
        lines.append(f"The ceiling, gold labels on all text: {_scores(records, GOLD)} on test.")
    return lines


def _tuned(evidence: Evidence, records: Sequence[RunRecord]) -> list[str]:
    if "tuned" not in evidence.contrasts:
        return []
    lines = [
        f"Gain at equal tuning, best against best: {_told('tuned', evidence.contrasts['tuned'], records)} "
        f"({NAMES[TUNED]} {_scores(records, TUNED)}, {NAMES[TUNED_BASELINE]} {_scores(records, TUNED_BASELINE)}); "
        "every seed chose its schedules on validation; alpha and temperature are fixed."
    ]
    edges = {role: _num_on_edge(records, role) for role in (TUNED, TUNED_BASELINE)}
    if any(edges.values()):
        told = ", ".join(f"{NAMES[role]} {number} of {len(records)} times" for role, number in edges.items() if number)
        lines.append(f"On the edge of the grid, beyond which a better schedule may lie: {told}.")
    return lines


def _told(name: str, comparison: Comparison, records: Sequence[RunRecord]) -> str:
    points = f"{wording.points(comparison.difference.mean)} {wording.points_of(records[0].metric)}"
    if len(records) == 1:
        gain = records[0].contrasts[name]
        return f"{points} (95 % {wording.interval(100 * gain.low, 100 * gain.high)} over test rows; one seed)"
    p_value = "" if comparison.p_value is None else f"; p {_p_value(comparison.p_value)}"
    return (
        f"{points} ({verdict.over_seeds(comparison.difference, comparison.bootstrap)}{p_value}): "
        f"{_CLAIMS[comparison.finding]}"
    )


_CLAIMS = {
    verdict.Finding.better: "shown",
    verdict.Finding.worse: "a loss is shown",
    verdict.Finding.unsettled: "not settled by these data",
}


def _p_value(value: float) -> str:
    shown = wording.p_value(value)
    return shown if shown.startswith("<") else f"= {shown}"


def _scores(records: Sequence[RunRecord], role: Role) -> str:
    values = np.array([record.score("test", role) for record in records], dtype=float)
    spread = values.std(ddof=1) if len(values) > 1 else np.nan
    return wording.mean_and_spread(values.mean(), spread, records[0].metric, with_unit=True)


def _num_on_edge(records: Sequence[RunRecord], role: Role) -> int:
    return sum(role in record.choices and record.choices[role].is_on_edge for record in records)
