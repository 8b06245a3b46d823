"""Whole runs through the real command line, with a real MLflow store."""

import json
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from command_line import ROOT, SMALL
from safetensors.torch import load_file

pytestmark = pytest.mark.slow


def client(folder):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def all_runs(folder, study="distillation"):
    store = client(folder)
    experiment = store.get_experiment_by_name(study)
    return store.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])


def numbers_agree(metrics):
    for name in ("accuracy", "macro_f1", "nll", "ece"):
        for prefix in ("", "teacher/", "baseline/"):
            assert f"{prefix}test/{name}" in metrics
            assert f"{prefix}validation/{name}" in metrics
    assert metrics["kd/gain"] == pytest.approx(metrics["test/accuracy"] - metrics["baseline/test/accuracy"])
    assert metrics["kd/retention"] == pytest.approx(metrics["test/accuracy"] / metrics["teacher/test/accuracy"])
    assert {"train/loss", "train/hard_loss", "train/soft_loss"} <= metrics.keys()
    assert 0.3 * metrics["train/hard_loss"] + 0.7 * metrics["train/soft_loss"] == pytest.approx(
        metrics["train/loss"], rel=1e-3
    )


def predict(folder, run, texts):
    """What a run's student answers; tests/tracking loads one where kdexp is not installed."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/student").predict(texts)


def test_a_cross_family_run_from_end_to_end(kdexp, tmp_path):
    result = kdexp("teacher=roberta", "student=bert", *SMALL)
    assert result.returncode == 0, result.stderr
    for words in ("teacher", "baseline student", "distilled student", "gain", "mlflow ui", "weights unchanged: yes"):
        assert words in result.stdout

    (run,) = all_runs(tmp_path)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "reviews  roberta 2x64 -> bert 1x24  kd a=0.3 T=2  s0"
    assert run.data.params["loss.alpha"] == "0.3"
    assert run.data.params["teacher.family"] == "roberta"
    assert run.data.tags["kdexp.pairing"] == "cross-family"
    assert run.data.tags["kdexp.tokenization"] == "own"
    for tag in ("kdexp.teacher_sha256", "kdexp.config_hash"):
        assert re.fullmatch(r"[0-9a-f]{64}", run.data.tags[tag])
    metrics = run.data.metrics
    assert metrics["checks/teacher_unchanged"] == 1
    assert metrics["cost/teacher_rows_forwarded"] == 700
    numbers_agree(metrics)
    store = client(tmp_path)
    table = pd.read_parquet(store.download_artifacts(run.info.run_id, "predictions.parquet"))
    assert (table["student"] == table["gold"]).mean() == pytest.approx(metrics["test/accuracy"])
    assert (table["student"] == table["teacher"]).mean() == pytest.approx(metrics["kd/agreement"])
    assert store.list_artifacts(run.info.run_id, "figures")

    # The same command again trains nothing, and finds the same numbers.
    again = kdexp("teacher=roberta", "student=bert", *SMALL)
    assert "student bert: kept from an earlier run" in again.stderr
    _, second = all_runs(tmp_path)
    assert second.data.metrics["cost/teacher_rows_forwarded"] == 0
    assert second.data.metrics["test/nll"] == metrics["test/nll"]
    # Trained anew, the numbers are the same too.
    kdexp("teacher=roberta", "student=bert", *SMALL, "resume=false")
    assert all_runs(tmp_path)[-1].data.metrics["test/nll"] == metrics["test/nll"]

    answers = predict(tmp_path, run, ["not bad at all", "a terrible phone"])
    assert len(answers) == 2
    assert answers["score"].between(0, 1, inclusive="right").all()


@pytest.mark.usefixtures("empty_store")
def test_alpha_one_is_the_baseline(kdexp, tmp_path):
    result = kdexp("loss.alpha=1", *SMALL, "tracking.log_model=false")
    assert result.returncode == 0, result.stderr
    (run,) = all_runs(tmp_path)
    assert run.data.metrics["kd/gain"] == 0
    assert "student bert: kept from an earlier run" in result.stderr  # the baseline that was just trained


def test_inference_can_be_learnt_as_it_comes(kdexp):
    """The default teacher passes the check that refuses one near chance, after two of its epochs too."""
    result = kdexp(
        "task=inference",
        "teacher.train.epochs=2",
        "task.test_size=100",
        "task.transfer_size=0",
        "baseline=false",
        "train.max_steps=2",
        "tracking=none",
        "hardware=cpu",
        "hardware.num_threads=1",
    )
    assert result.returncode == 0, result.stderr


def test_pairs_transfer_text_and_students_ids(kdexp, tmp_path):
    result = kdexp("task=inference", "train.use_transfer=true", "task.transfer_size=100", *SMALL, "tracking=none")
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "mlflow.db").exists()
    ablation = kdexp("teacher=roberta", "tokenization=student_ids", "teacher.vocab_size=2000", *SMALL)
    assert ablation.returncode == 0, ablation.stderr
    assert all_runs(tmp_path)[-1].data.tags["kdexp.tokenization"] == "student-ids"
    pair = kdexp("task=inference", "teacher=roberta", "tokenization=student_ids", "teacher.vocab_size=2000", *SMALL)
    assert pair.returncode == 2
    assert "token_type_id 1 (the second text of a pair)" in pair.stderr


MINE = """
defaults:
  - /schema/loss/kd@_here_
  - /terms@terms.hidden: hidden
  - /terms@terms.attention: attention
  - /terms@terms.minilm: minilm
  - /terms@terms.rkd: rkd
  - _self_
name: mine
alpha: 0.5
temperature: 2.0
terms:
  hidden: {weight: 0.5}
  attention: {weight: 1.0, layers: last}
  minilm: {weight: 0.1, layers: uniform}
  rkd: {weight: 0.1, layers: uniform, pooling: mean}
