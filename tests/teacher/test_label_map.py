"""Teachers whose labels are not the task's: merged, renamed, dropped, converted, or found out by measuring."""

import json
import shutil

import numpy as np
import pytest
import torch

from kdexp import compose
from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.run import run
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.teacher.config import PredictionsTeacherConfig
from kdexp.teacher.matching import match_classes
from kdexp.teacher.translation import Translation, grouped, source_names, translation_of
from kdexp.tracking.store import Study

EMOTIONS, MOODS = ["joy", "anger", "love", "surprise"], ["negative", "positive"]
MAP = {"joy": "positive", "love": "positive", "anger": "negative", "surprise": None}
PROBABILITIES = torch.tensor([[0.4, 0.1, 0.3, 0.2], [0.05, 0.9, 0.05, 0.0]]).double()


def plan(label_map=None, names=EMOTIONS, task_names=MOODS, source="classes", target="classes") -> Translation:
    groups = grouped("teacher", names, task_names, MAP if label_map is None else label_map)
    return Translation(groups, names, task_names, Outputs(source), Outputs(target))


def test_classes_are_merged_and_dropped_in_probability_space():
    merged = plan()(PROBABILITIES.log() + 5.0)
    assert torch.allclose(
        merged.exp(), torch.tensor([[0.1, 0.7], [0.9, 0.1]]) / torch.tensor([[0.8], [1.0]]), atol=1e-6
    )
    assert plan().notices == [
        "its classes stand for the task's: anger -> negative; joy + love -> positive",
        "left out of its classes: surprise, the others divided by their sum",
    ]
    assert plan().tags == {"label_map": "anger -> negative; joy + love -> positive; left out: surprise"}


def test_a_renamed_head_keeps_its_logits():
    renamed = plan({"bad": "negative", "good": "positive"}, ["good", "bad"])
    assert renamed.is_reordering
    assert renamed(torch.tensor([[3.0, 1.0]])).tolist() == [[1.0, 3.0]]
    assert plan({"POSITIVE": "positive"}, ["POSITIVE", "Negative"]).groups == [[1], [0]]  # the other by its own name


@pytest.mark.parametrize(("source", "target"), [("yes_no", "classes"), ("classes", "yes_no"), ("yes_no", "yes_no")])
def test_sigmoid_and_softmax_are_converted_as_they_say(source, target):
    translation = plan(source=source, target=target)
    if source == "yes_no":
        logits = PROBABILITIES.clamp(1e-9).logit()
        merged = torch.stack([PROBABILITIES[:, 1], 1 - (1 - PROBABILITIES[:, 0]) * (1 - PROBABILITIES[:, 2])], dim=1)
    else:
        logits = PROBABILITIES.log()
        merged = torch.stack([PROBABILITIES[:, 1], PROBABILITIES[:, 0] + PROBABILITIES[:, 2]], dim=1)
    found = translation(logits).double()
    if target == "classes":
        assert torch.allclose(found.exp(), merged / merged.sum(dim=1, keepdim=True), atol=1e-6)
    else:
        assert torch.allclose(found.sigmoid(), merged, atol=1e-6)
    assert ("conversion" in translation.tags) == (source != target)
    assert any("sigmoid" in line for line in translation.notices) == (source != target)


def test_what_is_certain_stays_finite():
    certain = torch.tensor([[80.0, -80.0, -90.0, 0.0], [-200.0, 300.0, -300.0, 0.0]])
    for source in ("classes", "yes_no"):
        for target in ("classes", "yes_no"):
            assert plan(source=source, target=target)(certain).isfinite().all()


@pytest.mark.parametrize(
    ("label_map", "line"),
    [
        ({"joi": "positive"}, r"teacher\.label_map: the teacher has no class 'joi'; it has: joy, anger"),
        (MAP | {"joy": "glad"}, r"teacher\.label_map: the task has no class 'glad'; it has: negative, positive"),
        (
            {"joy": "positive"},
            r"teacher\.label_map: says nothing of the teacher's class 'anger', and the task",
        ),
        (dict.fromkeys(EMOTIONS, "positive"), r"teacher\.label_map: leaves the task's class 'negative' without any"),
    ],
)
def test_a_map_that_leaves_something_open_is_refused(label_map, line):
    with pytest.raises(UserError, match=line):
        plan(label_map)


