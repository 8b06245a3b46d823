"""`kdexp predict`: the run's own answers, from every kind of file, with what a person should look at."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from command_line import ROOT, child_environment
from model_server import asked, serve

from kdexp.errors import UserError
from kdexp.export.predict import main as predict
from kdexp.tracking.store import Study

ONLY_THESE = ["onnxruntime", "tokenizers"]


@pytest.fixture
def told(exported, tmp_path, monkeypatch):
    """What the run answered on test, in a folder beside its store."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(exported.folder / "mlflow.db", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "distillation")
    return study.table_artifact(exported.record.run_id, "predictions.parquet").head(40)


def probabilities(table, prefix=""):
    return table[[name for name in table if name.startswith(f"{prefix}probability_")]].to_numpy()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_file_of_a_run_answers_as_the_run_did(exported, told, suffix):
    given = told[["row", "text", "gold"]].rename(columns={"gold": "label"})
    given.to_csv("texts.csv", index=False)
    given.to_csv("texts.csv.gz", index=False)
    given.to_json("texts.jsonl", orient="records", lines=True)
    given.to_parquet("texts.parquet")
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".jsonl": lambda path: pd.read_json(path, lines=True)}
    for model in ("student_onnx", "student_onnx_int8"):
        out = f"{model}{suffix}"
        predict([f"runs:/{exported.record.run_id}/{model}", f"texts{suffix}", "--out", out])
        found = readers[suffix](out)
        role = model.replace("student_", "export/")
        assert found["row"].tolist() == told["row"].tolist()
        assert found["given_label"].tolist() == told["gold"].tolist()
        assert found["label"].tolist() == told[role].tolist()
        assert abs(probabilities(found) - probabilities(told, f"{role}_")).max() < 1e-4
        assert not Path(f"{out}.part").exists()
    predict([f"runs:/{exported.record.run_id}/student_onnx", "texts.csv.gz", "--out", "unpacked.csv"])
    assert len(pd.read_csv("unpacked.csv")) == len(told)


def test_torch_and_its_file_answer_alike(exported, told, capsys):
    answers = []
    for model in ("student", "student_onnx"):
        predict([f"runs:/{exported.record.run_id}/{model}", *told["text"].head(5)])
        shown = capsys.readouterr()
        assert "Loading" not in shown.err
        answers.append(pd.read_csv(pd.io.common.StringIO(shown.out)))
    assert abs(probabilities(answers[0]) - probabilities(answers[1])).max() < 1e-4
    assert abs(probabilities(answers[0]) - probabilities(told.head(5), "student_")).max() < 1e-4


