"""A sweep's summary, read from runs as the store holds them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from kdexp.study.summary.findings import findings
from kdexp.study.summary.report import gain_figure, heatmap, log_summary, print_summary, shown_table
from kdexp.study.summary.settings import grid, grid_axes, setting_label, summarize
from kdexp.tracking.store import StoredRun

PARENT = StoredRun(
    "parent",
    "grid",
    "RUNNING",
    0,
    {},
    {},
    {"kdexp.sweep_key": "key", "kdexp.swept": "loss.alpha,loss.temperature,seed"},
)


class Store:
    """A study whose runs are given, and that keeps what is logged to a parent run."""

    name, uri, url = "grid", "http://127.0.0.1:5000", "http://127.0.0.1:5000/#/experiments/1/runs"

    def __init__(self, runs, noted=None):
        self._runs, self._noted = [PARENT, *runs], noted or {}
        self.logged, self.views = {}, []

    def runs(self, parent=None):
        return [run for run in self._runs if parent is None or run.tags.get("mlflow.parentRunId") == parent]

    def text_artifact(self, run_id, path):
        return json.dumps(self._noted)

    def table_artifact(self, run_id, path):
        return None

    def history(self, run_id, metric):
        assert metric == "validation/accuracy"
        return [(1, 0.5), (2, 0.6)]

    def run_url(self, run_id):
        return f"{self.url}/{run_id}"

    def compare_url(self, run_ids):
        return f"{self.url}/compare"

    def saved_view(self, parent_id):
        return None

    def describe(self, text):
        self.logged["description"] = text

    def save_view(self, parent_id, settings, metrics, *, contour, scatters):
        self.scatters = scatters
        self.views.append((settings, metrics, contour))
        return f"{self.url}/view"

    def parent(self):
        def keep(content, path):
            self.logged[path] = content

        return SimpleNamespace(
            log_text=keep,
            log_table=keep,
            log_figure=keep,
            log_metrics=self.logged.update,
            set_tags=self.logged.update,
        )


def job(alpha, temperature, seed, gain, *, validation=0.7, trial=None, status="FINISHED", metric="accuracy", **tags):
    params = {"loss.alpha": alpha, "loss.temperature": temperature, "seed": seed, "trial": trial}
    key = f"{alpha}-{temperature}-{seed}-{trial}"
    metrics = {
        f"validation/{metric}": validation,
        f"test/{metric}": 0.7 + gain,
        f"baseline/test/{metric}": 0.7,
        f"teacher/test/{metric}": 0.9,
        "kd/gain": gain,
        "kd/gain_low": gain - 0.01,
        "kd/gain_high": gain + 0.01,
    }
    tags = {f"kdexp.{name}": value for name, value in tags.items()}
    tags |= {"kdexp.config_hash": key, "kdexp.primary_metric": metric, "mlflow.parentRunId": "parent"}
    return StoredRun(key, "name", status, 0, {name: str(value) for name, value in params.items()}, metrics, tags)


def test_one_seed_is_told_with_the_interval_over_test_rows():
    summary = summarize(Store([job(0.5, 2, 0, 0.02, validation=0.8), job(0.1, 2, 0, 0.03)]), "parent")
    assert summary.settings == ["loss.alpha"]
    assert findings(summary) == [
        "Chosen on validation among 2 settings: loss.alpha=0.5 (validation accuracy 80.00 %, 1 seed).",
        "Its result on test: 72.00 %; teacher 90.00 %.",
        "Gain over the same student without a teacher: +2.00 points "
        "(95 % [+1.00, +3.00] over test rows; one seed): this student is better than its baseline.",
        "Fewer than three seeds: repeat with seed=0,1,2,3,4 before you believe a difference.",
    ]


def test_several_seeds_are_told_with_the_interval_over_seeds():
    gains = (0.0, 0.01, -0.01)
    runs = [job(0.5, 2, seed, gain, validation=0.8 + gain) for seed, gain in enumerate(gains)]
    runs += [job(0.1, 2, seed, gain, validation=0.795) for seed, gain in enumerate(gains)]
    summary = summarize(Store(runs), "parent")
    # R: t.test(c(0, 1, -1)) gives -2.484138 to 2.484138.
    assert findings(summary) == [
        "Chosen on validation among 2 settings: loss.alpha=0.5 (validation accuracy 80.00 % ± 1.00, 3 seeds).",
        "Within one paired standard error of it on validation: loss.alpha=0.1.",
        "Its result on test: 70.00 % ± 1.00 (95 % [67.52, 72.48] over seeds, t); teacher 90.00 %.",
        "Gain over the same student without a teacher: +0.00 points "
        "(95 % [-2.48, +2.48] over 3 seeds, paired t): not settled by these data.",
    ]
    assert shown_table(summary).iloc[0].tolist() == [0.5, 3, "80.00 ± 1.00", "70.00 ± 1.00", "+0.00 [-2.48, +2.48]"]


def test_seeds_that_do_not_differ_have_no_interval_and_show_nothing():
    runs = [job(0.5, 2, seed, 0.0075) for seed in (0, 1)]
    summary = summarize(Store(runs), "parent")
    assert findings(summary)[2] == (
        "Gain over the same student without a teacher: +0.75 points (no interval: 2 seeds that do not differ): "
        "not settled by these data."
    )
    assert shown_table(summary)["gain, points [95 % over seeds]"].tolist() == ["+0.75"]


def test_a_student_that_takes_nothing_from_its_teacher_has_no_gain_to_tell():
    """As at the end of a run: it is the baseline itself, and nothing is left to be settled by more data."""
    said = findings(
        summarize(Store([job(1, 2, seed, 0.0, validation=0.7 + seed / 100) for seed in (0, 1, 2)]), "parent")
    )
    assert said[2] == (
        "Gain over the same student without a teacher: none to tell: with this loss the student takes nothing from "
        "the teacher, as its baseline."
    )
    assert not any("not settled" in line for line in said)


def test_what_other_rows_might_show_is_asked_too():
    """Seeds that agree about three rows of a hundred are no evidence about other rows."""
    answers = pd.DataFrame({"gold": ["a"] * 100, "student": ["a"] * 100, "baseline": ["a"] * 97 + ["b"] * 3})
    store = Store([job(0.5, 2, seed, 0.03, validation=0.7 + seed / 100) for seed in (0, 1, 2)])
    for run, gain in zip(store.runs()[1:], (0.03, 0.0301, 0.0299), strict=True):
        run.metrics.update({"kd/gain": gain, "test/accuracy": 1.0, "baseline/test/accuracy": 0.97})
    assert findings(summarize(store, "parent"))[2].endswith("distillation helped.")
    store.table_artifact = lambda run_id, path: answers
    summary = summarize(store, "parent")
    assert summary.evidence.bootstrap.low == pytest.approx(0.0, abs=1.0)
    assert "over seeds and test rows, bootstrap): not settled by these data." in findings(summary)[2]


def test_a_better_score_is_not_passed_over_in_silence():
    """Seeds 0 and 1 are planned: a setting that lacks one does not compete, and is named with what it has."""
    runs = [job(0.5, 2, seed, 0.0, validation=0.505) for seed in (0, 1)] + [job(0.1, 2, 0, 0.0, validation=0.7)]
    summary = summarize(Store(runs), "parent")
    said = findings(summary)
    assert said[0].startswith("One setting is finished: loss.alpha=0.5 (validation accuracy 50.50 %")
    assert said[1] == "Not compared, since not finished on seed 0, 1: loss.alpha=0.1 (1 finished, 70.00 %)."
    assert summary.table["loss.alpha"].tolist() == [0.5, 0.1]
    # Where a seed is planned that nobody has, those that all have are compared, and named.
    noted = {"0.5-2-2-None": "loss.alpha=0.5 seed=2"}
    said = findings(summarize(Store(runs, noted), "parent"))
    assert said[0].startswith("Chosen on validation among 2 settings: loss.alpha=0.1")
    assert said[1] == "No setting is finished on every planned seed: compared on seed 0 alone."


def test_ties_are_named_and_go_to_fewer_steps():
    runs = [job(alpha, 2, seed, 0.0) for alpha in (0.1, 0.5) for seed in (0, 1)]
    for run in runs:
        run.metrics["cost/student_steps"] = 300 if run.params["loss.alpha"] == "0.1" else 200
    summary = summarize(Store(runs), "parent")
    assert summary.best["loss.alpha"] == 0.5
    assert findings(summary)[1] == (
        "The same on validation: loss.alpha=0.1; fewer steps, then the sweep's order, decide."
    )


def test_a_cross_family_study_is_judged_by_its_own_report():
    conditions = {0.5: "own_tokens", 0.1: "student_ids"}
    store = Store([job(alpha, 2, seed, 0.05 + seed / 100) for alpha in conditions for seed in (0, 1)])
    for run in store.runs()[1:]:
        run.params["condition"] = conditions[float(run.params["loss.alpha"])]
    store._runs[0] = replace(PARENT, tags=PARENT.tags | {"kdexp.swept": "condition,seed"})
    (said,) = findings(summarize(store, "parent"))
    assert said == "What crossing families does is judged in the study's own report: cross_family/report.html."


@pytest.mark.parametrize("kind", ["few_labels", "choose_student"])
def test_of_a_study_that_judges_its_runs_itself_nothing_is_chosen(kind):
    store = Store([job(0.5, 2, 0, 0.02), job(0.1, 2, 0, 0.03), job(0.5, 3, 0, 0.02), job(0.1, 3, 0, 0.03)])
    verdict = {"kdexp.sweep_kind": kind, "kdexp.verdict.few_labels": "250 rows are worth 800"}
    store._runs[0] = replace(PARENT, tags=PARENT.tags | verdict)
    summary = summarize(store, "parent")
    assert findings(summary)[0] == "250 rows are worth 800."
    assert findings(summary)[1].endswith(f"in the study's own report: {kind}/report.html.")
    log_summary(summary, store.parent(), store)
    assert not [name for name in store.logged if name.startswith(("best/", "kdexp.best"))]
    assert "hosen on validation:" not in store.logged["summary/report.html"]
    assert not heatmap(summary).axes[0].patches


def test_what_is_measured_beside_the_student_is_no_choice():
    bare, full = job(0.5, 2, 0, 0.02), job(0.1, 2, 0, 0.02)
    for run, exported in ((bare, {}), (full, {"export": "onnx"})):
        for name in ("loss.alpha", "loss.temperature"):
            run.params.pop(name)
        run.params.update(exported)
    for name in ("kd/gain", "kd/gain_low", "kd/gain_high"):
        bare.metrics.pop(name)
    store = Store([bare, full])
    store._runs[0] = replace(PARENT, tags=PARENT.tags | {"kdexp.swept": "export"})
    summary = summarize(store, "parent")
    assert list(summary.table["export"]) == ["onnx", "none"]
    said = findings(summary)
    assert said[0].startswith("Nothing to choose, as export is measured beside the student and does not change it (")
    assert not [line for line in said if line.startswith("The same on validation")]
    assert [line for line in said if line.startswith("Gain over the same student")]


def test_the_metric_is_the_tasks():
    summary = summarize(
        Store([job(0.5, 2, 0, 0.02, metric="spearman"), job(0.1, 2, 0, 0.03, metric="spearman")]), None
    )
    assert summary.metric == "spearman"
    assert "validation spearman 0.7000, 1 seed" in findings(summary)[0]
    gain = "Gain over the same student without a teacher: +2.00 hundredths of Spearman"
    assert [line for line in findings(summary) if line.startswith(gain)]
    assert not [line for line in findings(summary) if "points" in line or " %;" in line]
    assert [name for name in shown_table(summary) if "%," in name or "points" in name] == []


def test_no_run_no_claim():
    summary = summarize(Store([job(0.5, 2, 0, 0.1, status="RUNNING")]), "parent")
    assert findings(summary) == ["No run is finished yet."]
    assert summary.best is None


def test_what_is_missing_is_named_with_its_reason():
    runs = [
        job(0.5, 2, 0, 0.02),
        job(0.1, 2, 0, 0.02, status="FAILED", failure="OutOfMemoryError: none left"),
        job(0.2, 2, 0, 0.02, status="KILLED", pruned="true", failure="epoch 2"),
    ]
    noted = {"0.5-2-0-None": "a", "0.1-2-0-None": "b", "0.2-2-0-None": "c", "0.9-2-0-None": "d"}
    summary = summarize(Store(runs, noted), "parent")
    assert summary.missing == ["b: FAILED: OutOfMemoryError: none left", "d: not begun"]
    assert summary.counts == {"FINISHED": 1, "FAILED": 1, "PRUNED": 1}


def test_the_trials_of_a_search_are_shown_and_do_not_compete():
    runs = [job(0.5, 2, 0, 0.05, trial="k-1"), job(0.5, 2, 1, 0.02), job(0.1, 2, 0, 0.03, trial="k-2")]
    summary = summarize(Store(runs), "parent")
    assert sorted(summary.runs["run_id"]) == ["0.1-2-0-k-2", "0.5-2-0-k-1", "0.5-2-1-None"]
    assert summary.choice.competing == (0,)
    assert summary.table["stage"].tolist() == ["confirmed", "winning trial", "trial"]


def test_of_several_runs_of_one_computation_the_latest_counts():
    summary = summarize(Store([job(0.5, 2, 0, 0.02), job(0.5, 2, 0, 0.04)]), "parent")
    assert summary.runs["gain"].tolist() == [0.04]
    assert setting_label(summary.best, summary.settings) == "the one setting"
    assert findings(summary)[0] == "One setting (validation accuracy 70.00 %, 1 seed)."


@pytest.fixture
def grid_of_six():
    runs = [
        job(alpha, temperature, seed, 0.01 * temperature - 0.01 * seed, validation=0.7 + alpha / 10)
        for alpha in (0.1, 0.5)
        for temperature in (1, 4)
        for seed in (0, 1)
    ]
    return Store([*runs, job(1.0, 1, 0, 0.0, validation=0.6)])


def test_the_heatmap_shows_every_setting_and_frames_the_chosen_one(grid_of_six):
    summary = summarize(grid_of_six, "parent")
    assert grid_axes(summary) == ("loss.temperature", "loss.alpha")
    means, _ = grid(summary, "test")
    # Without a teacher the temperature has no effect: the one result stands in every column.
    assert np.allclose(means.loc[1.0], 0.7)
    axes = heatmap(summary).axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert shown == ["71.0\n± 0.0", "71.0\n± 0.0", "75.0\n± 0.0", "75.0\n± 0.0", "60.0", "60.0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "4"]
    (frame,) = axes.patches
    best = summary.best
    assert frame.get_xy() == (
        list(means.columns).index(best["loss.temperature"]) - 0.5,
        list(means.index).index(best["loss.alpha"]) - 0.5,
    )


def test_the_gains_are_drawn_where_they_are(grid_of_six):
    summary = summarize(grid_of_six, "parent")
    figure = gain_figure(summary)
    assert figure.get_supxlabel().endswith("(95 % over seeds)")
    axes = figure.axes[0]
    drawn = [tuple(line.get_xdata()) for line in axes.lines]
    for _, row in summary.table.iterrows():
        assert (pytest.approx(100 * row["gain"]),) in drawn
        if not np.isnan(row["gain_low"]):
            assert (pytest.approx(100 * row["gain_low"]), pytest.approx(100 * row["gain_high"])) in drawn
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0] == setting_label(summary.best, summary.settings)


def test_the_parent_run_carries_report_tables_and_view(grid_of_six):
    summary = summarize(grid_of_six, "parent")
    log_summary(summary, grid_of_six.parent(), grid_of_six)
    logged = grid_of_six.logged
    assert logged["summary/report.html"].count("data:image/svg+xml;base64,") == 3
    assert {
        "summary/settings.csv",
        "summary/settings.json",
        "summary/runs.csv",
        "summary/heatmap.png",
    } <= logged.keys()
    assert logged["best/validation"] == pytest.approx(0.75)
    assert logged["kdexp.best"] == setting_label(summary.best, summary.settings)
    ((settings, metrics, contour),) = grid_of_six.views
    assert settings == ["loss.alpha", "loss.temperature", "seed"]
    assert metrics[:3] == ["validation/accuracy", "test/accuracy", "kd/gain"]
    assert next(name for name in logged if name.startswith("best/")) == "best/gain"
    assert contour == ("loss.temperature", "loss.alpha")


def test_the_terminal_says_what_is_missing_and_where_to_look(grid_of_six, capsys):
    grid_of_six._noted = {"x": "loss.alpha=0.7"}
    print_summary(summarize(grid_of_six, "parent"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].strip() == "study grid: loss.alpha x loss.temperature (9 FINISHED)"
    assert "missing   loss.alpha=0.7: not begun" in lines
    assert lines[-2:] == [f"sweep     {Store.url}/parent", f"compare   {Store.url}/compare"]
