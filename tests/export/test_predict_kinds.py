"""Pairs and words: the run, its files, the command and the server answer alike, from every kind of file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model_server import asked, serve

from kdexp.errors import UserError
from kdexp.export.predict import main as predict
from kdexp.export.unsure import Unsure
from kdexp.tracking.store import Study

pytestmark = pytest.mark.measured

READERS = {
    ".csv": pd.read_csv,
    ".jsonl": lambda path: pd.read_json(path, lines=True),
    ".parquet": pd.read_parquet,
}
SUFFIXES = list(READERS)


def told_by(exported, monkeypatch, tmp_path):
    """What a run told of some test rows."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{exported.folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return Study(uri, "distillation").table_artifact(exported.record.run_id, "predictions.parquet").head(24)


def answered(exported, model, texts, out, *options):
    """What the command writes of a file of texts."""
    predict([f"runs:/{exported.record.run_id}/{model}", texts, "--out", out, *options])
    return READERS[Path(out).suffix](out)


def written(table, suffix):
    """A file of texts."""
    name = f"texts{suffix}"
    match suffix:
        case ".csv":
            table.to_csv(name, index=False)
        case ".jsonl":
            table.to_json(name, orient="records", lines=True)
        case ".parquet":
            table.to_parquet(name)
    return name


def lists(column):
    """Lists, also of a CSV, where they are JSON."""
    return [json.loads(value) if isinstance(value, str) else list(value) for value in column]


def furthest(ones, others):
    """The largest difference of a score; words that were not read have none, on either side."""
    pairs = [pair for rows in zip(ones, others, strict=True) for pair in zip(*rows, strict=True)]
    one, other = np.array(pairs, dtype=float).T
    assert (np.isnan(one) == np.isnan(other)).all()
    return np.nanmax(np.abs(one - other))


@pytest.fixture
def told_pairs(exported_pairs, monkeypatch, tmp_path):
    return told_by(exported_pairs, monkeypatch, tmp_path)


@pytest.fixture
def told_words(exported_words, monkeypatch, tmp_path):
    return told_by(exported_words, monkeypatch, tmp_path)


def probabilities(table, prefix=""):
    return table[sorted(name for name in table if name.startswith(f"{prefix}probability_"))].to_numpy()


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pairs_are_answered_as_the_run_did(exported_pairs, told_pairs, suffix):
    given = told_pairs[["row", "text", "text_pair"]].rename(columns={"text": "premise", "text_pair": "hypothesis"})
    texts = written(given, suffix)
    for model in ("student", "student_onnx", "student_onnx_int8"):
        found = answered(exported_pairs, model, texts, f"{model}{suffix}", "--text", "premise,hypothesis")
        role = model.replace("student_", "export/")
        assert found["row"].tolist() == told_pairs["row"].tolist()
        assert found["label"].tolist() == told_pairs[role].tolist()
        assert abs(probabilities(found) - probabilities(told_pairs, f"{role}_")).max() < 1e-4


@pytest.mark.slow
def test_a_server_answers_pairs_as_the_run_did(exported_pairs, told_pairs):
    rows = told_pairs[["text", "text_pair"]].to_numpy().tolist()
    found = asked(exported_pairs, "student_onnx", {"inputs": rows})
    assert found["label"].tolist() == told_pairs["export/onnx"].tolist()
    assert abs(probabilities(found) - probabilities(told_pairs, "export/onnx_")).max() < 1e-4


@pytest.mark.slow
def test_pairs_on_the_command_line_stand_beside_a_tab(exported_pairs, told_pairs, capsys):
    rows = [f"{row.text}\t{row.text_pair}" for row in told_pairs.head(3).itertuples()]
    predict([exported_pairs.record.run_id, *rows, "--unsure", "0.5"])
    shown = capsys.readouterr()
    found = pd.read_csv(pd.io.common.StringIO(shown.out))
    assert found["label"].tolist() == told_pairs["export/onnx"].head(3).tolist()
    assert found["unsure"].tolist() == (found["score"] < 0.5).tolist()
    assert "on validation" in shown.err
    with pytest.raises(
        UserError, match="reads pairs of texts, and was sent single ones; expected a text and a second"
    ):
        predict([exported_pairs.record.run_id, "one text"])


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_words_are_tagged_as_the_run_did(exported_words, told_words, suffix):
    record = exported_words.record
    assert record.scores["student"].test["unread"] > 0
    assert record.score("test", "export/onnx") == record.score("test")
    texts = written(told_words[["row", "text"]], suffix)
    scores = {}
    for model in ("student", "student_onnx", "student_onnx_int8"):
        found = answered(exported_words, model, texts, f"{model}{suffix}")
        role = model.replace("student_", "export/")
        assert lists(found["tags"]) == [list(tags) for tags in told_words[role]]
        assert lists(found["words"]) == [text.split() for text in told_words["text"]]
        scores[model] = lists(found["scores"])
    assert furthest(scores["student"], scores["student_onnx"]) < 1e-4


@pytest.mark.slow
def test_a_server_tags_words_as_the_command_does(exported_words, told_words):
    rows = [text.split() for text in told_words["text"]]
    with serve(exported_words, "student_onnx") as server:
        found = server.ask({"dataframe_records": [{"text": words} for words in rows]})
    assert found["tags"].tolist() == [list(tags) for tags in told_words["export/onnx"]]
    Path("words.jsonl").write_text("\n".join(json.dumps({"text": words}) for words in rows))
    command = answered(exported_words, "student_onnx", "words.jsonl", "tags.jsonl")
    assert furthest(found["scores"], command["scores"]) < 1e-4


@pytest.mark.slow
def test_a_text_is_as_sure_as_its_least_sure_word(exported_words, told_words, capsys):
    texts = written(told_words[["row", "text"]], ".jsonl")
    found = answered(exported_words, "student_onnx", texts, "tags.jsonl", "--unsure", "0.6")
    lowest = [min(score for score in row if score is not None) for row in found["scores"]]
    assert found["unsure"].tolist() == [score < 0.6 for score in lowest]
    assert "of rows were not" in capsys.readouterr().err


@pytest.mark.slow
def test_words_of_two_texts_are_refused(exported_words, told_words):
    told_words[["row", "text", "gold"]].astype({"row": str}).to_json("texts.jsonl", orient="records", lines=True)
    with pytest.raises(UserError, match="tags the words of single texts, and was sent pairs; expected one text a row"):
        predict([exported_words.record.run_id, "texts.jsonl", "--text", "text,row"])


def test_numbers_have_no_score_to_be_unsure_by(tmp_path):
    (tmp_path / "student.json").write_text(json.dumps({"kind": "regression", "sureness": None}))
    with pytest.raises(UserError, match="--unsure: this student does not say how sure it is \\(numbers have no score"):
        Unsure.of(tmp_path, 0.6)
