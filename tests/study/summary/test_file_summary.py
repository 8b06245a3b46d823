"""What a sweep says of its exported files: what each gains as it ships, and what it lost against torch."""

import pytest
from scipy.stats import ttest_1samp
from test_control_summary import predictions
from test_summary import PARENT, Store

from kdexp.results.record import RunRecord, Scores
from kdexp.results.shipped import Shipped
from kdexp.results.statistics import Gain
from kdexp.study.summary.findings import findings
from kdexp.study.summary.report import log_summary
from kdexp.study.summary.settings import summarize
from kdexp.tracking.store import StoredRun

ONNX, INT8 = "export/onnx", "export/onnx_int8"


class Shipping(Store):
    """A study whose runs answer 400 test rows, with two files."""

    def __init__(self, int8=0.72, seeds=5, baseline=True):
        shares = {"baseline": 0.60, "student": 0.72, ONNX: 0.72, INT8: int8}
        self.tables = {f"run{seed}": predictions(seed, shares, [(ONNX, "student")]) for seed in range(seeds)}
        roles = shares.keys() if baseline else shares.keys() - {"baseline"}
        super().__init__([stored(seed, self.tables[f"run{seed}"], roles) for seed in range(seeds)])

    def table_artifact(self, run_id, path):
        return self.tables[run_id]


def stored(seed, table, roles):
    score = {role: float((table[role] == "a").mean()) for role in roles}

    def gain(role, other):
        value = score[role] - score[other]
        return Gain(value, value - 0.01, value + 0.01)

    shipped = {
        role.removeprefix("export/"): Shipped(
            gain(role, "baseline") if "baseline" in roles else None, gain(role, "student")
        )
        for role in (ONNX, INT8)
    }
    record = RunRecord(
        name="run",
        metric="accuracy",
        scores={role: Scores({"accuracy": value}, {"accuracy": value}) for role, value in score.items()},
        gain=gain("student", "baseline") if "baseline" in roles else None,
        shipped=shipped,
    )
    tags = {"kdexp.primary_metric": "accuracy", "kdexp.config_hash": str(seed), "mlflow.parentRunId": PARENT.run_id}
    return StoredRun(f"run{seed}", "run", "FINISHED", seed, {"seed": str(seed)}, record.metrics(), tags)


def lines(study):
    return {line.split()[2]: line for line in findings(summarize(study, "parent")) if line.startswith("As shipped, ")}


def test_a_file_that_answers_as_torch_does_has_lost_nothing():
    said = lines(Shipping())["onnx:"]
    assert said.endswith("against torch no different in any seed.")
    assert "gain +" in said
    assert "over 5 seeds, paired t; [" in said
    assert "over seeds and test rows, bootstrap): distillation helped" in said


def test_what_other_seeds_or_rows_might_undo_is_noise():
    assert "against torch within noise: " in lines(Shipping())["onnx_int8:"]


def test_a_loss_is_told_with_its_intervals():
    study = Shipping(int8=0.65)
    evidence = summarize(study, "parent").files["onnx_int8"].against_float32
    lost = [run.metrics["export/onnx_int8/against_float32"] for run in study.runs("parent")]
    interval = ttest_1samp([100 * value for value in lost], 0).confidence_interval(0.95)
    assert (evidence.difference.interval.low, evidence.difference.interval.high) == pytest.approx(interval)
    assert evidence.bootstrap.low < evidence.difference.mean < evidence.bootstrap.high < 0
    assert f"against torch it loses {-evidence.difference.mean:.2f} points (95 % [-" in lines(study)["onnx_int8:"]


def test_one_seed_is_told_over_test_rows_and_without_a_baseline_there_is_no_gain():
    assert lines(Shipping(seeds=1))["onnx_int8:"].count("over test rows; one seed)") == 2
    without = lines(Shipping(baseline=False))
    assert "gain" not in without["onnx_int8:"].partition("against")[0]
    assert "within noise" in without["onnx_int8:"]


def test_the_parent_run_has_it_as_metrics():
    study = Shipping(int8=0.65)
    log_summary(summarize(study, "parent"), study.parent(), study)
    logged = {name: value for name, value in study.logged.items() if name.startswith("best/export/onnx_int8/")}
    assert {name.rpartition("/")[2] for name in logged} == {
        *("gain", "gain_low", "gain_high"),
        *("against_float32", "against_float32_low", "against_float32_high"),
    }
    assert logged["best/export/onnx_int8/against_float32_high"] < 0
    assert ("export/onnx_int8/p50_ms", "export/onnx_int8/test/accuracy") in study.scatters
    assert len(study.scatters) == 4  # each file against time and size
