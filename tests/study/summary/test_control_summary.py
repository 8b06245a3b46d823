"""What a sweep says of its controls: the parts of the gain, and what remains of it at equal tuning."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp
from test_summary import PARENT, Store

from kdexp.results.record import Choice, RunRecord, Scores
from kdexp.results.roles import CONTRASTS
from kdexp.results.statistics import Gain
from kdexp.study.summary.findings import findings
from kdexp.study.summary.report import log_summary, shown_table
from kdexp.study.summary.settings import summarize
from kdexp.study.summary.tables import runs_table, settings_table
from kdexp.tracking.store import StoredRun

SHARES = {
    "baseline": 0.60,
    "control/pseudo_labels": 0.70,
    "student": 0.72,
    "control/gold": 0.8,
    "control/tuned_baseline": 0.71,
    "control/tuned": 0.73,
}


class Predicted(Store):
    """A study whose runs answer 400 test rows."""

    def __init__(self, seeds=5, shares=SHARES, same=()):
        self.tables = {f"run{seed}": predictions(seed, shares, same) for seed in range(seeds)}
        super().__init__([stored(seed, self.tables[f"run{seed}"], shares) for seed in range(seeds)])

    def table_artifact(self, run_id, path):
        return self.tables[run_id]


def predictions(seed, shares, same) -> pd.DataFrame:
    """Rows are as hard for one model as for another.

    Args:
        same: Pairs of roles that answer alike.
    """
    draw, hardness = np.random.default_rng([1, seed]), np.random.default_rng(0).random(400)
    columns = {role: np.where(hardness + draw.normal(0, 0.1, 400) < share, "a", "b") for role, share in shares.items()}
    columns |= {role: columns[other] for role, other in same}
    return pd.DataFrame({"gold": ["a"] * 400, **columns})


def stored(seed, table, shares) -> StoredRun:
    score = {role: float((table[role] == "a").mean()) for role in shares}
    scores = {role: Scores({"accuracy": value}, {"accuracy": value}) for role, value in score.items()}
    scores["teacher"] = Scores({"accuracy": 0.9}, {"accuracy": 0.9}, 9)

    def gain(role, other):
        value = score[role] - score[other]
        return Gain(value, value - 0.01, value + 0.01)

    record = RunRecord(
        name="run",
        metric="accuracy",
        scores=scores,
        gain=gain("student", "baseline"),
        contrasts={name: gain(*roles) for name, roles in CONTRASTS.items() if set(roles) <= set(shares)},
        choices={
            role: Choice(0.003, 100, seed < 2)
            for role in ("control/tuned", "control/tuned_baseline")
            if role in shares
        },
    )
    tags = {"kdexp.primary_metric": "accuracy", "kdexp.config_hash": str(seed), "mlflow.parentRunId": PARENT.run_id}
    return StoredRun(f"run{seed}", "run", "FINISHED", seed, {"seed": str(seed)}, record.metrics(), tags)


def test_the_parts_add_up_and_are_tested_together():
    summary = summarize(Predicted(), "parent")
    evidence = summary.evidence
    text, soft = evidence.contrasts["text"], evidence.contrasts["soft"]
    assert text.difference.mean + soft.difference.mean == pytest.approx(evidence.difference.mean, abs=1e-9)
    plain = sorted(ttest_1samp(summary.runs[f"gain_{name}"], 0).pvalue for name in ("text", "soft"))
    assert sorted([text.p_value, soft.p_value]) == pytest.approx([2 * plain[0], max(2 * plain[0], plain[1])])
    assert evidence.contrasts["tuned"].p_value == pytest.approx(ttest_1samp(summary.runs["gain_tuned"], 0).pvalue)


def test_both_parts_are_resampled_alike():
    """Where one part is nothing, the other one's interval is the gain's, to the last digit."""
    no_text = summarize(Predicted(same=[("control/pseudo_labels", "baseline")]), "parent").evidence
    assert no_text.contrasts["soft"].bootstrap == no_text.bootstrap
    no_softness = summarize(Predicted(same=[("control/pseudo_labels", "student")]), "parent").evidence
    assert no_softness.contrasts["text"].bootstrap == no_softness.bootstrap
    assert no_softness.contrasts["soft"].difference.mean == 0.0


def test_it_is_said_in_sentences():
    said = findings(summarize(Predicted(), "parent"))
    (parts,) = [line for line in said if line.startswith("Of the gain, text and repaired labels are +")]
    assert "over 5 seeds, paired t; [" in parts
    assert parts.endswith("(p-values Holm-corrected over the two).")
    (tuned,) = [line for line in said if line.startswith("Gain at equal tuning, best against best: +")]
    assert "alpha and temperature are fixed" in tuned
    assert any(line.startswith("The ceiling, gold labels on all text: ") for line in said)
    edges = "On the edge of the grid, beyond which a better schedule may lie: tuned student 2 of 5 times, tuned"
    assert any(line.startswith(edges) for line in said)


def test_one_seed_is_told_over_test_rows():
    said = findings(summarize(Predicted(seeds=1), "parent"))
    (parts,) = [line for line in said if line.startswith("Of the gain")]
    assert parts.count("over test rows; one seed)") == 2
    assert "Holm" not in parts


def test_tables_and_the_parent_run_have_the_contrasts():
    store = Predicted()
    summary = summarize(store, "parent")
    assert {"text and labels, points", "soft labels, points", "gain, both tuned, points"} <= set(shown_table(summary))
    assert {f"gain_{name}_accuracy_fraction" for name in CONTRASTS} <= set(runs_table(summary))
    settings = settings_table(summary)
    assert {"mean_gain_tuned_accuracy_fraction", "gain_tuned_accuracy_fraction_low_over_seeds"} <= set(settings)
    log_summary(summary, store.parent(), store)
    assert store.logged["best/gain_tuned"] == pytest.approx(summary.runs["gain_tuned"].mean())
    assert store.logged["best/gain_tuned_low"] < store.logged["best/gain_tuned"]
    assert "Gain at equal tuning" in store.logged["summary/report.html"]


def test_without_controls_nothing_is_said_of_them():
    summary = summarize(Predicted(shares={role: SHARES[role] for role in ("baseline", "student")}), "parent")
    assert not any("tuning" in line or "Of the gain" in line for line in findings(summary))
    assert not [name for name in shown_table(summary) if "tuned" in name or "soft" in name]


def test_what_some_seeds_lack_is_not_told_of_the_others_alone():
    """The gain of five seeds beside parts of four would not be their sum."""
    study = Predicted()
    last = study.runs()[-1]
    for name in [name for name in last.metrics if name.startswith(("kd/gain_text", "kd/gain_soft"))]:
        del last.metrics[name]
    (row,) = summarize(study, "parent").table.to_dict("records")
    assert row["seeds"] == 5
    assert not np.isnan(row["gain"])
    assert np.isnan([row[f"gain_{name}{end}"] for name in ("text", "soft") for end in ("", "_low", "_high")]).all()


def test_a_model_that_answers_one_class_is_told_without_a_baseline_and_of_one_seed_too():
    study = Predicted(seeds=1)
    table, run = study.tables["run0"], study.runs()[-1]
    table["gold"] = ["a", "b"] * 200
    table["teacher"] = table["student"] = "a"
    del table["baseline"]
    for name in [name for name in run.metrics if name.startswith(("kd/gain", "baseline/"))]:
        del run.metrics[name]
    said = [line for line in findings(summarize(study, "parent")) if "on every test row" in line]
    share = "answers 'a' on every test row: its accuracy is the share of that class, 200 of 400."
    assert said == [f"On test: the teacher {share}", f"On test: the distilled student {share}"]
