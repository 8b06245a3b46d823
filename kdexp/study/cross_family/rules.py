"""What a cross-family study found, by fixed rules; `wording` puts it into words.

Differences are paired by seed, in points: 100 times the metric. When one is claimed, `kdexp.results.verdict` says.

Holm's correction runs over families of comparisons, each by itself: the gains over no teacher, what soft labels add
to hard answers where that was measured, and the contrasts between conditions and pairs. What is said about crossing
families needs teachers that are equally good: where they differ by more than the margin on validation in the direction
that would explain the finding, that is said instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd

from kdexp.results.roles import PSEUDO_LABELS, Role
from kdexp.results.statistics import (
    Interval,
    PairedDifference,
    equivalence_p_value,
    holm,
    paired_t,
    two_level_bootstrap,
)
from kdexp.results.verdict import Equivalence, Finding, find

OWN_TOKENS = "own_tokens"
STUDENT_IDS = "student_ids"
HIDDEN_WORDS = "hidden_words"
HIDDEN_POSITION = "hidden_position"
CONDITIONS = (OWN_TOKENS, STUDENT_IDS, HIDDEN_WORDS, HIDDEN_POSITION)

COLUMNS = [
    "teacher_family",
    "student_family",
    "condition",
    "seed",
    "student_validation",
    "student_test",
    "baseline_validation",
    "baseline_test",
    "teacher_validation",
    "teacher_test",
]


class Question(StrEnum):
    """What a comparison asks."""

    gain = "gain"  # a condition against no teacher
    crossing = "crossing"  # the other family's teacher against the own family's
    soft_labels = "soft_labels"  # against the teacher's hard answers
    softness = "softness"  # what soft labels add, from the other family's teacher against from the own family's
    student_ids = STUDENT_IDS  # against own tokens, as are the next two
    hidden_words = HIDDEN_WORDS
    hidden_position = HIDDEN_POSITION

    @property
    def reference(self) -> Role:
        """Whom the distilled student is measured against, before pairs or conditions are compared."""
        return PSEUDO_LABELS if self in (Question.soft_labels, Question.softness) else "baseline"


class Support(StrEnum):
    """Whether the data support one of the mechanisms that the warning mixes up."""

    supported = "supported"
    partly = "supported for some pairs"
    not_supported = "not supported"
    unsettled = "not settled by these data"
    not_measured = "not measured"


@dataclass(frozen=True)
class Contrast:
    """One comparison, in points.

    Attributes:
        difference: Mean over seeds with the paired t interval.
        bootstrap, bootstrap_90: Over seeds and test examples, 95 % and 90 %; None without per-example
            correctness of the metric.
        p_holm, p_equivalence: Corrected over the comparison's family.
        retention: Of student by teacher, mean over seeds (gain) or the difference of two such (crossing); in points.
        teacher_difference: The compared teachers' validation scores, first minus second; 0 for one teacher.
    """

    question: Question
    teacher: str
    student: str
    condition: str
    difference: PairedDifference
    bootstrap: Interval | None
    bootstrap_90: Interval | None
    retention: PairedDifference
    teacher_difference: float
    p_equivalence: float | None
    p_holm: float | None = None
    finding: Finding = Finding.unsettled

    @property
    def pair(self) -> str:
        return f"{self.teacher} -> {self.student}"

    @property
    def is_cross(self) -> bool:
        return self.teacher != self.student

    @property
    def name(self) -> str:
        """What is compared with what, as figures and tables show it."""
        match self.question:
            case Question.gain:
                return f"{self.pair}, {self.condition} - baseline"
            case Question.soft_labels:
                return f"{self.pair}, soft labels - hard answers"
            case Question.crossing:
                return f"{self.pair} - {self.student} -> {self.student}, {self.condition}"
            case Question.softness:
                return f"{self.pair} - {self.student} -> {self.student}, soft labels"
            case _:
                return f"{self.pair}, {self.condition} - {OWN_TOKENS}"


@dataclass(frozen=True)
class Mechanism:
    """What was found about one mechanism of the warning.

    Attributes:
        contrasts: The comparisons that ask about it, of pairs of different families.
        clear: Those of them that say something about it: teachers of unequal quality do not explain them as well.
    """

    question: Question
    support: Support
    contrasts: list[Contrast]
    clear: list[Contrast]


@dataclass(frozen=True)
class Verdict:
    """Everything that a cross-family study says.

    Attributes:
        gains: Every pair and condition against no teacher.
        soft_labels: Every pair, own tokens, against the teacher's hard answers; empty without that control.
        contrasts: Between pairs, and between conditions of one pair.
        margin: Half width of what counts as equivalent, in points.
    """

    gains: list[Contrast]
    soft_labels: list[Contrast]
    contrasts: list[Contrast]
    mechanisms: list[Mechanism]
    margin: float

    @property
    def comparisons(self) -> list[Contrast]:
        return [*self.gains, *self.soft_labels, *self.contrasts]


def judge(runs: pd.DataFrame, *, margin: float) -> Verdict:
    """Compare everything that a study measured, and say what it shows.

    Args:
        runs: One row per (teacher_family, student_family, condition, seed) with the other `COLUMNS`: the metric
            of student, baseline and teacher, as shares. Where `student_correct` and `baseline_correct` hold
            boolean arrays over the same test examples in every row, and the metric is their mean, intervals
            over examples are given too. With the scores of the student of pseudo-labels (its role followed by
            `_test`, `_correct`) in every row of two pairs, softness is compared as well.
        margin: In points, above 0.

    Raises:
        ValueError: A column or a value is missing, a condition is unknown, or a row is there twice.
    """
    _check(runs, margin)
    groups = {
        (str(teacher), str(student), str(condition)): rows.sort_values("seed")
        for (teacher, student, condition), rows in runs.groupby(COLUMNS[:3], sort=False)
    }
    gains, soft_labels, contrasts = [], [], []
    for key, rows in groups.items():
        teacher, student, condition = key
        gains.append(_compare(Question.gain, key, rows, None, margin))
        if condition == OWN_TOKENS and _is_measured(rows, PSEUDO_LABELS):
            soft_labels.append(_compare(Question.soft_labels, key, rows, None, margin))
        if condition != OWN_TOKENS:
            questions, reference = [Question(condition)], groups.get((teacher, student, OWN_TOKENS))
        else:
            questions, reference = [Question.crossing, Question.softness], groups.get((student, student, OWN_TOKENS))
        if reference is None or reference is rows:
            continue
        seeds = sorted(set(rows["seed"]) & set(reference["seed"]))
        if seeds:
            first, second = (group.set_index("seed", drop=False).loc[seeds] for group in (rows, reference))
            contrasts += [
                _compare(question, key, first, second, margin)
                for question in questions
                if all(_is_measured(group, question.reference) for group in (first, second))
            ]
    gains, soft_labels, contrasts = (_corrected(family, margin) for family in (gains, soft_labels, contrasts))
    asked = [question for question in Question if question not in (Question.gain, Question.soft_labels)]
    if not soft_labels:  # without the control nobody asked
        asked.remove(Question.softness)
    mechanisms = [_mechanism(question, contrasts, margin) for question in asked]
    return Verdict(gains, soft_labels, contrasts, mechanisms, margin)


def _mechanism(question: Question, contrasts: Sequence[Contrast], margin: float) -> Mechanism:
    """What the comparisons of one question say together."""
    asked = [contrast for contrast in contrasts if contrast.question == question and contrast.is_cross]
    clear = [contrast for contrast in asked if not explained_by_teachers(contrast, margin)]
    found = {contrast.finding for contrast in clear}
    if not asked:
        support = Support.not_measured
    elif found == {Finding.worse} and clear == asked:
        support = Support.supported
    elif Finding.worse in found:
        support = Support.partly
    elif found <= {Finding.equivalent, Finding.better} and clear == asked:
        support = Support.not_supported
    else:
        support = Support.unsettled
    return Mechanism(question, support, asked, clear)


def explained_by_teachers(contrast: Contrast, margin: float) -> bool:
    """Whether teachers of unequal quality would explain the finding as well as what is asked about."""
    gap = contrast.teacher_difference
    if abs(gap) <= margin:
        return False
    match contrast.finding:
        case Finding.worse:
            return gap < 0
        case Finding.better:
            return gap > 0
        case Finding.equivalent:  # a better teacher may make up for what crossing costs, and the reverse
            return True
        case _:
            return False


def _is_measured(rows: pd.DataFrame, role: Role) -> bool:
    """Whether every row has this model's score on test."""
    return f"{role}_test" in rows and bool(rows[f"{role}_test"].notna().all())


