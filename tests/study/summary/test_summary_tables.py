"""The tables of a summary that other programs read: one name, one meaning, with metric and unit."""

from dataclasses import replace

import numpy as np
import pytest
from test_summary import Store, job

from kdexp.study.summary.report import log_summary
from kdexp.study.summary.settings import summarize
from kdexp.study.summary.tables import runs_table, settings_table
from kdexp.tracking.store import StoredRun

RUNS = [job(0.5, 2, seed, gain, validation=0.8) for seed, gain in enumerate((0.02, 0.03, 0.01))]
RUNS += [job(0.1, 2, 0, 0.03)]


def test_columns_of_runs_say_metric_unit_and_interval():
    table = runs_table(summarize(Store(RUNS), "parent"))
    assert list(table.columns) == [
        *("run_id", "run_name", "loss.alpha", "seed"),
        *("validation_accuracy_fraction", "test_accuracy_fraction"),
        *("baseline_test_accuracy_fraction", "teacher_test_accuracy_fraction", "gain_accuracy_fraction"),
        *("gain_accuracy_fraction_low_over_test_rows", "gain_accuracy_fraction_high_over_test_rows"),
    ]
    first = table.iloc[0]
    assert first["gain_accuracy_fraction_high_over_test_rows"] == pytest.approx(0.03)
    assert first["teacher_test_accuracy_fraction"] == 0.9


def test_an_interval_over_seeds_and_one_over_test_rows_have_columns_of_their_own():
    several, single = settings_table(summarize(Store(RUNS), "parent")).to_dict("records")
    assert (several["seeds"], single["seeds"]) == (3, 1)
    low, rows = "gain_accuracy_fraction_low_over_seeds", "gain_accuracy_fraction_low_over_test_rows"
    assert several[low] == pytest.approx(0.02 - 0.01 * 4.302653 / np.sqrt(3), abs=1e-6)
    assert np.isnan(several[rows])
    assert np.isnan(single[low])
    assert single[rows] == pytest.approx(0.02)
    assert several["mean_gain_accuracy_fraction"] == pytest.approx(0.02)
    assert several["spread_test_accuracy_fraction"] == pytest.approx(0.01)


def test_a_swept_setting_may_be_called_as_a_model_is():
    """`-m baseline=true,false`."""
    parent = StoredRun("parent", "grid", "FINISHED", 0, {}, {}, {"kdexp.sweep_key": "key", "kdexp.swept": "baseline"})
    runs = [job(alpha, 2, 0, 0.02) for alpha in (0.1, 0.5)]
    runs = [
        replace(run, params=run.params | {"loss.alpha": "0.1", "baseline": str(value)})
        for run, value in zip(runs, (True, False), strict=True)
    ]
    summary = summarize(Store(runs), "parent", [parent, *runs])
    assert summary.settings == ["baseline"]
    assert {"baseline", "baseline_test_accuracy_fraction"} <= set(runs_table(summary).columns)


@pytest.mark.parametrize(
    ("metric", "column"),
    [
        ("macro_f1", "test_macro_f1_fraction"),
        ("spearman", "test_spearman"),
        ("tag_accuracy", "test_tag_accuracy_fraction"),
    ],
)
def test_the_metric_is_the_tasks(metric, column):
    runs = [job(alpha, 2, 0, 0.02, metric=metric) for alpha in (0.1, 0.5)]
    assert column in runs_table(summarize(Store(runs), "parent"))


def test_what_both_files_name_means_the_same_in_both():
    """Besides settings and intervals over test rows they share no name."""
    store = Store(RUNS)
    log_summary(summarize(store, "parent"), store.parent(), store)
    runs, settings = (store.logged[f"summary/{name}.csv"] for name in ("runs", "settings"))
    shared = {"loss.alpha", *(name for name in runs if name.endswith("_over_test_rows"))}
    assert set(runs) & set(settings) == shared
    assert list(store.logged["summary/settings.json"]) == list(settings)
    (single,) = settings[settings["seeds"] == 1].index
    alone = runs[runs["loss.alpha"] == settings["loss.alpha"][single]].iloc[0]
    for name in shared:
        assert alone[name] == settings[name][single]
