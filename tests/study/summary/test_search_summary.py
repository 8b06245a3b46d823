"""A search's summary: the winners, what confirms them, and the defaults, ordered by what can be compared."""

import pytest
from test_summary import PARENT, Store, job

from kdexp.study.search_stage import Stage, baseline_key
from kdexp.study.summary.findings import findings
from kdexp.study.summary.report import log_summary, shown_table
from kdexp.study.summary.settings import setting_label, summarize

KEY = PARENT.tags["kdexp.sweep_key"]


def trial(number, alpha, validation, *, baseline=False):
    key = baseline_key(KEY) if baseline else KEY
    run = job(alpha, 2, 0, 0.0, validation=validation, trial=f"{key}-{number}")
    for name in [name for name in run.metrics if name.startswith(("kd/", "baseline"))]:
        del run.metrics[name]
    run.params.update({"train.learning_rate": f"0.00{number}", "baseline": "False"})
    if baseline:
        del run.params["loss.alpha"]
    return run


def trained(seed, alpha, rate, validation, test, *, baseline=False):
    run = job(alpha, 2, seed, test - 0.7, validation=validation)
    run.params.update({"train.learning_rate": rate, "baseline": str(not baseline)})
    run.tags["kdexp.config_hash"] += f"{rate}{baseline}"
    if baseline:
        del run.params["loss.alpha"], run.metrics["kd/gain"]
    return run


@pytest.fixture
def search():
    """Trial 2 of the student won, and 1 of the baseline; both are confirmed with seeds 1 to 3, as are the defaults."""
    runs = [trial(1, 0.1, 0.60), trial(2, 0.5, 0.617), trial(3, 0.9, 0.579)]
    runs += [trial(1, None, 0.59, baseline=True), trial(2, None, 0.58, baseline=True)]
    for seed in (1, 2, 3):
        runs.append(trained(seed, 0.5, "0.002", 0.55 + seed / 1000, 0.56 + seed / 100))
        runs.append(trained(seed, None, "0.001", 0.54, 0.55 + seed / 200, baseline=True))
        runs.append(trained(seed, 0.3, "0.003", 0.57, 0.54))
    for place, run in enumerate(runs):
        runs[place] = run.__class__(f"id{place}", *list(run.__dict__.values())[1:])
    store = Store(runs)
    store.runs()[0].tags["kdexp.swept"] = "loss.alpha,train.learning_rate,seed"
    return store


def test_what_can_be_compared_stands_together(search):
    summary = summarize(search, "parent")
    assert summary.settings == ["stage", "loss.alpha", "train.learning_rate"]
    assert summary.table["stage"].tolist() == [
        *(Stage.confirmed, Stage.defaults, Stage.baseline),  # the same seeds, the chosen one first
        *(Stage.winner, Stage.trial, Stage.baseline_winner, Stage.baseline_trial, Stage.trial),
    ]
    assert summary.table["validation"].round(4).tolist() == [0.552, 0.57, 0.54, 0.617, 0.6, 0.59, 0.58, 0.579]
    assert shown_table(summary).columns[0] == "stage"
    assert setting_label(summary.best, summary.settings) == "loss.alpha=0.5 train.learning_rate=0.002"
    assert summary.varied == ["loss.alpha", "train.learning_rate"]


def test_the_gain_is_told_at_equal_tuning(search):
    summary = summarize(search, "parent")
    assert summary.equal_tuning.difference.mean == pytest.approx(2.0)
    assert findings(summary)[:4] == [
        "The student's best of 3 finished trials on validation: loss.alpha=0.5 train.learning_rate=0.002 (61.70 % "
        "with the seed that chose it); with other seeds validation 55.20 % ± 0.10, test 58.00 % ± 1.00 (3 seeds).",
        "The baseline's best of 2 finished trials on validation: train.learning_rate=0.001 (59.00 % with the seed "
        "that chose it); with other seeds validation 54.00 % ± 0.00, test 56.00 % ± 0.50 (3 seeds).",
        "Gain at equal tuning, both searched and both confirmed: +2.00 points (95 % [+0.76, +3.24] over 3 seeds, "
        "paired t): distillation helped.",
        "As it was set before the search: validation 57.00 % ± 0.00, test 54.00 % ± 0.00 (3 seeds), on validation "
        "no worse than what was found.",
    ]
    log_summary(summary, search.parent(), search)
    assert search.logged["best/gain_searched"] == pytest.approx(0.02)
    assert search.logged["best/gain_searched_low"] == pytest.approx(0.0076, abs=1e-4)


def test_a_search_that_is_not_confirmed_says_so(search):
    search._runs = search._runs[:6]
    summary = summarize(search, "parent")
    assert summary.table["stage"].iloc[0] == Stage.winner
    said = findings(summary)
    assert said[0].endswith("(61.70 % with the seed that chose it); not confirmed yet.")
    assert not any("equal tuning" in line for line in said)
