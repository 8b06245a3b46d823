"""The study from the command line: it chooses, is continued with another budget, and shows itself in MLflow."""

import json

import pytest
from command_line import SMALL

from kdexp.tracking.store import Study

FEW = ("task.train_size=100", "task.validation_size=60", "task.test_size=60")
STUDY = (
    *("experiment=choose_student", "export=onnx", "seed=0", *SMALL, *FEW),
    'candidates=["student=bert student.num_layers=1 student.hidden_size=16","student=static"]',
)


@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.usefixtures("empty_store")
def test_a_student_is_chosen_and_another_budget_continues_the_study(kdexp, tmp_path):
    first = kdexp(*STUDY)
    assert first.returncode == 0, first.stderr
    assert "job 2 of 2, about " in first.stderr
    assert "chosen on validation without a budget" in first.stdout
    made = next(line for line in first.stdout.splitlines() if line.strip().startswith("python -m kdexp "))
    assert "student.init" not in made
    assert made.rstrip().endswith("seed=0 export=onnx")
    assert not {"experiment", "candidates"} & set(made.replace("=", " ").split())
    again = kdexp(*STUDY, "budget.size_mb=0.5")
    assert again.returncode == 0, again.stderr
    assert "2 of 2 jobs are finished already" in again.stderr
    assert "chosen on validation within the budget (size_mb=0.5): bert 1 layer 16 wide, onnx" in again.stdout
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "choose_student")
    (parent,) = [run for run in study.runs() if run.sweep_key]
    assert parent.tags["kdexp.chosen_student"] == "bert 1 layer 16 wide, onnx"
    assert "Which student to ship" in study.text_artifact(parent.run_id, "choose_student/report.md")
    assert study.text_artifact(parent.run_id, "choose_student/options.csv").count("\n") == 3
    (view,) = [
        json.loads(value)
        for name, value in study._client.get_experiment(study.experiment_id).tags.items()
        if name.startswith("mlflow.sharedViewState")
    ]
    scatters = [chart for chart in json.loads(view["state"])["compareRunCharts"] if chart["type"] == "SCATTER"]
    assert [chart["xaxis"]["key"] for chart in scatters] == ["export/onnx/p50_ms", "export/onnx/size_mb"]
    assert {chart["yaxis"]["key"] for chart in scatters} == {"export/onnx/test/accuracy"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["budget.latency_ms=2"], "budget.latency_ms: got 2, but nothing is chosen; add experiment=choose_student"),
        (["-m", "seed=0,1", "candidates=[student=static]"], "candidates: got [student=static], but nothing is chosen"),
        (["experiment=choose_student", "budget.size_mb=0"], "budget.size_mb: got 0.0; expected a finite number above"),
        (["experiment=choose_student", "export=none"], "export: is none, and the study chooses among files"),
        (["experiment=choose_student", "tracking=none"], "tracking: is off, and the study is read from it"),
        (["experiment=choose_student", "baseline=false"], "baseline: is false, and the study says what"),
        (["experiment=choose_student", "candidates=['loss=ce']"], "candidates: got loss=ce; expected settings"),
        (["experiment=choose_student", "tracking.register=a"], "tracking.register: got a, but log_model is false"),
    ],
)
def test_a_mistake_is_told_in_one_line_before_anything_runs(command, tmp_path, words, told):
    assert told in command(*words).refusal
    assert not (tmp_path / "mlflow.db").exists()
