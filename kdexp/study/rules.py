"""What a cross-family study found, in words that follow from its numbers by fixed rules.

The rules, for every comparison (differences are paired by seed, in points: 100 times the metric):

1. Fewer than two seeds, or seeds that do not differ at all: no interval, and nothing is claimed.
2. Better or worse: the paired t test's p-value, Holm-corrected, is below 5 %, and the 95 % bootstrap interval
   over seeds and test examples, where there is one, excludes zero on the same side.
3. Equivalent within +-margin: TOST's p-value, Holm-corrected, is below 5 %, and the 90 % bootstrap interval,
   where there is one, lies within the margin.
4. Otherwise these data do not settle it.

A difference that is both shown and smaller than the margin is told as a difference. Holm's correction runs
over two families of comparisons, each by itself: the gains over no teacher, and the contrasts between
conditions and pairs. What is said about crossing families needs teachers that are equally good: where they
differ by more than the margin on validation in the direction that would explain the finding, that is said
instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd

from kdexp.results.statistics import (
    ExactMcNemar,
    Interval,
    PairedDifference,
    difference_of_differences,
    equivalence_p_value,
    exact_mcnemar,
    holm,
    paired_t,
    two_level_bootstrap,
)

ALPHA = 0.05

BASELINE = "baseline"
OWN_TOKENS = "own_tokens"
STUDENT_IDS = "student_ids"
HIDDEN_WORDS = "hidden_words"
HIDDEN_POSITION = "hidden_position"
CONDITIONS = {
    BASELINE: "no teacher",
    OWN_TOKENS: "logits, each model reads its own tokens",
    STUDENT_IDS: "logits, the teacher is fed the student's ids",
    HIDDEN_WORDS: "own tokens and a hidden-state term aligned on words",
    HIDDEN_POSITION: "own tokens and a hidden-state term by position",
}

COLUMNS = (
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
)


class Question(StrEnum):
    """What a comparison asks."""

    gain = "gain"  # a condition against no teacher
    crossing = "crossing"  # the other family's teacher against the own family's
    student_ids = STUDENT_IDS  # against own tokens, as are the next two
    hidden_words = HIDDEN_WORDS
    hidden_position = HIDDEN_POSITION


class Finding(StrEnum):
    better = "better"
    worse = "worse"
    equivalent = "equivalent"
    unsettled = "unsettled"


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
    p_holm: float | None
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
            case Question.crossing:
                return f"{self.pair} - {self.student} -> {self.student}, {self.condition}"
            case _:
                return f"{self.pair}, {self.condition} - {OWN_TOKENS}"


@dataclass(frozen=True)
class Mechanism:
    """What was found about one mechanism of the warning: `support`, and why in whole sentences."""

    question: Question
    support: Support
    claim: str
    sentences: list[str]


@dataclass(frozen=True)
class Verdict:
    """Everything that a cross-family study says.

    Attributes:
        gains: Every pair and condition against no teacher.
        contrasts: Between pairs, and between conditions of one pair.
        margin: Half width of what counts as equivalent, in points.
    """

    gains: list[Contrast]
    contrasts: list[Contrast]
    mechanisms: list[Mechanism]
    margin: float


def judge(runs: pd.DataFrame, *, margin: float) -> Verdict:
    """Compare everything that a study measured, and say what it shows.

    Args:
        runs: One row per (teacher_family, student_family, condition, seed) with the other `COLUMNS`: the metric
            of student, baseline and teacher, as shares. Where `student_correct` and `baseline_correct` hold
            boolean arrays over the same test examples in every row, and the metric is their mean, intervals
            over examples are given too. Rows of the condition `baseline` are not needed.
        margin: In points, above 0.

    Raises:
        ValueError: A column or a value is missing, a condition is unknown, or a row is there twice.
    """
    _check(runs, margin)
    groups = {
        (str(teacher), str(student), str(condition)): rows.sort_values("seed")
        for (teacher, student, condition), rows in runs.groupby(
            ["teacher_family", "student_family", "condition"], sort=False
        )
        if condition != BASELINE
    }
    gains = [_gain(*key, rows, margin) for key, rows in groups.items()]
    contrasts = []
    for (teacher, student, condition), rows in groups.items():
        if condition != OWN_TOKENS:
            question, reference = Question(condition), groups.get((teacher, student, OWN_TOKENS))
        else:
            question, reference = Question.crossing, groups.get((student, student, OWN_TOKENS))
        if reference is None or reference is rows:
            continue
        contrast = _contrast(question, teacher, student, condition, rows, reference, margin)
        if contrast is not None:
            contrasts.append(contrast)
    gains, contrasts = _corrected(gains, margin), _corrected(contrasts, margin)
    asked = [question for question in Question if question != Question.gain]
    return Verdict(gains, contrasts, [mechanism(question, contrasts, margin) for question in asked], margin)


def find(
    difference: PairedDifference,
    *,
    p_holm: float | None,
    p_equivalence: float | None,
    bootstrap: Interval | None,
    bootstrap_90: Interval | None,
    margin: float,
) -> Finding:
    """Apply the rules of this module to one comparison."""
    if difference.interval is None or p_holm is None:
        return Finding.unsettled
    sign = np.sign(difference.mean)
    same_side = bootstrap is None or (bootstrap.excludes_zero() and np.sign(bootstrap.low) == sign)
    if p_holm < ALPHA and same_side:
        return Finding.better if sign > 0 else Finding.worse
    is_within = bootstrap_90 is None or bootstrap_90.lies_within(margin)
    if p_equivalence is not None and p_equivalence < ALPHA and is_within:
        return Finding.equivalent
    return Finding.unsettled


def claim(question: Question, finding: Finding, margin: float) -> str:
    """The few words that a finding allows."""
    if finding == Finding.unsettled:
        return "not settled by these data"
    if finding == Finding.equivalent:
        return f"equivalent within ±{margin:g} points"
    helps = "helps" if finding == Finding.better else "hurts"
    subject = {
        Question.gain: "the teacher",
        Question.crossing: "crossing",
        Question.student_ids: "feeding the student's ids",
        Question.hidden_words: "the hidden-state term aligned on words",
        Question.hidden_position: "the hidden-state term by position",
    }[question]
    return f"{subject} {helps}"


def mechanism(question: Question, contrasts: Sequence[Contrast], margin: float) -> Mechanism:
    """What the comparisons of one question say together, about the pairs of different families."""
    asked = [contrast for contrast in contrasts if contrast.question == question and contrast.is_cross]
    if not asked:
        return Mechanism(question, Support.not_measured, "not measured", ["No run of this study compares it."])
    clear = [contrast for contrast in asked if not explained_by_teachers(contrast, margin)]
    found = {contrast.finding for contrast in clear}
    sentences = [_sentence(contrast, margin) for contrast in asked]
    if question in (Question.hidden_words, Question.hidden_position):
        sentences += [
            _beside_own_family(contrast, contrasts) for contrast in asked if contrast.finding == Finding.worse
        ]
    groups = [(finding, [contrast.pair for contrast in clear if contrast.finding == finding]) for finding in Finding]
    claims = [
        f"{claim(question, finding, margin)}" + (f" ({', '.join(pairs)})" if len(asked) > 1 else "")
        for finding, pairs in groups
        if pairs
    ]
    unclear = [contrast.pair for contrast in asked if contrast not in clear]
    if unclear:
        claims.append(f"no claim for {', '.join(unclear)}, whose teachers differ")
    if clear and found == {Finding.worse} and not unclear:
        support = Support.supported
    elif Finding.worse in found:
        support = Support.partly
    elif clear and found <= {Finding.equivalent, Finding.better} and not unclear:
        support = Support.not_supported
    else:
        support = Support.unsettled
    return Mechanism(question, support, "; ".join(claims), sentences)


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


def table(contrasts: Sequence[Contrast], margin: float) -> pd.DataFrame:
    """One row per comparison, in points."""
    return pd.DataFrame(
        [
            {
                "comparison": contrast.name,
                "seeds": contrast.difference.num_seeds,
                "points": show_points(contrast.difference.mean),
                "95 % over seeds": show_interval(contrast.difference.interval),
                "95 % over seeds and examples": show_interval(contrast.bootstrap),
                "p (Holm)": _show_p(contrast.p_holm),
                "p of equivalence (Holm)": _show_p(contrast.p_equivalence),
                "retention": show_mean(contrast.retention, "+.1f" if contrast.question != Question.gain else ".1f"),
                "verdict": claim(contrast.question, contrast.finding, margin)
                + (", but the teachers differ" if explained_by_teachers(contrast, margin) else ""),
            }
            for contrast in contrasts
        ]
    )


def show_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"[{show_points(interval.low)}, {show_points(interval.high)}]"


def show_points(value: float) -> str:
    """Signed, two decimals; what rounds to zero is +0.00, never -0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def show_mean(difference: PairedDifference, form: str) -> str:
    """Mean with its interval over seeds."""
    if np.isnan(difference.mean):
        return ""
    interval = difference.interval
    shown = "" if interval is None else f" [{interval.low:{form}}, {interval.high:{form}}]"
    return f"{difference.mean:{form}}{shown}"


