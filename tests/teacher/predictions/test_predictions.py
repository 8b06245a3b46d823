"""A file of answers as the teacher: what it says reaches the student exactly, and what is wrong with it is told."""

import logging
import math
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.loss.logit import KD, MSE, NKD
from kdexp.run import run
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task, load_task
from kdexp.task.split import Split
from kdexp.teacher.base import Scale, refuse_unfit_answers
from kdexp.teacher.config import PredictionsTeacherConfig
from kdexp.teacher.logits import teacher_answers
from kdexp.teacher.predictions.teacher import load_predictions
from kdexp.teacher.translated import translated
from kdexp.tracking.store import Study

NAMES = ["cold", "mild", "hot"]
TRAIN, VALIDATION, TEST = (["icy", "warm", "scorching", "cool"], ["freezing", "lukewarm"], ["polar", "torrid"])
ANSWERS = {
    "icy": (0.8, 0.15, 0.05),
    "warm": (0.1, 0.5, 0.4),
    "scorching": (0.02, 0.08, 0.9),
    "cool": (0.6, 0.3, 0.1),
    "freezing": (0.9, 0.06, 0.04),
    "lukewarm": (0.2, 0.7, 0.1),
    "polar": (0.95, 0.04, 0.01),
    "torrid": (0.01, 0.19, 0.8),
}


def task(**changed) -> Task:
    splits = {"train": (TRAIN, [0, 1, 2, 0]), "validation": (VALIDATION, [0, 1]), "test": (TEST, [0, 2])}
    made = {name: Split.from_lists(texts, labels=labels) for name, (texts, labels) in splits.items()}
    return Task(**({"name": "heat", "kind": SingleLabel(NAMES), "transfer": None} | made | changed))


def frame(prefix="", **columns) -> pd.DataFrame:
    values = np.array(list(ANSWERS.values()))
    return pd.DataFrame(
        {"text": list(ANSWERS)} | {f"{prefix}{n}": values[:, i] for i, n in enumerate(NAMES)} | columns
    )


@pytest.fixture
def load(tmp_path):
    """Write a table to a file, and open it as the teacher."""

    def open_it(table, name="scores.parquet", task=task(), **settings):  # noqa: B008
        path = tmp_path / name
        if path.suffix == ".parquet":
            table.to_parquet(path)
        elif path.suffix == ".csv":
            table.to_csv(path, index=False)
        else:
            table.to_json(path, orient="records", lines=True)
        config = PredictionsTeacherConfig(name="predictions", path=str(path), **settings)
        return translated(*load_predictions("teacher", config, task, Cache(tmp_path / "cache")), task)

    return open_it


def probabilities(teacher, split=None):
    return teacher.answer(split or task().train, "train").answers.values.softmax(-1).tolist()


@pytest.mark.parametrize("name", ["scores.parquet", "scores.csv", "scores.jsonl"])
@pytest.mark.parametrize("prefix", ["", "probability_"])
def test_each_text_gets_its_own_row_whatever_the_order(load, name, prefix):
    teacher = load(frame(prefix).sample(frac=1, random_state=3), name)
    assert np.allclose(probabilities(teacher), [ANSWERS[text] for text in TRAIN], atol=1e-6)
    assert teacher.scale == Scale.log_probabilities
    assert teacher.notices == [f"{name}: read as probabilities, by their range"]


def test_logits_stay_as_they_are_and_log_probabilities_equal_them_up_to_a_constant(load):
    logits = frame()
    logits[NAMES] = np.log(logits[NAMES]) + 3.5
    plain = load(logits)
    assert plain.scale == Scale.logits
    assert torch.allclose(
        plain.answer(task().test, "test").answers.values[0], torch.tensor(ANSWERS["polar"]).log() + 3.5
    )
    logs = frame()
    logs[NAMES] = np.log(logs[NAMES])
    teacher = load(logs, "logs.csv")
    assert "log-probabilities" in teacher.notices[0]
    student, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    loss = KD(temperature=2.0)
    values = [loss(student, each.answer(task().train, "").answers.values, labels) for each in (plain, teacher)]
    assert torch.allclose(*values, atol=1e-6)


def test_a_loss_that_reads_the_constant_is_refused_for_log_probabilities(load):
    teacher = load(frame())
    refuse_unfit_answers(KD(temperature=1.0), teacher)
    refuse_unfit_answers(MSE(centered=True), teacher)
    with pytest.raises(UserError, match=r"loss\.centered: is false, .* up to a constant of each row; set"):
        refuse_unfit_answers(MSE(centered=False), teacher)
    refuse_unfit_answers(MSE(centered=False, alpha=1.0), teacher)
    refuse_unfit_answers(MSE(centered=False), load(frame(), "as_logits.csv", values="logits"))