def test_the_unsure_are_marked_with_what_the_threshold_was_worth(exported, told, capsys):
    Path("texts.txt").write_text("\n".join(told["text"]))
    predict([exported.record.run_id, "texts.txt", "--unsure", "0.3", "--out", "answers.csv"])
    answers = pd.read_csv("answers.csv")
    assert answers["unsure"].tolist() == (answers["score"] < 0.3).tolist()
    said = capsys.readouterr().err
    assert f"{answers['unsure'].sum()} of 40 rows are unsure (score below 0.3)" in said
    assert "on validation" in said
    assert "of these were right" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "usage: kdexp predict"),
        (("0" * 32, "a"), "has no student"),
        (("no/folder", "a"), "no folder no/folder"),
        ((".", "a"), "holds no student"),
        (("RUN", "texts.csv", "--text", "sentence"), "has no column 'sentence'; expected one of row, text"),
        (("RUN", "texts.csv", "--text", "row,text"), "reads single texts, and was sent pairs"),
        (("RUN", "missing.csv"), "no file missing.csv"),
        (("RUN", "ragged.csv"), "row 3 of ragged.csv has 3 fields, and the header 1"),
        (("RUN", "empty.csv"), "has no rows"),
        (("RUN", "latin.csv"), "latin.csv, line 2 (byte 7): not UTF-8; convert it: iconv"),
        (("RUN", "gr\udcfc\udcdfe"), "rows 1 to 1: not UTF-8; convert them"),
        (("RUN", "excel.csv"), "expected one of a;text (is it separated by ';'? write it with commas)"),
        (("RUN", "cut.csv.gz"), "cannot read cut.csv.gz"),
        (("RUN", "texts.csv", "--out", "texts.csv"), "texts.csv is the file that is read"),
        (("RUN", "wrong.jsonl"), "line 1 of wrong.jsonl is no JSON object"),
        (("RUN", "a", "--unsure", "1.5"), "got 1.5; expected a score above 0"),
        (("RUN", "a", "--unsure", "0.12345"), "at most three decimals"),
        (("RUN", "texts.csv", "--out", "answers.xls"), "got answers.xls; expected a file that ends in"),
        (("RUN", "a", "--out", "none/answers.csv"), "cannot write none/answers.csv"),
    ],
)
def test_a_mistake_is_told_in_one_line_and_writes_nothing(exported, told, words, message):
    told[["row", "text"]].to_csv("texts.csv", index=False)
    Path("ragged.csv").write_text("text\ngood\na, b, c\n")
    Path("empty.csv").write_text("text\n")
    Path("latin.csv").write_bytes("text\ngrüße\n".encode("latin-1"))
    Path("excel.csv").write_text("a;text\n1;good\n")
    Path("cut.csv.gz").write_bytes(gzip.compress(b"text\ngood\n")[:-9])
    Path("wrong.jsonl").write_text("good\n")
    before = sorted(os.listdir())
    with pytest.raises(UserError) as refused:
        predict([exported.record.run_id if word == "RUN" else word for word in words])
    assert message in str(refused.value)
    assert [name for name in sorted(os.listdir()) if not name.startswith("mlruns")] == before


@pytest.mark.slow
def test_torch_is_not_loaded_where_an_onnx_file_is_there(exported, told):
    command = [sys.executable, "-X", "importtime", "-m", "kdexp", "predict", exported.record.run_id, "a fine thing"]
    done = subprocess.run(
        command,
        env=child_environment(exported.folder),
        cwd=exported.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    modules = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "onnxruntime" in modules
    assert not {"torch", "transformers"} & modules


@pytest.mark.slow
def test_a_server_answers_as_the_run_did(exported, told):
    """A real `mlflow models serve` on the loopback."""
    with serve(exported, "student_onnx") as server:
        rows = server.ask({"inputs": told["text"].tolist()})
    assert rows["label"].tolist() == told["export/onnx"].tolist()
    assert abs(probabilities(rows) - probabilities(told, "export/onnx_")).max() < 1e-4


def test_torch_answers_a_server_as_the_run_did(exported, told):
    rows = asked(exported, "student", {"inputs": told["text"].tolist()})
    assert rows["label"].tolist() == told["student"].tolist()
    assert abs(probabilities(rows) - probabilities(told, "student_")).max() < 1e-4


@pytest.mark.slow
@pytest.mark.registry
def test_the_shown_program_needs_onnxruntime_and_tokenizers_alone(exported, told, tmp_path):
    """In an environment that has only these two, installed from the registry."""
    page = (ROOT / "docs/export.md").read_text("utf-8")
    program = page.partition("```python\n")[2].partition("```")[0]
    Path("classify.py").write_text(program)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "alone"], check=True)
    install = [sys.executable, "-m", "pip", "--python", "alone/bin/python", "install", "-q", "--no-compile"]
    subprocess.run([*install, *ONLY_THESE], check=True)
    from kdexp.export.find_student import find_student

    _, folder = find_student(f"runs:/{exported.record.run_id}/student_onnx", None)
    texts = told["text"].head(10).tolist()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["alone/bin/python", "classify.py", str(folder), *texts],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    labels = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert labels == told["export/onnx"].head(10).tolist()