"""


@pytest.fixture
def mine(tmp_path):
    """The command for a person's own weighted sum of terms."""
    (tmp_path / "mine" / "loss").mkdir(parents=True)
    (tmp_path / "mine" / "loss" / "mine.yaml").write_text(MINE)
    return ("--config-dir", "mine", "teacher=roberta", "student=bert", "loss=mine", *SMALL)


@pytest.mark.usefixtures("empty_store")
def test_a_teacher_in_the_loop_across_families(kdexp, mine, tmp_path):
    """Kept, found again, and forwarded at each step."""
    result = kdexp(*mine)
    assert result.returncode == 0, result.stderr
    assert "300 of 300 rows forwarded" in result.stderr
    (run,) = all_runs(tmp_path)
    assert run.data.tags["kdexp.alignment"] == "words"
    metrics = run.data.metrics
    assert metrics["checks/teacher_unchanged"] == 1
    assert metrics["cost/teacher_rows_forwarded"] == 700 + 300
    terms = {"hard": 0.5, "soft": 0.5, "hidden": 0.5, "attention": 1.0, "minilm": 0.1, "rkd": 0.1}
    realised = sum(weight * metrics[f"train/{name}_loss"] for name, weight in terms.items())
    assert realised == pytest.approx(metrics["train/loss"], rel=1e-3)
    # The exported student is a plain one.
    (weights,) = (
        parts.parent / "files/model/model.safetensors"
        for parts in (tmp_path / "cache/students").glob("*/parts.json")
        if json.loads(parts.read_text())["teacher_features"]
    )
    assert not [name for name in load_file(weights) if "terms" in name or "projection" in name]

    again = kdexp(*mine, "seed=1")
    assert "teacher in the loop" in again.stderr
    assert all_runs(tmp_path)[-1].data.metrics["cost/teacher_rows_forwarded"] == 0
    forwarded = kdexp(*mine, "teacher.cache_hidden=null")
    assert "forwarded at each step" in forwarded.stderr
    last = all_runs(tmp_path)[-1].data.metrics
    assert last["cost/teacher_rows_forwarded"] == 300
    assert last["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-3)

    everywhere = (f"loss.terms.{name}.alignment=position" for name in ("hidden", "attention", "minilm"))
    ablation = kdexp(*mine, *everywhere)
    assert ablation.returncode == 0, ablation.stderr
    assert all_runs(tmp_path)[-1].data.tags["kdexp.alignment"] == "position"


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("loss.terms.hidden.alignment=position", "align some terms on words and others by position"),
        ("tokenization=student_ids", "loss.terms.hidden: compares tokens, but with tokenization=student_ids"),
        ("train.batch_size=2", "train.batch_size: is 2, but rkd relates the examples of a batch"),
    ],
)
def test_terms_that_do_not_fit_are_refused(kdexp, mine, setting, expected):
    result = kdexp(*mine, setting)
    assert result.returncode == 2
    assert expected in result.stderr


@pytest.mark.usefixtures("empty_store")
def test_a_teacher_near_chance_stops_the_run(kdexp, tmp_path):
    settings = [setting for setting in SMALL if "chance" not in setting]
    result = kdexp(*settings, "teacher.train.max_steps=1")
    assert result.returncode == 2
    assert "Cohen's kappa" in result.stderr
    assert "its learning curve is teacher/train/loss in MLflow; train it longer (teacher.train.ep" in result.stderr
    (run,) = all_runs(tmp_path)
    assert run.info.status == "FAILED"
    assert {"teacher/train/loss", "teacher/train/validation_accuracy"} <= run.data.metrics.keys()


@pytest.mark.usefixtures("empty_store")
def test_checkpoints_teach_and_learn(kdexp, tmp_path):
    """A fine-tuned folder as the teacher, and the first layer of another as the student."""
    first = kdexp("teacher=roberta", *SMALL, "tracking=none")
    assert first.returncode == 0, first.stderr
    (teacher,) = (tmp_path / "cache" / "teachers").glob("*/files")
    result = kdexp(
        f"teacher.checkpoint={teacher}",
        "teacher.family=roberta",
        f"student.checkpoint={teacher}",
        "student.family=roberta",
        "student.num_layers=1",
        *SMALL,
    )
    assert result.returncode == 0, result.stderr
    assert "trained in" not in result.stderr.partition("baseline")[0]  # the teacher answers as it is
    assert all_runs(tmp_path)[-1].data.tags["kdexp.pairing"] == "same-family"
    other = kdexp("teacher=roberta", f"teacher.checkpoint={teacher}", "task=inference", *SMALL)
    assert other.returncode == 2
    assert re.search(r"teacher's classes \[terrible, .*\] are not the task's \[entailment", other.stderr)


def test_own_files(kdexp, tmp_path):
    rows = [f"{'great' if i % 2 else 'awful'} thing number {i},{'yes' if i % 2 else 'no'}" for i in range(200)]
    (tmp_path / "mine.csv").write_text("\n".join(["question,kind", *rows]))
    result = kdexp(
        "task=file", "task.train=mine.csv", "task.text=question", "task.label=kind",
        "teacher.train.epochs=2", "train.epochs=1", "teacher.chance_check=false", "tracking=none",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "held out of train" in result.stderr


def test_the_wheel_runs_anywhere(tmp_path):
    """conf/ ships inside the package: composed from a folder that holds nothing else, in a new process."""
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wheel]
    subprocess.run(pip, check=True, capture_output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "kdexp", *SMALL, "tracking=none"],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(target), "KDEXP_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "distilled student" in result.stdout