def single_pairs(runs: pd.DataFrame) -> pd.DataFrame:
    """Exact McNemar test of each run's student against its baseline; empty without per-example correctness."""
    rows = []
    for run in runs.to_dict("records"):
        if run["condition"] == BASELINE or not _has_examples(run):
            continue
        test: ExactMcNemar = exact_mcnemar(run["student_correct"], run["baseline_correct"])
        rows.append(
            {
                "pair": f"{run['teacher_family']} -> {run['student_family']}",
                "condition": run["condition"],
                "seed": run["seed"],
                "only student right": test.only_first,
                "only baseline right": test.only_second,
                "p (exact McNemar)": _show_p(test.p_value),
            }
        )
    return pd.DataFrame(rows)


def _check(runs: pd.DataFrame, margin: float) -> None:
    if not margin > 0:
        raise ValueError(f"margin must be above 0 points, got {margin}")
    missing = [name for name in COLUMNS if name not in runs.columns]
    if missing:
        raise ValueError(f"runs lack the columns {', '.join(missing)}")
    unknown = sorted(set(runs["condition"]) - set(CONDITIONS))
    if unknown:
        raise ValueError(f"unknown condition {', '.join(unknown)}; expected one of {', '.join(CONDITIONS)}")
    key = ["teacher_family", "student_family", "condition", "seed"]
    unmeasured = [name for name in COLUMNS if runs.loc[runs["condition"] != BASELINE, name].isna().any()]
    if unmeasured:
        raise ValueError(f"runs without a value of {', '.join(unmeasured)}; leave out those that are not finished")
    twice = runs[(runs["condition"] != BASELINE) & runs.duplicated(key)]
    if len(twice):
        raise ValueError(f"a run is there twice: {dict(twice.iloc[0][key])}")


