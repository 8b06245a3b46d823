"""Verdicts follow from the numbers, and never say more than the intervals allow."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from kdexp.results.verdict import Finding
from kdexp.study.cross_family.report import single_pairs, table
from kdexp.study.cross_family.rules import COLUMNS, CONDITIONS, Question, Support, judge
from kdexp.study.cross_family.wording import CONDITION_NAMES, mechanism_claim, mechanism_sentences

FAMILIES = ("bert", "roberta")
# Deviations of five seeds, in points: mean 0, sample standard deviation 0.1 * sqrt(2.5)
NOISE = np.array([-0.2, 0.1, 0.0, -0.1, 0.2])


def study(
    effects=None,
    *,
    conditions=("own_tokens",),
    teachers=None,
    num_seeds: int = 5,
    gain: float = 2.0,
    scale: float = 1.0,
    random=None,
) -> pd.DataFrame:
    """Runs whose mean gains are `gain`, plus `effects[teacher, student, condition]`, in points."""
    rows = []
    for teacher in FAMILIES:
        for student in FAMILIES:
            for condition in conditions:
                noise = NOISE if random is None else random.normal(0, 0.16, size=5)
                # Another order for each group: pairs must not cancel out each other's noise.
                noise = np.roll(noise, len(rows) // num_seeds) * scale
                for seed in range(num_seeds):
                    points = gain + (effects or {}).get((teacher, student, condition), 0.0) + noise[seed]
                    baseline = 0.80 + 0.01 * seed
                    rows.append(
                        {
                            "teacher_family": teacher,
                            "student_family": student,
                            "condition": condition,
                            "seed": seed,
                            "student_validation": baseline + points / 100,
                            "student_test": baseline + points / 100,
                            "baseline_validation": baseline,
                            "baseline_test": baseline,
                            "teacher_validation": (teachers or {}).get(teacher, 0.9),
                            "teacher_test": (teachers or {}).get(teacher, 0.9),
                        }
                    )
    return pd.DataFrame(rows)


def crossing(verdict):
    return {(c.teacher, c.student): c for c in verdict.contrasts if c.question == Question.crossing}


def mechanism(verdict, question=Question.crossing):
    return next(item for item in verdict.mechanisms if item.question == question)


def claim(verdict, question=Question.crossing):
    return mechanism_claim(mechanism(verdict, question), verdict.margin)


def sentences(verdict, question=Question.crossing):
    return mechanism_sentences(mechanism(verdict, question), verdict)


BOTH_WAYS = [("bert", "roberta"), ("roberta", "bert")]


def everywhere(effect: float, condition: str = "own_tokens"):
    return {(*pair, condition): effect for pair in BOTH_WAYS}


@pytest.mark.parametrize(
    ("effect", "finding", "support", "words"),
    [
        (-3.0, Finding.worse, Support.supported, "crossing hurt"),
        (3.0, Finding.better, Support.not_supported, "crossing helped"),
        (0.0, Finding.equivalent, Support.not_supported, "equivalent within ±1 points"),
        (-0.9, Finding.worse, Support.supported, "crossing hurt"),  # shown, though within the margin
    ],
)
def test_what_five_clear_seeds_show(effect, finding, support, words):
    verdict = judge(study(everywhere(effect)), margin=1.0)
    assert {contrast.finding for contrast in crossing(verdict).values()} == {finding}
    assert mechanism(verdict).support == support
    assert claim(verdict) == f"{words} (bert -> roberta, roberta -> bert)"
    assert not any(words in sentence for sentence in sentences(verdict))  # it is said once


def test_wide_intervals_settle_nothing():
    verdict = judge(study(everywhere(-1.0), scale=8), margin=1.0)
    assert mechanism(verdict).support == Support.unsettled
    assert claim(verdict) == "not settled by these data (bert -> roberta, roberta -> bert)"


def test_a_narrower_margin_asks_for_more():
    runs = study()
    assert mechanism(judge(runs, margin=1.0)).support == Support.not_supported
    assert mechanism(judge(runs, margin=0.05)).support == Support.unsettled


@pytest.mark.parametrize("effect", [-30.0, 0.0, 30.0])
def test_one_seed_claims_nothing(effect):
    verdict = judge(study(everywhere(effect), num_seeds=1), margin=1.0)
    for contrast in [*verdict.gains, *verdict.contrasts]:
        assert contrast.finding == Finding.unsettled
        assert contrast.difference.interval is None
    assert mechanism(verdict).support == Support.unsettled
    assert all("no interval: one seed" in sentence for sentence in sentences(verdict))


def test_seeds_without_spread_claim_nothing():
    verdict = judge(study(everywhere(-5.0), scale=0), margin=1.0)
    assert {contrast.finding for contrast in verdict.contrasts} == {Finding.unsettled}
    assert "5 seeds that do not differ" in sentences(verdict)[0]


def test_pairs_may_disagree():
    verdict = judge(study({("roberta", "bert", "own_tokens"): -3.0}), margin=1.0)
    assert mechanism(verdict).support == Support.partly
    assert claim(verdict) == "crossing hurt (roberta -> bert); equivalent within ±1 points (bert -> roberta)"


def test_numbers_are_those_of_scipy():
    runs = study({("roberta", "bert", "own_tokens"): -1.0})
    verdict = judge(runs, margin=1.0)
    gains = runs.assign(gain=100 * (runs.student_test - runs.baseline_test)).pivot(
        index="seed", columns=["teacher_family", "student_family"], values="gain"
    )
    test = stats.ttest_rel(gains["roberta", "bert"], gains["bert", "bert"])
    ours = crossing(verdict)["roberta", "bert"]
    assert ours.difference.mean == pytest.approx(-1.0)
    assert ours.difference.p_value == pytest.approx(test.pvalue)
    interval = test.confidence_interval(0.95)
    assert (ours.difference.interval.low, ours.difference.interval.high) == pytest.approx(tuple(interval))
    # Two contrasts: the smaller p-value counts twice.
    assert ours.p_holm == pytest.approx(2 * test.pvalue)
    gain = next(contrast for contrast in verdict.gains if contrast.pair == "bert -> bert")
    assert gain.difference.mean == pytest.approx(gains["bert", "bert"].mean())
    expected = (100 * runs.student_test / runs.teacher_test)[runs.index[:5]].mean()
    assert gain.retention.mean == pytest.approx(expected)


def test_only_seeds_that_both_have_are_compared():
    runs = study(everywhere(-3.0))
    kept = runs[~((runs.teacher_family == "roberta") & (runs.student_family == "bert") & (runs.seed < 2))]
    assert crossing(judge(kept, margin=1.0))["roberta", "bert"].difference.num_seeds == 3
    apart = runs[(runs.teacher_family == "bert") == (runs.seed < 2)]
    verdict = judge(apart, margin=1.0)
    assert not verdict.contrasts
    assert mechanism(verdict).support == Support.not_measured


@pytest.mark.parametrize(
    ("effect", "roberta_teacher", "says"),
    [
        (-3.0, 0.86, "the roberta teacher is itself 4.00 points worse"),
        (3.0, 0.94, "the roberta teacher is itself 4.00 points better"),
        (0.0, 0.94, "the roberta teacher is itself 4.00 points better"),
        (0.0, 0.86, "the roberta teacher is itself 4.00 points worse"),
    ],
)
def test_a_better_teacher_is_no_better_family(effect, roberta_teacher, says):
    runs = study({("roberta", "bert", "own_tokens"): effect}, teachers={"bert": 0.9, "roberta": roberta_teacher})
    runs = runs[~((runs.teacher_family == "bert") & (runs.student_family == "roberta"))]
    verdict = judge(runs, margin=1.0)
    assert mechanism(verdict).support == Support.unsettled
    assert claim(verdict) == "no claim for roberta -> bert, whose teachers differ"
    assert says in sentences(verdict)[0]
    assert "says nothing about crossing" in sentences(verdict)[0]


def test_losing_with_a_better_teacher_is_told_as_loss():
    runs = study({("roberta", "bert", "own_tokens"): -3.0}, teachers={"bert": 0.9, "roberta": 0.94})
    verdict = judge(runs, margin=1.0)
    assert "crossing hurt (roberta -> bert)" in claim(verdict)
    assert mechanism(verdict).support == Support.partly


def test_each_mechanism_is_told_apart():
    conditions = ("own_tokens", "student_ids", "hidden_words", "hidden_position")
    effects = everywhere(-20.0, "student_ids") | everywhere(-2.0, "hidden_position")
    verdict = judge(study(effects, conditions=conditions), margin=1.0)
    found = {item.question: item for item in verdict.mechanisms}
    assert found[Question.crossing].support == Support.not_supported
    assert claim(verdict, Question.student_ids).startswith("feeding the student's ids hurt (")
    assert found[Question.hidden_words].support == Support.not_supported
    assert claim(verdict, Question.hidden_position).startswith("the hidden-state term by position hurt (")
    # Within a family it does no harm here, which is what puts it down to crossing.
    assert "It does not hurt bert -> bert." in sentences(verdict, Question.hidden_position)


def test_a_term_that_hurts_everywhere_is_not_put_down_to_crossing():
    effects = {(teacher, student, "hidden_position"): -2.0 for teacher in FAMILIES for student in FAMILIES}
    runs = study(effects, conditions=("own_tokens", "hidden_position"))
    said = sentences(judge(runs, margin=1.0), Question.hidden_position)
    assert "It hurts bert -> bert as well: crossing is not shown to be the reason." in said
    only_cross = runs[(runs.teacher_family != runs.student_family) | (runs.condition == "own_tokens")]
    said = sentences(judge(only_cross, margin=1.0), Question.hidden_position)
    assert any("as well was not measured" in sentence for sentence in said)


def with_hard_answers(runs: pd.DataFrame, softness) -> pd.DataFrame:
    """Give every run a student of pseudo-labels that is worse by `softness[teacher, student]` points."""
    points = [softness[pair] for pair in zip(runs.teacher_family, runs.student_family, strict=True)]
    # Its seeds scatter by themselves.
    noise = [NOISE[(3 * seed + place // 5) % 5] for place, seed in enumerate(runs.seed)]
    return runs.assign(**{"control/pseudo_labels_test": runs.student_test - (np.array(points) + noise) / 100})


SOFTNESS = {("bert", "bert"): 1.5, ("roberta", "roberta"): 1.5, ("roberta", "bert"): 0.2, ("bert", "roberta"): 1.5}


def test_softness_that_crossing_loses_is_told_apart_from_the_gain():
    verdict = judge(with_hard_answers(study(), SOFTNESS), margin=1.0)
    assert mechanism(verdict).support == Support.not_supported  # the gain itself is the same in all pairs
    assert mechanism(verdict, Question.softness).support == Support.partly
    assert claim(verdict, Question.softness) == (
        "crossing hurt (roberta -> bert); equivalent within ±1 points (bert -> roberta)"
    )
    (said,) = [text for text in sentences(verdict, Question.softness) if "The roberta teacher's soft labels" in text]
    assert "add 1.30 points less to its hard answers, for a bert student" in said
    added = {contrast.pair: contrast for contrast in verdict.soft_labels}
    assert {pair: round(item.difference.mean, 6) for pair, item in added.items()} == {
        f"{teacher} -> {student}": points for (teacher, student), points in SOFTNESS.items()
    }
    assert added["bert -> bert"].finding == Finding.better
    names = set(table(verdict.comparisons, 1.0)["comparison"])
    assert {"roberta -> bert, soft labels - hard answers", "roberta -> bert - bert -> bert, soft labels"} <= names


def test_nobody_asks_about_softness_without_the_control():
    verdict = judge(study(), margin=1.0)
    assert Question.softness not in {item.question for item in verdict.mechanisms}
    assert not verdict.soft_labels
    # Half of a pair's seeds with it: nothing can be said of that pair.
    runs = with_hard_answers(study(), SOFTNESS)
    runs.loc[(runs.teacher_family == "roberta") & (runs.seed < 2), "control/pseudo_labels_test"] = np.nan
    verdict = judge(runs, margin=1.0)
    assert {contrast.pair for contrast in verdict.soft_labels} == {"bert -> bert", "bert -> roberta"}
    assert mechanism(verdict, Question.softness).support == Support.not_measured


def test_a_better_teacher_explains_softer_labels_as_well():
    runs = with_hard_answers(study(teachers={"bert": 0.94, "roberta": 0.9}), SOFTNESS)
    said = claim(judge(runs, margin=1.0), Question.softness)
    assert said == "no claim for bert -> roberta, roberta -> bert, whose teachers differ"


def with_examples(runs: pd.DataFrame, num_examples: int, seed: int = 0) -> pd.DataFrame:
    """Give every run per-example correctness that has exactly its score."""
    random = np.random.default_rng(seed)

    def correct(score: float) -> np.ndarray:
        answers = np.zeros(num_examples, dtype=bool)
        answers[random.permutation(num_examples)[: round(score * num_examples)]] = True
        return answers

    runs = runs.copy()
    for who in ("student", "baseline"):
        arrays = [correct(score) for score in runs[f"{who}_test"]]
        runs[f"{who}_correct"] = arrays
        runs[f"{who}_test"] = [array.mean() for array in arrays]
    return runs


def test_few_test_examples_settle_less_than_seeds_alone():
    runs = study(everywhere(-3.0), scale=2.5)
    alone = crossing(judge(runs, margin=1.0))["roberta", "bert"]
    assert (alone.bootstrap, alone.finding) == (None, Finding.worse)
    few = crossing(judge(with_examples(runs, 200), margin=1.0))["roberta", "bert"]
    assert few.p_holm < 0.05
    assert not few.bootstrap.excludes_zero()
    assert few.finding == Finding.unsettled
    many = crossing(judge(with_examples(runs, 4000), margin=1.0))["roberta", "bert"]
    assert many.bootstrap.excludes_zero()
    assert many.finding == Finding.worse


def test_correctness_of_another_metric_gives_no_interval():
    runs = with_examples(study(everywhere(-3.0)), 500)
    runs["student_test"] += 0.01  # macro-F1, say
    assert all(contrast.bootstrap is None for contrast in judge(runs, margin=1.0).contrasts)


def test_single_pairs_are_tested_exactly():
    runs = with_examples(study(num_seeds=1), 100).head(1)
    runs.at[0, "student_correct"] = np.array([True] * 8 + [False] * 1 + [True] * 91)
    runs.at[0, "baseline_correct"] = np.array([False] * 8 + [True] * 1 + [True] * 91)
    (row,) = single_pairs(runs).to_dict("records")
    assert (row["only student right"], row["only baseline right"]) == (8, 1)
    assert row["p (exact McNemar)"] == "0.039"  # 20 / 512
    assert single_pairs(study()).empty


def test_no_claim_exceeds_its_intervals_and_chance_claims_stay_rare():
    random = np.random.default_rng(0)
    conditions = ("own_tokens", "student_ids")
    false_alarms, trials = 0, 50
    for trial in range(trials):
        true = 0.0 if trial % 2 else 0.4
        verdict = judge(study(everywhere(true), conditions=conditions, random=random, scale=4), margin=1.0)
        for contrast in [*verdict.gains, *verdict.contrasts]:
            interval = contrast.difference.interval
            match contrast.finding:
                case Finding.better:
                    assert interval.low > 0
                case Finding.worse:
                    assert interval.high < 0
                case Finding.equivalent:
                    # TOST at 5 % is the 90 % interval; the 95 % one is 1.30 times as wide with four degrees.
                    half = (interval.high - interval.low) / 2 * stats.t.ppf(0.95, 4) / stats.t.ppf(0.975, 4)
                    assert abs(contrast.difference.mean) + half < 1.0
        if trial % 2:
            claims = {contrast.finding for contrast in verdict.contrasts}
            false_alarms += bool(claims & {Finding.better, Finding.worse})
    # At most 5 % of families of comparisons, and chance: the 99.9 % point of 25 trials is 6.
    assert false_alarms <= stats.binom.ppf(0.999, trials // 2, 0.05)


def test_tables_tell_every_comparison():
    verdict = judge(study(everywhere(-3.0), conditions=("own_tokens", "student_ids")), margin=1.0)
    shown = table(verdict.contrasts, verdict.margin)
    assert len(shown) == len(verdict.contrasts) == 6
    row = shown[shown["comparison"] == "roberta -> bert - bert -> bert, own_tokens"].iloc[0]
    assert row["points"] == "-3.00"
    assert row["verdict"] == "crossing hurt"
    assert row["p (Holm)"] == "< 0.001"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda runs: runs.drop(columns="teacher_test"), "lack the columns teacher_test"),
        (lambda runs: runs.assign(condition="words"), "unknown condition words; expected one of own_tokens"),
        (lambda runs: pd.concat([runs, runs.head(1)]), "a run is there twice"),
        (lambda runs: runs.assign(student_test=np.nan), "without a value of student_test"),
    ],
)
def test_tables_that_cannot_be_judged_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        judge(change(study()), margin=1.0)
    with pytest.raises(ValueError, match="margin must be above 0"):
        judge(study(), margin=0.0)


def test_the_contract_of_names():
    assert CONDITIONS == ("own_tokens", "student_ids", "hidden_words", "hidden_position")
    assert CONDITION_NAMES.keys() == set(CONDITIONS)
    assert set(COLUMNS) == set(study().columns)


@pytest.mark.parametrize("test_score", [0.0, -0.2])
def test_a_teacher_that_gets_nothing_right_has_no_retention(test_score):
    runs = study().assign(teacher_test=test_score)
    verdict = judge(runs, margin=2.0)
    assert len(verdict.gains) == 4
    assert set(table(verdict.gains, 2.0)["retention"]) == {""}
