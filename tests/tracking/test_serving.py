"""The logged student, asked in every form that MLflow's clients know: exactly the rows sent, or one sentence."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from kdexp.tracking.student_model import StudentFiles, write_student

LABELS = ["bad", "good"]
TEXTS = ["a very good film", "bad films", "good " * 100, "very"]
PAIRS = [("good", "bad film"), ("bad", "very good film"), ("a film", "a film"), ("very", "good")]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT and its WordPiece tokenizer, as save_pretrained writes them."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("checkpoint")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "very", "a"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(
        vocab_size=len(words), **sizes, max_position_embeddings=16, num_labels=2, initializer_range=1.0
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def written(checkpoint: Path, target: Path, *, is_pair: bool | None) -> Path:
    examples = PAIRS[:3] if is_pair else TEXTS[:3]
    logged = SimpleNamespace(artifact_location=str(target), source_run_id="0" * 32, model_id="m-0")
    write_student(StudentFiles(checkpoint, LABELS, 12, examples, is_pair=is_pair), logged, target)
    return target


@pytest.fixture(scope="module")
def singles(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(checkpoint, tmp_path_factory.mktemp("singles") / "student", is_pair=False)


@pytest.fixture(scope="module")
def pairs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(checkpoint, tmp_path_factory.mktemp("pairs") / "student", is_pair=True)


@pytest.fixture(scope="module")
def models(singles: Path, pairs: Path) -> dict[str, Any]:
    import mlflow.pyfunc

    return {"singles": mlflow.pyfunc.load_model(str(singles)), "pairs": mlflow.pyfunc.load_model(str(pairs))}


@pytest.fixture(scope="module")
def expected(checkpoint: Path) -> dict[str, np.ndarray]:
    """Probabilities by kind of rows, one row at a time, straight through transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    def probabilities(rows: list[tuple[str, ...]]) -> np.ndarray:
        with torch.inference_mode():
            logits = [
                model(**tokenizer(*row, truncation=True, max_length=12, return_tensors="pt")).logits[0] for row in rows
            ]
        return torch.stack(logits).softmax(-1).numpy()

    return {"singles": probabilities([(text,) for text in TEXTS]), "pairs": probabilities(PAIRS)}


def assert_answers(answers: pd.DataFrame, probabilities: np.ndarray) -> None:
    np.testing.assert_allclose(answers[[f"probability_{name}" for name in LABELS]], probabilities, atol=1e-5)
    assert answers["label"].tolist() == [LABELS[index] for index in probabilities.argmax(-1)]
    np.testing.assert_allclose(answers["score"], probabilities.max(-1), atol=1e-5)


FIRST, SECOND = (list(column) for column in zip(*PAIRS, strict=True))
SINGLE_RECORDS = [{"text": text} for text in TEXTS]
PAIR_RECORDS = [{"text": first, "text_pair": second} for first, second in PAIRS]
PAIR_COLUMNS = {"text": FIRST, "text_pair": SECOND}
AS_SPLIT = {
    "singles": {"columns": ["text", "id"], "index": [3, 1, 0, 2], "data": [[text, 7] for text in TEXTS]},
    "pairs": {"columns": ["text_pair", "text"], "data": [[second, first] for first, second in PAIRS]},
}