def _gain(teacher: str, student: str, condition: str, rows: pd.DataFrame, margin: float) -> Contrast:
    differences = _gains(rows)
    bootstrap, bootstrap_90 = _bootstrap(_gains_by_example(rows))
    return Contrast(
        question=Question.gain,
        teacher=teacher,
        student=student,
        condition=condition,
        difference=paired_t(differences),
        bootstrap=bootstrap,
        bootstrap_90=bootstrap_90,
        retention=paired_t(_retention(rows)),
        teacher_difference=0.0,
        p_equivalence=equivalence_p_value(differences, margin),
        p_holm=None,
    )


def _contrast(
    question: Question,
    teacher: str,
    student: str,
    condition: str,
    first: pd.DataFrame,
    second: pd.DataFrame,
    margin: float,
) -> Contrast | None:
    """Gains of `first` minus gains of `second`, on the seeds that both have; None where there are none."""
    seeds = sorted(set(first["seed"]) & set(second["seed"]))
    if not seeds:
        return None
    first, second = (rows.set_index("seed", drop=False).loc[seeds] for rows in (first, second))
    gains = [_gains(rows) for rows in (first, second)]
    examples = [_gains_by_example(rows) for rows in (first, second)]
    bootstrap, bootstrap_90 = _bootstrap(
        None if examples[0] is None or examples[1] is None else examples[0] - examples[1]
    )
    teachers = [100 * float(rows["teacher_validation"].mean()) for rows in (first, second)]
    return Contrast(
        question=question,
        teacher=teacher,
        student=student,
        condition=condition,
        difference=difference_of_differences(gains[0], gains[1]),
        bootstrap=bootstrap,
        bootstrap_90=bootstrap_90,
        retention=difference_of_differences(_retention(first), _retention(second)),
        # Only crossing compares two teachers; a teacher that is fed foreign ids is the same one.
        teacher_difference=teachers[0] - teachers[1] if question == Question.crossing else 0.0,
        p_equivalence=equivalence_p_value(gains[0] - gains[1], margin),
        p_holm=None,
    )


def _gains(rows: pd.DataFrame) -> np.ndarray:
    """[seeds], in points."""
    return 100 * (rows["student_test"] - rows["baseline_test"]).to_numpy(float)


