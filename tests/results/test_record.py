"""A run's record: what is measured, MLflow's names for it, and a stored run read back."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdexp.results.diagnostics import Calibration, Diagnostics, TokenizerStatistics
from kdexp.results.measure import ModelAnswers, measure, prediction_table
from kdexp.results.record import RunRecord, Scores
from kdexp.results.statistics import Gain
from kdexp.task.kinds.base import Answers
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.tracking.store import StoredRun

RIGHT, WRONG = [1.0, 0.0], [0.0, 1.0]


def answers(num_right: int, num_parameters: int | None, num_rows: int = 400) -> ModelAnswers:
    """Of rows that all have the first class."""
    said = Answers(torch.tensor([RIGHT] * num_right + [WRONG] * (num_rows - num_right)))
    return ModelAnswers({"validation": said, "test": said}, num_parameters)


def task(num_rows: int = 400) -> Task:
    split = Split.from_lists(["text"] * num_rows, None, [0] * num_rows)
    return Task("task", SingleLabel(["no", "yes"]), split, split, split, None)


def stored(record: RunRecord) -> StoredRun:
    tags = {"kdexp.primary_metric": record.metric}
    return StoredRun("id", record.name, "FINISHED", 0, record.settings, record.metrics(), tags)


def measured(**models: ModelAnswers) -> RunRecord:
    models = {"teacher": answers(320, 9), "student": answers(300, 3)} | models
    return measure(task(), models, name="bert -> bert", settings={"loss.temperature": 2.0, "trial": None})


def test_a_student_is_measured_beside_teacher_and_baseline():
    record = measured(baseline=answers(260, 3))
    assert record.score("test") == record.score("validation") == 0.75
    assert record.score("test", "baseline") == 0.65
    assert record.score("test", "control/noise") is None
    assert record.retention == 0.75 / 0.8
    assert record.agreement == pytest.approx({"student": 380 / 400, "baseline": 340 / 400})
    assert record.num_test_rows == 400
    assert record.gain.value == pytest.approx(0.1)
    # The normal approximation of the same paired difference: 1.96 * sqrt(0.1 * 0.9 / 400).
    assert record.gain.low == pytest.approx(0.1 - 0.0294, abs=0.005)
    assert record.gain.high == pytest.approx(0.1 + 0.0294, abs=0.005)
    assert measured(baseline=answers(300, 3)).gain == Gain(0, 0, 0)
    assert measured().gain is None


def test_the_gain_is_the_first_of_what_is_logged_at_the_end():
    """MLflow lists metrics in the order in which they came."""
    record = measured(baseline=answers(260, 3), teacher_roberta=answers(310, 5))
    assert list(record.metrics())[:6] == [
        *("kd/gain", "kd/gain_low", "kd/gain_high"),
        *("test/accuracy", "baseline/test/accuracy", "teacher/test/accuracy"),
    ]
    assert record.student_metrics()[:4] == ["kd/gain", "kd/gain_low", "kd/gain_high", "test/accuracy"]
    assert list(measured().metrics())[:2] == ["test/accuracy", "teacher/test/accuracy"]


def test_mlflows_names_are_the_contract():
    record = measured(baseline=answers(260, 3), teacher_roberta=answers(310, 5))
    record = replace(record, costs={"seconds": 9.0}, teacher_unchanged=True, diagnostics=DIAGNOSTICS)
    metrics = record.metrics()
    names = {f"{split}/{name}" for split in ("validation", "test") for name in ("accuracy", "macro_f1", "nll", "ece")}
    names |= {f"{role}/{name}" for role in ("teacher", "baseline", "teacher_roberta") for name in names}
    assert metrics.keys() == names | {
        *("kd/gain", "kd/gain_low", "kd/gain_high", "kd/retention"),
        *("kd/agreement", "kd/baseline_agreement", "kd/agreement_roberta"),
        *("cost/seconds", "cost/student_parameters", "cost/teacher_parameters", "cost/teacher_roberta_parameters"),
        "checks/teacher_unchanged",
        *("diagnostics/teacher_entropy", "diagnostics/teacher_soft_entropy", "diagnostics/max_entropy"),
        *(
            f"diagnostics/{role}_{name}"
            for role in ("teacher", "student")
            for name in ("vocab_size", "tokens_per_word", "truncation_rate", "unknown_rate", "is_cased")
        ),
    }
    assert metrics["test/accuracy"] == 0.75
    assert metrics["teacher_roberta/test/accuracy"] == 310 / 400
    assert metrics["kd/agreement_roberta"] == pytest.approx(390 / 400)
    assert metrics["checks/teacher_unchanged"] == 1


DIAGNOSTICS = Diagnostics(
    {
        "teacher": TokenizerStatistics(800, 1.5, 0.1, 0.0, False),
        "student": TokenizerStatistics(500, 2.0, 0.2, 0.01, True),
    },
    Calibration(0.8, 0.05, 0.3, 2.0, 0.5, 0.69),
)


def test_a_stored_run_is_read_back_as_the_record_that_was_written():
    scores = {
        "teacher": Scores({"accuracy": 0.8, "ece": 0.05}, {"accuracy": 0.7}, 9),
        "teacher_xlm_roberta": Scores({"accuracy": 0.7}, {"accuracy": 0.6}, 4),
        "student": Scores({"accuracy": 0.6}, {"accuracy": 0.5}, 3),
        "baseline": Scores({"accuracy": 0.5}, {"accuracy": 0.4}, 3),
        "control/noise": Scores({"accuracy": 0.3}, {"accuracy": 0.2}, 3),
        "export/onnx": Scores({}, {"accuracy": 0.5}, 3),
    }
    record = RunRecord(
        name="several -> bert",
        metric="accuracy",
        scores=scores,
        settings={"loss.temperature": "2.0", "trial": "None"},
        gain=Gain(0.1, -0.02, 0.2),
        retention=0.9,
        agreement={"student": 0.8, "baseline": 0.7, "teacher_xlm_roberta": 0.75, "control/noise": 0.1},
        diagnostics=DIAGNOSTICS,
        costs={"seconds": 9.0, "teacher_train_seconds": 2.0, "cache_hits": 1.0},
        teacher_unchanged=True,
        run_id="id",
    )
    assert RunRecord.from_stored(stored(record)) == record


def test_a_measured_record_survives_the_store():
    record = replace(
        measured(baseline=answers(260, 3)), run_id="id", num_test_rows=None, notices=(), classes={}
    )  # a store holds no such things
    assert RunRecord.from_stored(stored(record)) == record


def test_a_metric_that_is_no_accuracy_is_primary_where_the_task_says_so():
    scores = {role: Scores({"f1": value}, {"f1": value}, 1) for role, value in (("student", 0.4), ("teacher", 0.5))}
    record = RunRecord.from_stored(stored(RunRecord("run", "f1", scores, retention=0.8)))
    assert record.score("test", "teacher") == 0.5
    assert record.diagnostics == Diagnostics()


def test_stores_of_earlier_versions_are_read():
    """They say `reading/` for diagnostics, and have runs without a baseline, or that were stopped early."""
    metrics = {
        "validation/accuracy": 0.6,
        "train/loss": 1.0,
        "reading/teacher_entropy": 0.3,
        "reading/teacher_soft_entropy": 0.5,
        "reading/max_entropy": 0.69,
        "reading/teacher_vocab_size": 800.0,
        "reading/teacher_tokens_per_word": 1.5,
        "reading/teacher_truncation_rate": 0.1,
        "reading/teacher_unknown_rate": 0.0,
        "reading/teacher_is_cased": 1.0,
    }
    run = StoredRun("id", "name", "KILLED", 0, {"trial": "None"}, metrics, {"kdexp.primary_metric": "accuracy"})
    record = RunRecord.from_stored(run)
    assert record.diagnostics.tokenizers == {"teacher": TokenizerStatistics(800, 1.5, 0.1, 0.0, True)}
    assert record.diagnostics.calibration.mean_soft_entropy == 0.5
    assert record.diagnostics.calibration.temperature == 1
    assert (record.score("validation"), record.score("test"), record.gain) == (0.6, None, None)
    assert "diagnostics/teacher_vocab_size" in record.metrics()


def test_a_teacher_that_scores_nothing_leaves_no_retention():
    record = measured(teacher=answers(0, 9))
    assert record.retention is None
    assert "kd/retention" not in record.metrics()


def test_predictions_show_classes_and_probabilities_of_every_model():
    models = {"teacher": answers(3, 9, 4), "student": answers(1, 3, 4)}
    table = prediction_table(task(4), models, with_text=False)
    assert list(table.columns) == [
        *("row", "gold"),
        *(name for role in models for name in (role, f"{role}_probability_no", f"{role}_probability_yes")),
    ]
    assert table["gold"].tolist() == ["no"] * 4
    assert table["student"].tolist() == ["no", "yes", "yes", "yes"]
    assert table["teacher_probability_no"].iloc[0] == pytest.approx(np.e / (np.e + 1))


def test_a_record_loads_no_library_of_the_reports():
    """They are needed at the end of a run, not before its first step."""
    heavy = ("matplotlib", "statsmodels", "scipy.stats", "pandas", "jinja2", "mlflow")
    code = f"import sys, kdexp.results.measure; sys.exit(' '.join(set({heavy}) & set(sys.modules)) or None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