REQUESTS = [
    ("singles", {"inputs": TEXTS}),
    ("singles", {"inputs": [[text] for text in TEXTS]}),
    ("singles", {"inputs": {"text": TEXTS}}),
    ("singles", {"inputs": {"id": [4, 3, 2, 1], "text": TEXTS}}),
    ("singles", {"inputs": SINGLE_RECORDS}),
    ("singles", {"instances": TEXTS}),
    ("singles", {"instances": [[text] for text in TEXTS]}),
    ("singles", {"instances": SINGLE_RECORDS}),
    ("singles", {"instances": {"text": TEXTS}}),
    ("singles", {"dataframe_split": AS_SPLIT["singles"]}),
    ("singles", {"dataframe_split": {"data": [[text] for text in TEXTS]}}),
    ("singles", {"dataframe_records": SINGLE_RECORDS}),
    ("pairs", {"inputs": PAIRS}),
    ("pairs", {"inputs": PAIR_COLUMNS}),
    ("pairs", {"inputs": PAIR_RECORDS}),
    ("pairs", {"instances": PAIRS}),
    ("pairs", {"instances": PAIR_RECORDS}),
    ("pairs", {"instances": PAIR_COLUMNS}),
    ("pairs", {"dataframe_split": AS_SPLIT["pairs"]}),
    ("pairs", {"dataframe_split": {"data": PAIRS}}),
    ("pairs", {"dataframe_records": PAIR_RECORDS}),
]
ONE_ROW = [
    ("singles", {"inputs": TEXTS[0]}),
    ("singles", {"inputs": {"text": TEXTS[0]}}),
    ("singles", {"instances": [TEXTS[0]]}),
    ("pairs", {"inputs": {"text": FIRST[0], "text_pair": SECOND[0]}}),
    ("pairs", {"instances": [PAIRS[0]]}),
]
REFUSED = [
    ("singles", {"inputs": {"sentence": TEXTS}}, "expected a column 'text', got 'sentence'"),
    ("singles", {"instances": [{"review": "good"}]}, "expected a column 'text', got 'review'"),
    ("singles", {"dataframe_records": [{"text": "good"}, {}]}, "row 1 of 'text' is empty, no text"),
    ("singles", {"dataframe_split": {"columns": ["text"], "data": [["good"], [None]]}}, "row 1 of 'text' is empty"),
    ("singles", {"inputs": ["good", None]}, "row 1 of 'text' is empty"),
    ("singles", {"inputs": [1, 2]}, "row 0 of 'text' is the number 1, no text"),
    ("singles", {"inputs": 3.5}, "got the number 3.5"),
    ("singles", {"inputs": {"text": 3}}, "'text' is the number 3, no column"),
    ("singles", {"inputs": {}}, "expected a column 'text', got none"),
    ("singles", {"inputs": [{"text": "good"}, {"review": "bad"}]}, "row 1 has no 'text'"),
    ("singles", {"inputs": [["good", "bad", "film"]]}, "rows of 3 values"),
    ("singles", {"inputs": PAIRS}, "this student reads single texts, and was sent pairs"),
    ("singles", {"inputs": PAIR_COLUMNS}, "this student reads single texts, and was sent pairs"),
    ("singles", {"messages": [{"role": "user", "content": "good"}]}, "expected a column 'text', got 'messages'"),
    ("pairs", {"inputs": TEXTS}, "this student reads pairs of texts, and was sent single ones"),
    ("pairs", {"instances": SINGLE_RECORDS}, "this student reads pairs of texts, and was sent single ones"),
    ("pairs", {"inputs": {"text": FIRST, "text_pair": SECOND[:2]}}, "4 values of 'text' and 2 of 'text_pair'"),
    ("pairs", {"inputs": {"text": FIRST[0], "text_pair": SECOND}}, "'text' is of type str, no column"),
    ("pairs", {"inputs": [PAIR_RECORDS[0], {"text": "good"}]}, "row 1 has no 'text_pair'"),
    ("pairs", {"dataframe_records": [PAIR_RECORDS[0], {"text": "good"}]}, "row 1 of 'text_pair' is empty"),
]


def asked(model: Any, body: Any, content_type: str = "application/json") -> pd.DataFrame:
    """What MLflow's scoring server makes of a request."""
    from mlflow.pyfunc.scoring_server import invocations

    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = invocations(data, content_type, model, model.metadata.get_input_schema())
    assert response.status == 200, response
    return pd.DataFrame(json.loads(response.response)["predictions"])


@pytest.mark.parametrize(("kind", "body"), REQUESTS)
def test_every_form_of_a_request_answers_the_rows_sent(models, expected, kind, body) -> None:
    assert_answers(asked(models[kind], body), expected[kind])


@pytest.mark.parametrize(("kind", "body"), ONE_ROW)
def test_one_row_is_one_answer(models, expected, kind, body) -> None:
    assert_answers(asked(models[kind], body), expected[kind][:1])


@pytest.mark.parametrize("kind", ["singles", "pairs"])
@pytest.mark.parametrize("body", [{"inputs": []}, {"instances": []}, {"dataframe_records": []}])
def test_no_rows_are_no_answers_or_a_sentence(models, kind, body) -> None:
    if "dataframe_records" in body:  # a table without columns
        with pytest.raises(ValueError, match="expected a column 'text', got none"):
            asked(models[kind], body)
    else:
        assert asked(models[kind], body).empty


@pytest.mark.parametrize(("kind", "body", "sentence"), REFUSED)
def test_what_cannot_be_read_is_400_and_a_sentence(models, kind, body, sentence) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as refusal:
        asked(models[kind], body)
    assert refusal.value.get_http_status_code() == 400
    assert f"Error: {sentence}" in refusal.value.message
    assert {"singles": "; send texts, or", "pairs": "; send pairs"}[kind] in refusal.value.message


@pytest.mark.parametrize("kind", ["singles", "pairs"])
def test_tables_as_csv_and_parquet(models, expected, kind) -> None:
    table = pd.DataFrame({"text": TEXTS} if kind == "singles" else PAIR_COLUMNS)
    assert_answers(asked(models[kind], table.to_csv(index=False).encode(), "text/csv"), expected[kind])
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    assert_answers(asked(models[kind], buffer.getvalue(), "application/vnd.apache.parquet"), expected[kind])