def _check(runs: pd.DataFrame, margin: float) -> None:
    if not margin > 0:
        raise ValueError(f"margin must be above 0 points, got {margin}")
    missing = [name for name in COLUMNS if name not in runs.columns]
    if missing:
        raise ValueError(f"runs lack the columns {', '.join(missing)}")
    unknown = sorted(set(runs["condition"]) - set(CONDITIONS))
    if unknown:
        raise ValueError(f"unknown condition {', '.join(unknown)}; expected one of {', '.join(CONDITIONS)}")
    unmeasured = [name for name in COLUMNS if runs[name].isna().any()]
    if unmeasured:
        raise ValueError(f"runs without a value of {', '.join(unmeasured)}; leave out those that are not finished")
    twice = runs[runs.duplicated(COLUMNS[:4])]
    if len(twice):
        raise ValueError(f"a run is there twice: {dict(twice.iloc[0][COLUMNS[:4]])}")


def _compare(
    question: Question, key: tuple[str, str, str], rows: pd.DataFrame, reference: pd.DataFrame | None, margin: float
) -> Contrast:
    """Gains of a pair and condition; with a reference, minus the reference's gains with the same seeds."""

    role = question.reference

    def difference(measure: Callable[[pd.DataFrame, Role], np.ndarray | None]) -> np.ndarray | None:
        first, second = measure(rows, role), 0.0 if reference is None else measure(reference, role)
        return None if first is None or second is None else first - second

    gains, retention, by_example = difference(_gains), difference(_retention), difference(_gains_by_example)
    assert gains is not None
    assert retention is not None
    intervals = None if by_example is None else two_level_bootstrap(by_example, (0.95, 0.90))
    bootstrap, bootstrap_90 = intervals or (None, None)
    compared = [rows] if reference is None else [rows, reference]
    teachers = [100 * float(group["teacher_validation"].mean()) for group in compared]
    return Contrast(
        question,
        *key,
        difference=paired_t(gains),
        bootstrap=bootstrap,
        bootstrap_90=bootstrap_90,
        retention=paired_t(retention),
        # A teacher that is fed foreign ids is the same one.
        teacher_difference=teachers[0] - teachers[-1] if question in (Question.crossing, Question.softness) else 0.0,
        p_equivalence=equivalence_p_value(gains, margin),
    )