def test_what_is_wrong_with_rows_is_counted_and_told(load):
    table = frame()
    table.loc[0, NAMES] = [0.4, 0.1, 0.0]  # sums to a half, and rules a class out
    table.loc[1, NAMES] = [math.nan, 0.5, 0.5]
    table.loc[2, NAMES] = 0.0
    table = pd.concat([table.drop(index=6), table.iloc[[3]], table.iloc[[4]].assign(cold=0.5, mild=0.46)])
    table = pd.concat([table, table.iloc[[5]].assign(text="of another task")])
    teacher = load(table, values="probabilities")
    assert teacher.notices == [
        "scores.parquet: 1 rows sum to something else than 1 (0.5 to 0.5): scaled to 1",
        "scores.parquet: 1 rows give no class any probability and count as missing",
        "scores.parquet: 1 probabilities in 1 rows are nearer to certain than 1e-06, and are taken for that",
        "scores.parquet: 2 rows have no answer and count as missing",
        "scores.parquet: 2 rows are of a text that the file answers already, 1 of them otherwise: the mean is taken",
        "no answer for 2 of 4 rows of train, which are learned from their labels alone",
        "no answer for 1 of 2 rows of test: its scores there are of the others",
        "1 of its 6 texts are none of this task's",
    ]
    given = teacher.answer(task().train, "train").answers
    assert given.answered_rows.tolist() == [0, 3]
    assert np.allclose(given.values[0].exp(), [0.8, 0.2, 0], atol=1e-5)
    assert np.allclose(probabilities(teacher, task().validation)[0], [0.7, 0.26, 0.04], atol=1e-6)


def test_the_mean_is_of_probabilities_and_what_was_read_is_kept(load, tmp_path, caplog):
    load(frame())
    with caplog.at_level(logging.INFO):
        again = load(frame())
        again.prepare()
    assert len(list((tmp_path / "cache" / "prediction_files").glob("*/files"))) == 1
    assert again.notices
    assert "teacher predictions: scores.parquet: read as probabilities" in caplog.text


def test_pairs_are_joined_by_both_texts(load):
    pairs = Split.from_lists(["a", "a"], ["b", "c"], [0, 1])
    asked = task(train=pairs, validation=pairs, test=pairs)
    table = pd.DataFrame({"text": ["a", "a"], "text_pair": ["c", "b"]} | {n: [0.2, 0.4] for n in NAMES})
    table["hot"] = [0.6, 0.2]
    teacher = load(table, task=asked)
    assert np.allclose(probabilities(teacher, pairs), [[0.4, 0.4, 0.2], [0.2, 0.2, 0.6]], atol=1e-6)


def test_a_label_with_a_confidence_shares_the_rest_out_and_says_so(load):
    table = pd.DataFrame({"text": TRAIN, "said": ["cold", "mild", "hot", "cold"], "sure": [0.9, 0.5, 0.8, 0.7]})
    teacher = load(table, label="said", confidence="sure")
    assert np.allclose(probabilities(teacher)[:2], [[0.9, 0.05, 0.05], [0.25, 0.5, 0.25]], atol=1e-6)
    assert "shared out evenly" in teacher.notices[0]
    fixed = load(table, label="said", confidence=0.6)
    assert np.allclose(probabilities(fixed)[2], [0.2, 0.2, 0.6], atol=1e-6)
    refuse_unfit_answers(KD(temperature=1.0), fixed)
    with pytest.raises(UserError, match=r"loss: nkd compares .* a label with a confidence; expected one of ce, kd"):
        refuse_unfit_answers(NKD(temperature=1.0, nontarget_weight=1.0), fixed)