def test_a_file_says_no_classes_so_the_map_and_the_task_do():
    assert source_names(None, MOODS) == MOODS
    assert source_names({"joy": "positive", "fear": None}, ["negative", "positive"]) == ["joy", "fear", "negative"]
    settings = PredictionsTeacherConfig(name="p", path="a", outputs=Outputs.yes_no)
    found = translation_of("teacher", settings, MOODS, Outputs.yes_no, SingleLabel(MOODS))
    assert found.tags == {"conversion": "sigmoid-to-softmax"}
    assert translation_of("teacher", settings, MOODS, Outputs.classes, SingleLabel(MOODS)) is None


def said(rights, order, others=()):
    """Answers of a head whose outputs are the classes in another order; the others are wrong as they say."""
    gold = [klass for klass, count in enumerate(rights) for _ in range(count)] + [klass for klass, _ in others]
    given = [order.index(klass) for klass in gold[: sum(rights)]] + [order.index(klass) for _, klass in others]
    values = torch.nn.functional.one_hot(torch.tensor(given), len(order)).float()
    return Answers(values), Labels(np.array(gold))


def test_numbered_classes_are_matched_by_what_they_get_right():
    answers, labels = said([20, 20, 20], [2, 0, 1], others=[(0, 1)] * 5)
    found = match_classes(answers, labels, ["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b", "c"], "teacher")
    assert found.order == [1, 2, 0]
    assert found.agreement == pytest.approx(60 / 65)
    assert found.runner_up < 0.5


@pytest.mark.parametrize(
    ("rights", "others"),
    [([20, 0, 0], []), ([12, 10, 10], [(0, 1)] * 12 + [(1, 0)] * 9), ([2, 1, 1], []), ([20, 1, 1], [])],
)
def test_an_ambiguous_match_is_refused(rights, others):
    answers, labels = said(rights, [2, 0, 1], others)
    with pytest.raises(UserError, match=r"teacher\.labels: the teacher only numbers its classes .* do not tell which"):
        match_classes(answers, labels, ["LABEL_0", "LABEL_1", "LABEL_2"], ["a", "b", "c"], "teacher")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["teacher.label_map=[a]"], "teacher.label_map: got ['a']; expected {teacher's class"),
        (["teacher.outputs=number"], "teacher.outputs: got number; expected classes or yes_no"),
        (["+teacher.label_map.good=bad"], "teacher.label_map: is of a head that comes with a checkpoint"),
        (["teacher.outputs=yes_no"], "teacher.outputs: is of a head that comes with a checkpoint"),
    ],
)
def test_bad_settings_are_told_in_one_line(command, words, line):
    answer = command("task.train_size=20", "hardware=cpu", "tracking=none", *words)
    assert answer.code == 2
    assert f"error: {line}" in answer.err


WORDS = {"warm": "hot", "scorching": "hot", "icy": "cold", "freezing": "cold"}


def settings(folder, *overrides):
    rows = [f"it is {word} at {place},{label}" for place in range(60) for word, label in WORDS.items()]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return compose(
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1", "train.epochs=1"),
        *(f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db", "tracking.log_model=false"),
        *overrides,
    )


@pytest.mark.usefixtures("own_folder", "empty_store")
def test_a_head_without_names_or_with_others_teaches_as_the_named_one(tmp_path, caplog):
    small = ("teacher.num_layers=1", "teacher.hidden_size=16", "teacher.num_heads=2", "teacher.train.epochs=4")
    named = run(settings(tmp_path, *small))
    folder = tmp_path / "published"
    shutil.copytree(next((tmp_path / "cache" / "teachers").glob("*/files")), folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "cold", "1": "hot"}
    config |= {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    words = (f"teacher.checkpoint={folder}", "teacher.label_map={LABEL_0: cold, LABEL_1: hot}")
    for overrides in (words[:1], words):
        record = run(settings(tmp_path, *overrides))
        assert record.score("test", "teacher") == named.score("test", "teacher") > 0.9
        assert record.score("test") == named.score("test")
    tags = [
        item.tags.get("kdexp.teacher_label_map")
        for item in Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").runs()
    ]
    assert set(tags) == {None, "measured: LABEL_0 = cold, LABEL_1 = hot", "LABEL_0 -> cold; LABEL_1 -> hot"}
    # Sigmoid, and more classes than the task: what each label says becomes one class.
    config |= {"problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    record = run(settings(tmp_path, *words))
    assert record.score("test", "teacher") > 0.9
    with pytest.raises(UserError, match=r"teacher\.label_map: says nothing of the teacher's class 'LABEL_0'"):
        run(settings(tmp_path, words[0]))