def _retention(rows: pd.DataFrame) -> np.ndarray:
    """Student by teacher on test, in points. A metric that is zero or below has no retention."""
    teacher = rows["teacher_test"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(teacher > 0, 100 * rows["student_test"].to_numpy(float) / teacher, np.nan)


def _gains_by_example(rows: pd.DataFrame) -> np.ndarray | None:
    """[seeds, examples] in points; None where correctness is not given, or is not what the metric counts."""
    correct = {}
    for who in ("student", "baseline"):
        if not all(_has_examples(run) for run in rows.to_dict("records")):
            return None
        correct[who] = np.stack([np.asarray(values, dtype=float) for values in rows[f"{who}_correct"]])
        if not np.allclose(correct[who].mean(axis=1), rows[f"{who}_test"].to_numpy(float), atol=1e-6):
            return None
    return 100 * (correct["student"] - correct["baseline"])


def _bootstrap(differences: np.ndarray | None) -> tuple[Interval | None, Interval | None]:
    """95 % and 90 % intervals."""
    intervals = None if differences is None else two_level_bootstrap(differences, (0.95, 0.90))
    return (intervals[0], intervals[1]) if intervals else (None, None)


def _has_examples(run: dict) -> bool:
    return all(isinstance(run.get(f"{who}_correct"), np.ndarray | list) for who in ("student", "baseline"))


def _corrected(contrasts: Sequence[Contrast], margin: float) -> list[Contrast]:
    """Holm over all of these comparisons, then the rules."""
    different = holm([contrast.difference.p_value for contrast in contrasts])
    equivalent = holm([contrast.p_equivalence for contrast in contrasts])
    corrected = []
    for contrast, p_holm, p_equivalence in zip(contrasts, different, equivalent, strict=True):
        finding = find(
            contrast.difference,
            p_holm=p_holm,
            p_equivalence=p_equivalence,
            bootstrap=contrast.bootstrap,
            bootstrap_90=contrast.bootstrap_90,
            margin=margin,
        )
        corrected.append(replace(contrast, p_holm=p_holm, p_equivalence=p_equivalence, finding=finding))
    return corrected


def _sentence(contrast: Contrast, margin: float) -> str:
    """One comparison in words: what was measured first, then what it allows to say."""
    compared = {
        Question.crossing: f"A {contrast.student} student gains {{}} from the {contrast.teacher} teacher "
        f"than from that of its own family",
        Question.student_ids: f"{contrast.pair}: the student gains {{}} when its ids are fed to the teacher",
        Question.hidden_words: f"{contrast.pair}: the student gains {{}} with the hidden-state term aligned on words",
        Question.hidden_position: f"{contrast.pair}: the student gains {{}} with the hidden-state term by position",
        Question.gain: f"{contrast.pair}, {contrast.condition}: {{}} than without a teacher",
    }[contrast.question]
    difference = contrast.difference
    measured = compared.format(f"{abs(difference.mean):.2f} points {'more' if difference.mean >= 0 else 'less'}")
    if difference.interval is None:
        reason = "one seed" if difference.num_seeds == 1 else "seeds without any spread"
        return f"{measured} ({reason}: no interval, no claim)."
    interval = f"95 % {show_interval(difference.interval)} over {difference.num_seeds} seeds"
    if contrast.bootstrap is not None:
        interval += f", {show_interval(contrast.bootstrap)} over seeds and examples"
    text = f"{measured} ({interval}): {claim(contrast.question, contrast.finding, margin)}."
    if explained_by_teachers(contrast, margin):
        better = "better" if contrast.teacher_difference > 0 else "worse"
        text += (
            f" But the {contrast.teacher} teacher is itself {abs(contrast.teacher_difference):.2f} points {better} "
            "on validation, so this says nothing about crossing."
        )
    return text


def _beside_own_family(contrast: Contrast, contrasts: Sequence[Contrast]) -> str:
    """Whether a term that hurts across families hurts within the student's family as well."""
    own = next(
        (
            other
            for other in contrasts
            if other.question == contrast.question and (other.teacher, other.student) == (contrast.student,) * 2
        ),
        None,
    )
    pair = f"{contrast.student} -> {contrast.student}"
    if own is None:
        return f"Whether it hurts {pair} as well was not measured: it is not shown that crossing is the reason."
    match own.finding:
        case Finding.worse:
            return f"It hurts {pair} as well: crossing is not shown to be the reason."
        case Finding.unsettled:
            return f"Whether it hurts {pair} as well is not settled: it is not shown that crossing is the reason."
        case _:
            return f"It does not hurt {pair}."


def _show_p(value: float | None) -> str:
    if value is None:
        return ""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
