"""The report of a cross-family study shows its verdict, and works with whatever a study has."""

import numpy as np
import pandas as pd
import pytest

from kdexp.results.diagnostics import Calibration, TokenizerStatistics
from kdexp.results.record import RunRecord, Scores
from kdexp.results.report import Paragraph, Preformatted, html_page, markdown_page
from kdexp.results.terminal import print_blocks
from kdexp.study.cross_family.report import forest_figure, matrix_figure, report_blocks, verdict_blocks
from kdexp.study.cross_family.rules import COLUMNS, judge
from kdexp.study.cross_family.study import tidy

NOISE = (-0.002, 0.001, 0.0, -0.001, 0.002)


def runs(effect: float, *, num_seeds: int = 5, conditions=("own_tokens", "student_ids"), examples: bool = False):
    rows = []
    for place, (teacher, student) in enumerate([("bert", "bert"), ("roberta", "bert")]):
        for condition in conditions:
            for seed in range(num_seeds):
                score = 0.82 + NOISE[(seed + place) % 5] + (effect if teacher != student else 0.0)
                row = {
                    "teacher_family": teacher,
                    "student_family": student,
                    "condition": condition,
                    "seed": seed,
                    "student_validation": score,
                    "student_test": score,
                    "baseline_validation": 0.8,
                    "baseline_test": 0.8,
                    "teacher_validation": 0.9,
                    "teacher_test": 0.9,
                }
                if examples:
                    row["student_correct"] = np.arange(1000) < round(1000 * score)
                    row["baseline_correct"] = np.arange(1000) < 800
                rows.append(row)
    return pd.DataFrame(rows)


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def test_matrix_shows_every_gain_with_its_interval():
    verdict = judge(runs(-0.05), margin=1.0)
    axes = matrix_figure(verdict.gains, "own_tokens").axes[0]
    own, cross = verdict.gains[0], verdict.gains[2]
    assert texts(axes) == [
        f"{item.difference.mean:+.2f}\n[{item.difference.interval.low:+.2f}, {item.difference.interval.high:+.2f}]"
        for item in (own, cross)
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["bert", "roberta"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["bert"]


def test_matrices_of_all_conditions_share_colours_and_order():
    """Even where a condition has fewer pairs, in another order, and smaller gains."""
    table = runs(-0.05)
    others = runs(0.01).assign(student_family="roberta")
    swapped = others[others.condition == "own_tokens"].iloc[::-1]
    gains = judge(pd.concat([swapped, table]), margin=1.0).gains
    axes = [matrix_figure(gains, condition).axes[0] for condition in ("own_tokens", "student_ids")]
    for labels in ("get_xticklabels", "get_yticklabels"):
        first, second = ([label.get_text() for label in getattr(each, labels)()] for each in axes)
        assert first == second
    assert axes[0].images[0].get_clim() == axes[1].images[0].get_clim()


def test_matrix_tells_what_was_not_run():
    table = runs(-0.05)
    others = table.assign(student_family="roberta")[table.teacher_family == "bert"]
    axes = matrix_figure(judge(pd.concat([table, others]), margin=1.0).gains, "own_tokens").axes[0]
    assert texts(axes).count("not run") == 1
    single = matrix_figure(judge(runs(0.0, num_seeds=1), margin=1.0).gains, "own_tokens").axes[0]
    assert all("[" not in text for text in texts(single))


def test_forest_draws_every_comparison_where_it_is():
    verdict = judge(runs(-0.05, examples=True), margin=1.0)
    shown = [*verdict.gains, *verdict.contrasts]
    axes = forest_figure(shown, verdict.margin).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [contrast.name for contrast in shown]
    drawn = [tuple(line.get_xdata()) for line in axes.lines]
    for contrast in shown:
        assert (contrast.difference.mean,) in drawn
        for interval in (contrast.difference.interval, contrast.bootstrap):
            if interval is not None:
                assert (interval.low, interval.high) in drawn


@pytest.mark.parametrize("examples", [False, True])
def test_report_says_what_the_verdict_says(examples):
    table = runs(-0.05, examples=examples)
    verdict = judge(table, margin=1.0)
    blocks = report_blocks(
        verdict,
        table,
        metric="accuracy",
        data="reviews (1,000 test rows)",
        tokenizers={"bert": TokenizerStatistics(1000, 1.2, 0.01, 0.0, False)},
        calibrations={"bert": Calibration(0.9, 0.03, 0.2, 4.0, 0.6, 0.69)},
        notes=["Compact models from scratch."],
        about=[Preformatted("python -m kdexp experiment=cross_family")],
    )
    page, text = html_page("May families be crossed?", blocks), markdown_page("May families be crossed?", blocks)
    for words in (
        "crossing hurt",
        "5 seeds per comparison",
        "within ±1 points",
        "over 4 gains",
        "Compact models from scratch.",
        "experiment=cross_family",
    ):
        assert words in text, words
        assert words in page, words
    assert isinstance(blocks[0], Paragraph)
    assert blocks[0].text.endswith("reading its own tokens: crossing hurt.")
    assert text.count("crossing hurt") == 2  # there, and in the table of all comparisons
    assert ("test examples agrees" in text) == examples
    assert ("p (exact McNemar)" in text) == examples
    assert page.count("<img ") == 3  # two matrices, one forest


def test_report_of_one_seed_claims_nothing():
    table = runs(-0.5, num_seeds=1)
    verdict = judge(table, margin=1.0)
    assert {str(item.support) for item in verdict.mechanisms} == {"not settled by these data", "not measured"}
    text = markdown_page(
        "t", report_blocks(verdict, table, metric="accuracy", data="d", tokenizers={}, calibrations={})
    )
    for claim in ("hurts", "helps", "equivalent within"):
        assert claim not in text.replace("It does not hurt", "")


class Store:
    """A study of one pair, run with two settings of alpha: the second is better on validation."""

    def __init__(self):
        self.predictions = pd.DataFrame({"gold": ["a", "b"], "student": ["a", "b"], "baseline": ["a", "a"]})

    def table_artifact(self, run_id, path):
        assert path == "predictions.parquet"
        return self.predictions

    def records(self):
        return [self.record(alpha, seed) for alpha in ("0.1", "0.9") for seed in ("0", "1")]

    def record(self, alpha, seed):
        settings = {"teacher.family": "roberta", "student.family": "bert", "condition": "own_tokens", "seed": seed}
        scores = {
            role: Scores({"accuracy": value + float(alpha) / 100}, {"accuracy": value})
            for role, value in (("student", 1.0), ("baseline", 0.5), ("teacher", 0.9))
        }
        return RunRecord("name", "accuracy", scores, settings | {"loss.alpha": alpha}, run_id="id")


def test_the_setting_that_is_best_on_validation_stands_for_a_pair():
    store = Store()
    frame = tidy(store, store.records())
    assert frame["setting"].tolist() == ["0.9 None"] * 2
    assert set(COLUMNS) <= set(frame.columns)
    row = frame.iloc[0]
    assert (row["student_test"], row["baseline_test"], row["teacher_test"]) == (1.0, 0.5, 0.9)
    assert row["baseline_correct"].tolist() == [True, False]
    assert row["num_test_rows"] == 2
    assert tidy(store, []).empty


@pytest.mark.parametrize(
    ("gold", "student"),
    [(["a", "c"], ["a", "b"]), ([0.5, 1.0], [0.5, 1.0]), ([["a"], ["b"]], [["a"], ["b"]])],
)
def test_rows_are_right_or_wrong_only_where_the_metric_counts_them(gold, student):
    """Here the student's score is 1: not the share of right rows, or the rows are numbers or lists."""
    store = Store()
    store.predictions = pd.DataFrame({"gold": gold, "student": student, "baseline": student})
    assert "student_correct" not in tidy(store, store.records()).columns


def test_the_terminal_says_what_the_report_says(capsys):
    verdict = judge(runs(-0.05), margin=1.0)
    print_blocks(verdict_blocks(verdict))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "",
        "May families be crossed?",
        "Crossing families, with logits only and each model reading its own tokens: crossing hurt.",
    ]
    assert lines[3].startswith("  A bert student gains")
    assert lines[-1] == "A hidden-state term across families, position by position: not measured."