@pytest.mark.parametrize(
    ("table", "settings", "line"),
    [
        (
            frame().drop(columns="hot"),
            {},
            r"teacher\.columns: no column 'hot' for the class hot in .* columns are: text",
        ),
        (frame().rename(columns={"text": "sentence"}), {}, r"teacher\.text: no column 'text' .* there are: sentence"),
        (frame(), {"text": ["text", "cold"]}, r"teacher\.text: names 2 columns, but the task's rows have 1 text"),
        (
            frame("a_").merge(frame("b_")),
            {},
            r"teacher\.columns: .* beginning with 'a_', 'b_'; choose one",
        ),
        (frame(), {"columns": {"cold": "mild"}}, r"teacher\.columns: no column for the class mild"),
        (frame(hot=5.0), {"values": "probabilities"}, r"teacher\.values: 8 of 8 rows hold numbers that are no prob"),
        (frame(hot=0.9, cold=0.9), {}, r"teacher\.values: .* that do not sum to one: what are they; say it with"),
        (frame(hot="much"), {}, r"teacher\.columns: .*row 1: column 'hot' holds 'much', not a number; write"),
        (frame(text="x"), {}, r"teacher\.path: answers none of the 4 training rows .*'icy'.*teacher\.text=<column>"),
        (
            frame(said="tepid"),
            {"label": "said", "confidence": 0.5},
            r"teacher\.label: 8 rows .* no class: 'tepid'",
        ),
        (
            frame(said="hot", sure=7),
            {"label": "said", "confidence": "sure"},
            r"teacher\.confidence: 8 rows .* out",
        ),
    ],
)
def test_a_file_that_does_not_answer_the_task_is_refused_in_one_line(load, table, settings, line):
    with pytest.raises(UserError, match=line):
        load(table, **settings)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "teacher.path: is not set"),
        (["teacher.path=nowhere.parquet"], "teacher.path: no file"),
        (
            ["teacher.path=a.csv", "teacher.floor=0.5"],
            "teacher.floor: got 0.5; expected a number above 0, at most",
        ),
        (["teacher.path=a.csv", "teacher.values=odds"], "teacher.values: got 'odds'; expected one of auto, logits,"),
        (["teacher.path=a.csv", "teacher.label=l"], "teacher.confidence: is not set: a label alone"),
        (["teacher.path=a.csv", "teacher.confidence=0.9"], "teacher.confidence: got 0.9, but no label"),
        (["teacher.path=a.csv", "teacher.label=l", "teacher.confidence=1.5"], "teacher.confidence: got 1.5; expected"),
        (["teacher.path=a.csv", "teacher.label=l", "teacher.columns=p_"], "teacher.columns: is of a column per"),
        (["teacher.path=a.csv", "teacher.num_layers=2"], "teacher.num_layers: no such setting; expected one of"),
        (
            ["teacher.path=a.csv", "tokenization=student_ids"],
            "tokenization: student_ids feeds token ids to",
        ),
    ],
)
def test_bad_settings_are_told_in_one_line(command, words, line):
    answer = command("teacher=predictions", "task.train_size=20", "hardware=cpu", "tracking=none", *words)
    assert answer.code == 2
    assert f"error: {line}" in answer.err


def test_transfer_text_needs_answers_where_it_is_used(load, tmp_path):
    transfer = Split.from_lists(["a text that nobody has answered"])
    teacher = load(frame(), task=task(transfer=transfer))
    assert not any("transfer" in line for line in teacher.notices)
    course = SimpleNamespace(
        evaluation_splits={}, training_splits={"transfer": transfer}, task=task(transfer=transfer)
    )
    with pytest.raises(UserError, match=r"train\.use_transfer: is true, but predictions has no answer about any"):
        teacher_answers(teacher, course)


def rows(folder) -> list[tuple[str, str]]:
    words = {"warm": "hot", "scorching": "hot", "icy": "cold", "freezing": "cold"}
    found = [(f"it is {word} at {place}", label) for place in range(40) for word, label in words.items()]
    (folder / "rows.csv").write_text("\n".join(["text,label", *map(",".join, found)]) + "\n")
    return found


def settings(folder, *overrides):
    return compose(
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1", "train.epochs=1"),
        *(f"cache_dir={folder}/cache", f"tracking.uri=sqlite:///{folder}/mlflow.db", "tracking.log_model=false"),
        *("teacher=predictions", f"teacher.path={folder}/scores.csv", *overrides),
    )


