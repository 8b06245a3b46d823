"""A dry run says what would be computed, and computes nothing."""

import pytest

from kdexp import compose
from kdexp.study.launch import Job


@pytest.fixture
def compose_job():
    return lambda *overrides: Job(overrides, "name", compose(*overrides), None)


def test_a_plan_counts_shares_refusals_and_what_is_finished(command, log_only, tmp_path):
    grid = ("-m", "loss.alpha=0.5,1", "loss.temperature=1,4", "baseline=false")
    answer = command(*grid, "--plan")
    lines = answer.out.splitlines()
    assert lines[:2] == [
        "4 jobs, 3 computations: 1 share one with another job, 0 finished already, 0 refused, 3 to run",
        "how long it takes is not known: no run of this study is finished yet",
    ]
    assert lines[2] == "to run    loss.alpha=0.5 loss.temperature=1"
    assert not (tmp_path / "multirun").exists()
    assert command(*grid).code == 0
    wider = command("-m", "loss.alpha=0,0.5,1,7", "loss.temperature=1,4", "baseline=false", "--plan").out
    lines = wider.splitlines()
    assert lines[0] == "8 jobs, 5 computations: 1 share one with another job, 3 finished already, 2 refused, 2 to run"
    assert lines[1] == "about 2 s: the median of 3 finished runs of this study is 1 s"
    assert "refused   loss.alpha=7 loss.temperature=1: loss.alpha: got 7.0" in wider


def test_a_job_is_called_by_the_settings_that_it_has(compose_job):
    job = compose_job("task=mrpc", "seed=1")
    swept = ("task.train_size", "task.transfer_size", "loss.alpha", "teacher", "seed")
    assert job.label(swept) == "task.train_size=null loss.alpha=0.3 teacher=bert seed=1"


def test_options_that_a_sweep_compares_may_have_settings_that_the_default_lacks(command, tmp_path):
    for words, line in (
        (("task=sst2,stsb", "task.path=nowhere"), "refused   task=sst2: task.path: no folder"),
        (
            ("loss=mse,huber", "task=sst2,cola", "task.path=nowhere"),
            "refused   loss=mse task=sst2: task.path: no folder",
        ),
        (("loss=huber,mse", "loss.delta=2", "task=stsb"), "loss.delta: no such setting"),
        (("experiment=few_labels", "task=sst2,cola", "task.path=nowhere"), "task: has several values"),
        (("teacher=bert,predictions", "teacher.path=x"), "teacher.path: no such setting"),
    ):
        answer = command("-m", *words, "--plan")
        assert line in answer.out + answer.err, words
        assert "Traceback" not in answer.err


def test_models_that_cannot_answer_the_task_are_told_before_any_job(command):
    for words, line in (
        (("student=static,bert",), "refused   student=static: student: got static"),
        (("teacher=predictions", "teacher.path=x.csv"), "a file has one answer for each row"),
        (("teacher=openai_compatible", "teacher.url=http://127.0.0.1:1", "teacher.model=m"), "of kind token_labels"),
        (("teacher=causal_lm", "teacher.checkpoint=x"), "of kind token_labels"),
    ):
        answer = command("-m", "task=entities", "seed=0", *words, "--plan")
        assert line in answer.out + answer.err, words
    answer = command("experiment=choose_student", "task=entities", "--plan")
    assert "to run    student=bert" in answer.out
    assert "static" not in answer.out


def test_one_run_a_study_and_a_search_are_planned_too(command, tmp_path):
    assert command("--plan").out.startswith("1 jobs, 1 computations")
    study = ("experiment=alpha_temperature", "loss.alpha=0.5,1", "seed=0")
    assert command(*study, "--plan").out.startswith("8 jobs, 5 computations")
    assert command("experiment=search", "--plan").out.startswith("a search of 24 trials over loss.alpha")
    assert command("experiment=cross_family", "seed=0", "--plan").out.startswith("12 jobs")
    assert "loss.alpha: got 2.0" in command("loss.alpha=2", "--plan").refusal
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
