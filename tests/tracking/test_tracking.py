"""Tracking against real stores: SQLite files, real processes and signals, and a real `mlflow server`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import ROOT, SMALL, ForkServer

from kdexp.errors import UserError
from kdexp.tracking import delivery
from kdexp.tracking import run as tracking_run
from kdexp.tracking import uri as tracking_uri
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.run import RunDescription
from kdexp.tracking.secrets import redact
from kdexp.tracking.store import Study, connect
from kdexp.tracking.student_model import StudentFiles
from kdexp.tracking.uri import check_reachable, experiment_url, resolve_uri, ui_command

LABELS = ["calm", "what's up, doc?"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder (with a space and an accent in its name) that holds an initialised default store."""
    folder = tmp_path_factory.mktemp("les données")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # MLflow puts artifacts below the folder in which a store is first opened
        connect(f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture
def in_store(store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(store)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return store


def run_of(uri: str | None, run_id: str) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(resolve_uri(uri)).get_run(run_id)


def last_run(uri: str, study: str) -> Any:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    return client.search_runs([client.get_experiment_by_name(study).experiment_id])[0]


def open_run(uri: str | None = None, *, rescue_folder: Path = Path("multirun/undelivered"), **described: Any) -> Any:
    description = RunDescription(**{"study": "study", "name": "a -> b"} | described)
    return tracking_run.open_run(TrackingConfig(uri=uri), description, rescue_folder=rescue_folder)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- what a run holds ---


def test_a_run_holds_what_was_logged_and_ends_finished(in_store: Path) -> None:
    from matplotlib.figure import Figure

    params = {"loss.alpha": 0.5, "long": "x" * 9000} | {f"many.{index}": index for index in range(220)}
    with open_run(params=params, tags={"kdexp.pairing": "cross-family"}) as run:
        for step in range(2500):
            run.log_metrics({"train/loss": step / 2, "f1/what's up, doc?": 1.0}, step=step)
        run.log_text("seed: 1\n", "config.yaml")
        run.log_figure(Figure(), "figures/empty.png")
        run.log_table(pd.DataFrame({"label": ["a"]}), "predictions.parquet")
    logged = run_of(None, run.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.info.run_name == "a -> b"
    assert logged.data.tags["kdexp.pairing"] == "cross-family"
    assert "kdexp.failure" not in logged.data.tags
    assert len(logged.data.params) == 222
    assert logged.data.params["loss.alpha"] == "0.5"
    assert len(logged.data.params["long"]) == 6000
    assert logged.data.metrics["f1/what_s up_ doc_"] == 1.0
    history = Study(None, "study").history(run.run_id, "train/loss")
    assert history == [(step, step / 2) for step in range(2500)]
    artifacts = Path(logged.info.artifact_uri)
    assert artifacts.is_relative_to(in_store / "mlruns")
    assert (artifacts / "config.yaml").read_text() == "seed: 1\n"
    assert (artifacts / "figures" / "empty.png").stat().st_size > 0
    assert pd.read_parquet(artifacts / "predictions.parquet")["label"].tolist() == ["a"]
    assert not (in_store / "multirun").exists()


def test_metrics_arrive_while_the_run_is_open(in_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.1)
    with open_run() as run:
        run.log_metrics({"train/loss": 3.0}, step=1)
        deadline = time.monotonic() + 10
        while not (metrics := run_of(None, run.run_id).data.metrics) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert metrics == {"train/loss": 3.0}


def test_two_runs_are_open_at_once_and_leave_no_active_run(in_store: Path) -> None:
    import mlflow

    with open_run() as parent, open_run(tags={"mlflow.parentRunId": parent.run_id}) as job:
        job.log_metrics({"accuracy": 1.0})
        assert mlflow.active_run() is None
    assert run_of(None, parent.run_id).data.metrics == {}
    assert run_of(None, job.run_id).data.tags["mlflow.parentRunId"] == parent.run_id


def test_logging_a_metric_costs_microseconds(in_store: Path) -> None:
    with open_run() as run:
        start = time.process_time()
        for step in range(1000):
            run.log_metrics({"a": 1.0, "b": 2.0, "c": 3.0}, step=step)
        seconds = (time.process_time() - start) / 1000
    assert seconds < 1e-3


def test_tracking_none_never_imports_mlflow(tmp_path: Path) -> None:
    code = """
import sys
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.run import RunDescription, open_run
with open_run(TrackingConfig(enabled=False), RunDescription("s", "r")) as run:
    run.log_metrics({"a": 1.0}); run.set_tags({"a": "b"}); run.log_params({"a": 1})
    run.log_text("a", "b.txt")
    run.log_figure(None, "a.png"); run.log_table(None, "a.csv")
    run.log_student(None)
    assert run.url is None and run.flush()
print(sorted(name for name in sys.modules if name.split(".")[0] in ("mlflow", "torch", "pandas")))
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


# --- how a run ends ---


def test_an_exception_marks_the_run_failed_and_goes_on(in_store: Path) -> None:
    with pytest.raises(RuntimeError, match="out of"), open_run() as run:  # noqa: PT012
        run.log_metrics({"train/loss": 1.0})
        raise RuntimeError("out of memory at http://me:secret@host\nmore" + "x" * 900)
    logged = run_of(None, run.run_id)
    assert logged.info.status == "FAILED"
    assert logged.data.tags["kdexp.failure"] == "RuntimeError: out of memory at http://***@host"
    assert logged.data.metrics == {"train/loss": 1.0}


def test_a_long_reason_is_cut(in_store: Path) -> None:
    with pytest.raises(ValueError, match="xxx"), open_run() as run:
        raise ValueError("x" * 9000)
    assert len(run_of(None, run.run_id).data.tags["kdexp.failure"]) == 500


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interruption_marks_the_run_killed(in_store: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), open_run() as run:
        raise error
    assert run_of(None, run.run_id).info.status == "KILLED"


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_marks_the_run_killed(fork_server: ForkServer, store: Path, number: signal.Signals) -> None:
    study = f"signal {number}"
    code = f"""
import signal, time
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.run import RunDescription, open_run
signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the command line does
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores Ctrl-C
with open_run(TrackingConfig(), RunDescription({study!r}, "r")) as run:
    run.log_metrics({{"train/loss": 2.0}}, step=1)
    print("open", flush=True)
    time.sleep(60)
"""
    process = fork_server.start(store, "-c", code)
    while process.output != "open\n":
        assert process.poll() is None, process.output
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) != 0
    assert "KeyboardInterrupt" in process.output
    logged = last_run(f"sqlite:///{store}/mlflow.db", study)
    assert logged.info.status == "KILLED"
    assert logged.data.metrics == {"train/loss": 2.0}


def test_what_mlflow_refuses_is_saved_and_told_at_the_end(in_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rejected") as caught, open_run(rescue_folder=tmp_path) as run:  # noqa: PT012
        run.log_params({"seed": 1})
        assert run.flush()
        run.log_params({"seed": 2})  # MLflow's params never change
        run.log_metrics({"train/loss": 1.0})
    kept = json.loads((tmp_path / run.run_id / "undelivered.json").read_text())
    assert {each["key"]: each["value"] for each in kept["rejected"]} == {"seed": "2", "train/loss": 1.0}
    assert str(tmp_path / run.run_id) in str(caught.value)
    assert run_of(None, run.run_id).info.status == "FINISHED"


# --- stores ---


@pytest.mark.slow
def test_processes_that_create_one_store_at_once_all_succeed(fork_server: ForkServer, tmp_path: Path) -> None:
    code = """
import logging
logging.basicConfig(level=logging.INFO, format="LOG %(message)s")
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.run import RunDescription, open_run
with open_run(TrackingConfig(), RunDescription("race", "r")) as run:
    run.log_metrics({"a": 1.0})
print(run.experiment_id)
"""
    processes = [fork_server.start(tmp_path, "-c", code) for _ in range(2)]
    outputs = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]
    lines = [line for output in outputs for line in output.splitlines() if not line.isdigit()]
    assert len(lines) == 1, lines  # ours, from the one that created it
    assert "Creating the MLflow store" in lines[0]
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("race").experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


@pytest.mark.slow
def test_a_store_whose_creation_was_killed_is_created_again(fork_server: ForkServer, tmp_path: Path) -> None:
    code = """
from kdexp.tracking.store import connect
from kdexp.tracking.uri import resolve_uri
connect(resolve_uri(None)); print("done")
"""
    process = fork_server.start(tmp_path, "-c", code)
    while not (tmp_path / ".mlflow.db.new").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.kill()
    assert not (tmp_path / "mlflow.db").exists()
    assert fork_server.call(tmp_path, "-c", code).stdout == "done\n"


def _not_a_database(folder: Path) -> str:
    (folder / "notes.db").write_text("these are notes, not a database")
    return f"sqlite:///{folder}/notes.db"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("foo://x", "'foo://' is not a kind of store.*expected sqlite:///"),
        ("localhost:5000", "names a folder.*http"),
        ("./mlruns", "names a folder.*sqlite:///mlflow.db"),
        ("file:///tmp/mlruns", "names a folder.*sqlite:///mlflow.db"),
        ("sqlite:///nowhere/mlflow.db", "no folder .*nowhere for mlflow.db"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://me:secret@127.0.0.1:1/runs", r"\*\*\*@127.0.0.1:1/runs"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        check_reachable(uri)
    assert caught.value.setting == "tracking.uri"
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    uri = _not_a_database(tmp_path)
    with pytest.raises(UserError, match="not an SQLite database"):
        check_reachable(uri)
    assert (tmp_path / "notes.db").read_text() == "these are notes, not a database"


def test_an_unreachable_server_is_refused_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match=r"cannot be reached.*mlflow server.*tracking=none") as caught:
        check_reachable(f"http://me:secret@127.0.0.1:{free_port()}")
    assert time.monotonic() - start < 5
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_server_that_never_answers_is_refused_in_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_uri, "PROBE_SECONDS", 1.0)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        start = time.monotonic()
        with pytest.raises(UserError, match="cannot be reached"):
            check_reachable(f"http://127.0.0.1:{deaf.getsockname()[1]}")
        assert time.monotonic() - start < 5


def test_a_deleted_study_is_refused(in_store: Path) -> None:
    from mlflow import MlflowClient

    with open_run(study="old") as run:
        pass
    MlflowClient(resolve_uri(None)).delete_experiment(run.experiment_id)
    with (
        pytest.raises(UserError, match=r"'old' was deleted.*mlflow experiments restore"),
        open_run(study="old"),
    ):
        pass


# --- links and secrets ---


def test_links_and_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert ui_command(None) == "mlflow ui"
    assert ui_command("sqlite:///mlflow.db") == "mlflow ui"
    elsewhere = f"sqlite:///{tmp_path}/mlflow.db"
    with monkeypatch.context() as root:
        root.chdir("/")
        assert ui_command(elsewhere) == f"mlflow ui --backend-store-uri '{elsewhere}'"
    assert ui_command("https://me:secret@host/mlflow/") == "https://host/mlflow"
    link = experiment_url("http://me:secret@host:5000/", "7")
    assert link == "http://host:5000/#/experiments/7/runs?workflowType=machine_learning"
    assert experiment_url(elsewhere, "7").startswith("http://127.0.0.1:5000/#/experiments/7/")
    (tmp_path / "mlruns" / "0").mkdir(parents=True)
    (tmp_path / "mlruns" / "0" / "meta.yaml").touch()
    assert "--backend-store-uri" in ui_command(None)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:secret@host:5000/x", "http://***@host:5000/x"),
        ("see postgresql+psycopg2://me:s@cret@db/runs now", "see postgresql+psycopg2://***@db/runs now"),
        ("uri: 'https://secret@host'", "uri: 'https://***@host'"),
        ("mysql://db/runs?user=me&password=secret&ssl=1", "mysql://db/runs?user=me&password=***&ssl=1"),
        ("sqlite:////tmp/mlflow.db, mail me@host", "sqlite:////tmp/mlflow.db, mail me@host"),
    ],
)
def test_credentials_are_redacted(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_credentials_reach_no_param_tag_or_text(in_store: Path) -> None:
    address = "http://me:secret@host"
    with open_run(params={"tracking.uri": address}, tags={"server": address}, name=address) as run:
        run.log_text(f"uri: {address}", "config.yaml")
    logged = run_of(None, run.run_id)
    assert logged.data.params["tracking.uri"] == "http://***@host"
    assert "secret" not in str(logged.to_dictionary())
    assert (Path(logged.info.artifact_uri) / "config.yaml").read_text() == "uri: http://***@host"


# --- the student as a model ---


@pytest.fixture(scope="module")
def student_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT and its WordPiece tokenizer, as save_pretrained writes them."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

    folder = tmp_path_factory.mktemp("student")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "very", "a"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=16,
        num_labels=2,
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


TEXTS = ["a very good film", "bad films", "good " * 100]


@pytest.fixture(scope="module")
def student_run(store: Path, student_folder: Path) -> str:
    """Id of a run that holds the student."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(store)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        with open_run(study="students") as run:
            start = time.monotonic()
            run.log_student(StudentFiles(student_folder, LABELS, 12, TEXTS[:1]))
            assert time.monotonic() - start < 10
    return run.run_id


def expected_probabilities(folder: Path) -> Any:
    """The same texts, one by one, straight through transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        rows = [
            model(**tokenizer(text, truncation=True, max_length=12, return_tensors="pt")).logits[0] for text in TEXTS
        ]
    return torch.stack(rows).softmax(-1).numpy()


def test_the_student_loads_with_pyfunc_and_transformers(
    in_store: Path, student_run: str, student_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import numpy as np

    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{in_store}/mlflow.db")
    expected = expected_probabilities(student_folder)
    model = mlflow.pyfunc.load_model(f"runs:/{student_run}/student")
    predictions = model.predict(TEXTS)
    columns = [f"probability_{name}" for name in LABELS]
    assert list(predictions.columns) == ["label", "score", *columns]
    np.testing.assert_allclose(predictions[columns], expected, atol=1e-5)
    assert predictions["label"].tolist() == [LABELS[index] for index in expected.argmax(-1)]
    np.testing.assert_allclose(predictions["score"], expected.max(-1), atol=1e-5)

    pd.testing.assert_frame_equal(model.predict(pd.DataFrame({"text": TEXTS})), predictions)
    pairs = model.predict([("good", "film"), ("bad", "film")])
    table = pd.DataFrame({"text": ["good", "bad"], "text_pair": ["film", "film"]})
    pd.testing.assert_frame_equal(model.predict(table), pairs)
    assert not np.allclose(pairs[columns], model.predict(["good", "bad"])[columns])
    with pytest.raises(ValueError, match="expected a column 'text'"):
        model.predict(pd.DataFrame({"sentence": TEXTS}))

    downloaded = Path(mlflow.artifacts.download_artifacts(f"runs:/{student_run}/student"))
    np.testing.assert_allclose(expected_probabilities(downloaded), expected)
    assert not (downloaded / "data").exists()
    names = {path.suffix for path in downloaded.rglob("*") if path.is_file()}
    assert not names & {".pkl", ".pickle", ".bin", ".pt"}, names
    (output,) = run_of(None, student_run).outputs.model_outputs
    assert mlflow.MlflowClient().get_logged_model(output.model_id).status == "READY"


@pytest.mark.slow
def test_the_student_loads_where_kdexp_is_not_installed(in_store: Path, student_run: str) -> None:
    code = f"""
import sys
sys.path[:] = [path for path in sys.path if path != {str(ROOT)!r}]
sys.meta_path.insert(0, type("NoKdexp", (), {{"find_spec": staticmethod(
    lambda name, *_: (_ for _ in ()).throw(ImportError(name)) if name.split(".")[0] == "kdexp" else None)}}))
import mlflow
print(mlflow.pyfunc.load_model("runs:/{student_run}/student").predict(["good film"]).to_json())
"""
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{in_store}/mlflow.db", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["label"]["0"] in LABELS


# --- a real server ---


class Server:
    """An `mlflow server` that can be stopped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 150
        while time.monotonic() < deadline:
            try:
                check_reachable(self.uri)
                return
            except UserError:
                time.sleep(0.5)
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture(scope="module")
def started_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.kill()


@pytest.fixture
def server(started_server: Server) -> Server:
    """It runs, also where the test before ended without it: a start takes seconds."""
    if started_server.process.poll() is not None:
        started_server.start()
    return started_server


@pytest.mark.slow
def test_a_run_on_a_server(server: Server, student_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    with open_run(server.uri, params={"seed": 1}) as run:
        start = time.process_time()
        for step in range(1000):
            run.log_metrics({"train/loss": float(step)}, step=step)
        assert (time.process_time() - start) / 1000 < 1e-3
        run.log_text("seed: 1", "configs/config.yaml")
        run.log_student(StudentFiles(student_folder, LABELS, 12, TEXTS[:1]))
    assert run.url.split("?")[0] == f"{server.uri}/#/experiments/{run.experiment_id}/runs/{run.run_id}"
    logged = run_of(server.uri, run.run_id)
    assert logged.info.status == "FINISHED"
    assert len(mlflow.MlflowClient(server.uri).get_metric_history(run.run_id, "train/loss")) == 1000
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    assert mlflow.artifacts.load_text(f"runs:/{run.run_id}/configs/config.yaml") == "seed: 1"
    assert len(mlflow.pyfunc.load_model(f"runs:/{run.run_id}/student").predict(TEXTS)) == 3


@pytest.mark.slow
def test_a_password_is_nowhere_after_a_sweep_on_a_server(server: Server, kdexp: Any, tmp_path: Path) -> None:
    address = server.uri.replace("http://", "http://me:hunter2@")
    result = kdexp("-m", f"tracking.uri={address}", "study=secret", "seed=0", "baseline=false", *SMALL)
    assert result.returncode == 0, result.stderr
    assert "hunter2" not in result.stderr + result.stdout
    client = connect(server.uri)
    assert len(client.search_runs([client.get_experiment_by_name("secret").experiment_id])) == 2
    for folder in (tmp_path, server.folder):
        for path in folder.rglob("*"):
            assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


@pytest.mark.slow
def test_a_server_that_goes_away_and_comes_back_misses_nothing(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.3)
    with open_run(server.uri) as run:
        for step in range(600):
            if step == 150:
                server.kill()
            if step == 450:
                server.start()
            run.log_metrics({"train/loss": float(step)}, step=step)
            time.sleep(0.01)
    logged = MlflowClient(server.uri).get_metric_history(run.run_id, "train/loss")
    assert sorted(metric.step for metric in logged) == list(range(600))
    assert run_of(server.uri, run.run_id).info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_stays_away_costs_no_result(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 2.0)
    # MLflow itself would try to send an artifact for four minutes.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with (  # noqa: PT012
        pytest.raises(UserError, match="1 metrics, 1 artifacts"),
        open_run(server.uri, rescue_folder=tmp_path) as run,
    ):
        server.kill()
        run.log_metrics({"test/accuracy": 0.9})
        run.log_text("seed: 1", "config.yaml")
    kept = json.loads((tmp_path / run.run_id / "undelivered.json").read_text())
    assert [(each["key"], each["value"]) for each in kept["metrics"]] == [("test/accuracy", 0.9)]
    assert (tmp_path / run.run_id / "artifacts" / "config.yaml").read_text() == "seed: 1"
    assert run_of(f"sqlite:///{server.folder}/server.db", run.run_id).info.status == "RUNNING"