def _gains(rows: pd.DataFrame, role: Role) -> np.ndarray:
    """[seeds], in points."""
    return 100 * (rows["student_test"] - rows[f"{role}_test"]).to_numpy(float)


def _retention(rows: pd.DataFrame, role: Role) -> np.ndarray:
    """Student by teacher on test, in points; nan of a teacher that scores nothing or was given ids it cannot read."""
    teacher = rows["teacher_test"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        is_told = (teacher > 0) & (rows["condition"] != STUDENT_IDS).to_numpy() & (role == "baseline")
        return np.where(is_told, 100 * rows["student_test"].to_numpy(float) / teacher, np.nan)


def _gains_by_example(rows: pd.DataFrame, role: Role) -> np.ndarray | None:
    """[seeds, examples] in points; None where correctness is not given, or is not what the metric counts."""
    if not has_examples(rows, role):
        return None
    correct = {name: np.stack(rows[f"{name}_correct"].tolist()).astype(float) for name in ("student", role)}
    for name, values in correct.items():
        if not np.allclose(values.mean(axis=1), rows[f"{name}_test"].to_numpy(float), atol=1e-6):
            return None
    return 100 * (correct["student"] - correct[role])


def has_examples(runs: pd.DataFrame, role: Role = "baseline") -> bool:
    """Whether runs say of each test example if the student and another model were right."""
    columns = ["student_correct", f"{role}_correct"]
    return set(columns) <= set(runs.columns) and bool(runs[columns].notna().all(axis=None))


def _corrected(contrasts: Sequence[Contrast], margin: float) -> list[Contrast]:
    """Holm over all of these comparisons, then the rules."""
    different = holm([contrast.difference.p_value for contrast in contrasts])
    equivalent = holm([contrast.p_equivalence for contrast in contrasts])
    corrected = [
        replace(contrast, p_holm=p_holm, p_equivalence=p_equivalence)
        for contrast, p_holm, p_equivalence in zip(contrasts, different, equivalent, strict=True)
    ]
    return [
        replace(
            contrast,
            finding=find(
                contrast.difference,
                contrast.p_holm,
                contrast.bootstrap,
                Equivalence(margin, contrast.p_equivalence, contrast.bootstrap_90),
            ),
        )
        for contrast in corrected
    ]
