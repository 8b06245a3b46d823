"""Names tell runs apart; params are what a person types."""

import shlex

import pytest

import kdexp
from kdexp.naming import command_line, run_name, shown, sweep_name
from kdexp.results.note import run_note, unfinished_note
from kdexp.results.record import RunRecord, Scores
from kdexp.results.statistics import Gain


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "reviews  bert 2x64 -> bert 1x24  kd a=0.3 T=2  s0"),
        (["terms=[rkd,hidden]", "seed=3"], "reviews  bert 2x64 -> bert 1x24  kd a=0.3 T=2 +rkd +hidden  s3"),
        (["student.num_layers=2"], "reviews  bert 2x64 -> bert 2x24  kd a=0.3 T=2  s0"),
        (["student.checkpoint=./models/mine"], "reviews  bert 2x64 -> bert (mine)  kd a=0.3 T=2  s0"),
        (["student=distilbert_base", "student.num_layers=3"], "reviews  bert 2x64 -> distilbert_base"),
        (["more_teachers=[roberta]", "loss=ce"], "reviews  bert 2x64+roberta 2x64 -> bert 1x24  ce  s0"),
        (["task=file", "task.train=a/trec.csv"], "trec  bert"),
        (["task=file", "task.train=data/agnews/train.csv"], "agnews/train  bert"),
        (["task=sst2"], "sst2  bert"),
        (["varied=['train.epochs','seed','loss.alpha']", "train.epochs=7"], "kd a=0.3 T=2  s0  train.epochs=7"),
        (["varied=['train.learning_rate']", "train.learning_rate=1e-5"], "s0  train.learning_rate=1e-05"),
        (["varied=['controls','export','more_teachers']", "controls=[tuned]"], "s0  controls=tuned export=none"),
    ],
)
def test_a_name_tells_what_was_run(overrides, name):
    assert name in run_name(kdexp.compose(*overrides))


@pytest.mark.parametrize(
    ("value", "text"),
    [(4.0, "4"), (0.5, "0.5"), (1e-5, "1e-05"), (True, "True"), (3, "3"), ("4.0", "4.0"), (-0.0, "0")],
)
def test_a_value_is_shown_as_it_is_typed(value, text):
    assert shown(value) == text


def test_the_command_is_told_without_its_password(monkeypatch):
    words = ["tracking.uri=http://me:hunter2@host", "task.train=my file.csv"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/kdexp", *words])
    assert "hunter2" not in command_line()
    assert shlex.split(command_line())[3:] == ["tracking.uri=http://***@host", "task.train=my file.csv"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/pytest", *words])
    assert command_line() == ""


def test_the_page_of_a_run_opens_on_its_result():
    scores = {
        role: Scores({"accuracy": 0.7}, {"accuracy": value}, 10)
        for role, value in (("student", 0.8), ("baseline", 0.7))
    }
    record = RunRecord("a -> b", "accuracy", scores, gain=Gain(0.1, 0.05, 0.15), agreement={"student": 0.9})
    note = run_note(record, ["4 classes, the rarest has 3 rows"], "kdexp seed=1")
    # MLflow folds all but the first lines.
    assert "+10.00 points" in note.splitlines()[0]
    assert note.index("distilled student") < note.index("4 classes") < note.index("seed=1")
    assert "[+5.00, +15.00]" in note
    assert "Not finished" in unfinished_note("")


@pytest.mark.parametrize(
    ("kind", "swept", "name"),
    [
        ("grid", ["loss.alpha", "seed"], "grid  loss.alpha x seed  reviews  bert 2x64 -> bert 1x24"),
        ("grid", ["task", "teacher"], "grid  task x teacher  bert 1x24"),
        ("few_labels", [], "few_labels  one setting  reviews  bert 2x64 -> bert 1x24"),
        ("cross_family", ["teacher", "student", "condition"], "cross_family  teacher x student x condition  reviews"),
    ],
)
def test_a_sweep_is_called_by_what_varies_and_what_does_not(kind, swept, name):
    assert sweep_name(kdexp.compose(), kind, swept) == name