@pytest.mark.parametrize("kind", ["singles", "pairs"])
def test_its_own_examples_can_be_sent(models, expected, singles, pairs, kind) -> None:
    from mlflow.models import validate_serving_input

    folder = singles if kind == "singles" else pairs
    request = (folder / "serving_input_example.json").read_text()
    assert_answers(asked(models[kind], json.loads(request)), expected[kind][:3])
    assert_answers(models[kind].predict(models[kind].input_example), expected[kind][:3])
    assert_answers(validate_serving_input(str(folder), request), expected[kind][:3])


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("singles", TEXTS),
        ("singles", tuple(TEXTS)),
        ("singles", np.array(TEXTS)),
        ("singles", pd.Series(TEXTS)),
        ("singles", iter(TEXTS)),
        ("singles", {"text": TEXTS}),
        ("singles", {"text": pd.Series(TEXTS)}),
        ("singles", SINGLE_RECORDS),
        ("singles", pd.DataFrame({"text": TEXTS, "stars": [1, 2, 3, 4]})),
        ("singles", pd.DataFrame(TEXTS)),
        ("pairs", PAIRS),
        ("pairs", [list(pair) for pair in PAIRS]),
        ("pairs", np.array(PAIRS)),
        ("pairs", pd.Series(PAIRS)),
        ("pairs", PAIR_COLUMNS),
        ("pairs", PAIR_RECORDS),
        ("pairs", pd.DataFrame(PAIR_COLUMNS)),
    ],
)
def test_every_form_in_python(models, expected, kind, rows) -> None:
    assert_answers(models[kind].predict(rows), expected[kind])


def test_one_text_in_python(models, expected) -> None:
    assert_answers(models["singles"].predict(TEXTS[0]), expected["singles"][:1])


@pytest.mark.parametrize("rows", [b"good", ["good", ("bad", "film")], [["good"], ["bad", "film"]], None, 5])
def test_what_is_no_text_is_refused_in_python(models, rows) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*; send texts, or a table with the column 'text'$"):
        models["singles"].predict(rows)


def test_a_column_that_is_there_twice_is_refused(models) -> None:
    twice = pd.DataFrame([["good", "bad"]], columns=["text", "text"])
    with pytest.raises(ValueError, match="the column 'text' is there 2 times"):
        models["singles"].predict(twice)


def test_answers_keep_the_index_of_a_table(models) -> None:
    table = pd.DataFrame({"text": TEXTS * 3}, index=[f"row {number}" for number in range(12)])
    straight = models["singles"].predict(table)["label"]
    shuffled = table.sample(frac=1, random_state=3)
    shuffled["label"] = models["singles"].predict(shuffled)["label"]
    assert shuffled.loc[table.index, "label"].tolist() == straight.tolist()
    chosen = table["text"][lambda column: column.str.contains("good")]
    assert models["singles"].predict(chosen).index.equals(chosen.index)


def test_many_threads_may_ask_at_once(models, expected) -> None:
    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(lambda _: models["singles"].predict(TEXTS), range(64)):
            assert_answers(answers, expected["singles"])


def test_a_student_of_an_unknown_kind_reads_both(checkpoint, tmp_path, expected) -> None:
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(written(checkpoint, tmp_path / "student", is_pair=None)))
    assert_answers(model.predict(TEXTS), expected["singles"])
    assert_answers(model.predict(PAIRS), expected["pairs"])


@pytest.mark.parametrize("kind", ["singles", "pairs"])
def test_mlflow_evaluates_it_as_a_classifier(models, singles, pairs, kind, tmp_path, monkeypatch) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    table = pd.DataFrame({"text": TEXTS} if kind == "singles" else PAIR_COLUMNS)
    labels = models[kind].predict(table)["label"]
    table = table.assign(gold=[*labels[:3], next(name for name in LABELS if name != labels[3])])
    folder = str(singles if kind == "singles" else pairs)
    found = mlflow.models.evaluate(folder, table, targets="gold", model_type="classifier")
    assert found.metrics["accuracy_score"] == 0.75
    assert found.metrics["example_count"] == 4
    mlflow.set_tracking_uri(None)


# --- a real server ---


@pytest.fixture
def served(pairs: Path, tmp_path: Path) -> Iterator[str]:
    """The address of `mlflow models serve`; tests/export asks one that reads single texts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(pairs), "--port", str(port)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--env-manager", "local"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while not is_up(address):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def is_up(address: str) -> bool:
    try:
        return urllib.request.urlopen(f"{address}/ping", timeout=5).status == 200
    except OSError:
        return False


def posted(address: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_mlflow_models_serve(served, expected) -> None:
    requests = [body for kind, body in REQUESTS if kind == "pairs"]
    for body in requests:
        status, answer = posted(served, body)
        assert status == 200, (body, answer)
        assert_answers(pd.DataFrame(answer["predictions"]), expected["pairs"])
    for body, sentence in ((body, sentence) for kind, body, sentence in REFUSED if kind == "pairs"):
        status, answer = posted(served, body)
        assert (status, sentence in answer["message"]) == (400, True), (body, answer)
    many = [threading.Thread(target=posted, args=(served, requests[0])) for _ in range(8)]
    for thread in many:
        thread.start()
    for thread in many:
        thread.join()
    assert posted(served, {"inputs": []}) == (200, {"predictions": []})


@pytest.mark.slow
def test_mlflow_models_predict(pairs, expected, tmp_path) -> None:
    paths = ("--input-path", str(pairs / "serving_input_example.json"), "--output-path", str(tmp_path / "answers"))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"]
    subprocess.run([*command, "--model-uri", str(pairs), *paths], check=True, capture_output=True, cwd=tmp_path)
    answers = pd.DataFrame(json.loads((tmp_path / "answers").read_text())["predictions"])
    assert_answers(answers, expected["pairs"][:3])