@pytest.mark.usefixtures("own_folder", "empty_store")
def test_a_file_that_answers_train_alone_goes_through_a_whole_run(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    table = pd.DataFrame(rows(tmp_path), columns=["text", "label"])
    table["cold"] = np.where(table.pop("label") == "cold", 0.9, 0.2)
    table["hot"] = 1 - table["cold"]
    table.to_csv(tmp_path / "scores.csv", index=False)
    whole = run(settings(tmp_path))
    assert whole.score("test", "teacher") == 1
    assert "forwarded" not in caplog.text
    assert re.search(r"teacher answers: the file has those about (\d+) of \1 rows", caplog.text)
    assert whole.costs["cache_hits"] == 0
    stored = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation").runs()[0]
    assert stored.tags["kdexp.pairing"] == "no-family"
    kept = pd.read_parquet(next(tmp_path.rglob("predictions.parquet")))
    table[~table["text"].isin(kept["text"])].to_csv(tmp_path / "scores.csv", index=False)
    partly = run(settings(tmp_path))
    assert partly.score("test", "teacher") is None
    assert partly.score("test") == whole.score("test")
    assert (partly.retention, partly.agreement.get("student")) == (None, None)
    assert partly.gain.value == whole.gain.value
    # What a run logs of its models is such a file too.
    kept.to_parquet(tmp_path / "kept.parquet")
    kept[["text", "gold"]].rename(columns={"gold": "label"}).to_csv(tmp_path / "others.csv", index=False)
    words = (f"task.train={tmp_path}/others.csv", f"teacher.path={tmp_path}/kept.parquet")
    config = settings(tmp_path, *words, "teacher.columns=teacher_probability_")
    asked = load_task(config.task, Cache(tmp_path / "c"))
    teacher, _ = load_predictions("teacher", config.teacher, asked, Cache(tmp_path / "c"))
    assert (teacher.answer(asked.train, "train").answers.values.argmax(-1).numpy() == asked.train.labels).all()
    with pytest.raises(UserError, match=r"beginning with .*'student_probability_'.*choose one"):
        run(settings(tmp_path, f"teacher.path={tmp_path}/kept.parquet", f"task.train={tmp_path}/rows.csv"))


@pytest.mark.usefixtures("own_folder")
def test_beside_other_teachers_those_that_answer_share_the_weight(tmp_path):
    table = pd.DataFrame(rows(tmp_path), columns=["text", "label"])
    table["cold"] = np.where(table.pop("label") == "cold", 0.9, 0.2)
    table["hot"] = 1 - table["cold"]
    table[::2].to_csv(tmp_path / "scores.csv", index=False)
    table.assign(cold=0.5, hot=0.5).to_csv(tmp_path / "flat.csv", index=False)
    from kdexp.teacher.logits import Ensemble

    first, _ = load_predictions("teacher", settings(tmp_path).teacher, asked := _task(tmp_path), Cache(tmp_path / "c"))
    flat = settings(tmp_path, f"teacher.path={tmp_path}/flat.csv").teacher
    second, _ = load_predictions("more_teachers.flat", flat, asked, Cache(tmp_path / "c"))
    together = Ensemble({"first": first, "second": second}, {"first": 3.0, "second": 1.0})
    given = together.answer(asked.train, "train")
    alone = given.members["first"].answers
    mixture = given.answers.values.exp()
    silent = np.setdiff1d(np.arange(len(asked.train)), alone.answered_rows)
    assert np.allclose(mixture[silent], 0.5, atol=1e-6)
    answered = alone.answered_rows
    assert np.allclose(mixture[answered], 0.75 * alone.values[answered].exp() + 0.125, atol=1e-6)


def _task(folder) -> Task:
    return load_task(settings(folder).task, Cache(folder / "c"))


@pytest.mark.usefixtures("own_folder")
def test_rows_can_be_joined_by_their_names(tmp_path):
    found = rows(tmp_path)
    table = pd.DataFrame(found, columns=["text", "label"]).assign(number=range(len(found)))
    table.to_csv(tmp_path / "rows.csv", index=False)
    scores = table.drop(columns="text").sample(frac=0.9, random_state=0).astype({"number": float})  # 1.0 is 1
    scores["cold"] = np.where(scores.pop("label") == "cold", 0.9, 0.2)
    scores["hot"] = 1 - scores["cold"]
    scores.to_csv(tmp_path / "scores.csv", index=False)
    named = ("task.id=number", "teacher.id=number")
    asked = load_task(settings(tmp_path, *named).task, Cache(tmp_path / "c"))
    teacher, _ = load_predictions("teacher", settings(tmp_path, *named).teacher, asked, Cache(tmp_path / "c"))
    answers = {name: teacher.answer(getattr(asked, name), name).answers for name in ("train", "validation", "test")}
    assert sum(len(item.answered_rows) for item in answers.values()) == len(scores)
    for name, item in answers.items():
        at = item.answered_rows
        assert (item.values.argmax(-1).numpy()[at] == asked.labels(name).values[at]).all()
    without = load_task(settings(tmp_path).task, Cache(tmp_path / "c"))
    assert without.fingerprint("train", "test") == asked.fingerprint("train", "test")
    for words, line in {
        ("teacher.id=number",): r"teacher\.id: the rows of train have no names to join by; set task\.id",
        ("task.id=number", "teacher.id=nr"): r"teacher\.id: no column 'nr' in .* there are: number, cold, hot",
        ("task.id=nr", "teacher.id=number"): r"task\.id: no column 'nr'",
        ("teacher.id=number", "teacher.text=text"): r"teacher\.id: got number, but text is set too",
    }.items():
        with pytest.raises(UserError, match=line):
            run(settings(tmp_path, "tracking=none", *words))
