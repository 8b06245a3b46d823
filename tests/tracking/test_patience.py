"""Stores that are busy, full, foreign or silent: every wait ends, and is told in one line."""

import errno
import http.server
import json
import logging
import os
import socket
import sqlite3
import tempfile
import threading
import time
from pathlib import Path

import pytest
from dripping_server import dripping

from kdexp import deadline
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.tracking import client, delivery, uri
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.run import RunDescription, open_run
from kdexp.tracking.store import Study, connect
from kdexp.tracking.uri import check_reachable


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """A store, whose file is copied: making one takes seconds."""
    path = tmp_path_factory.mktemp("made") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path.read_bytes()


@pytest.fixture
def store(tmp_path, made_once, monkeypatch):
    """The URI of a store in a folder with a name that looks encoded, which is the working folder."""
    folder = tmp_path / "my%20work dir%2Fx"
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(made_once)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{folder}/mlflow.db"


def opened(store, **described):
    description = RunDescription(**{"study": "study", "name": "run"} | described)
    return open_run(TrackingConfig(uri=store), description, rescue_folder=Path("rescued"))


class Locked:
    """An SQLite store that another program holds for some seconds."""

    def __init__(self, store, seconds):
        self.path, self.seconds = store.removeprefix("sqlite:///"), seconds

    def __enter__(self):
        self.other = sqlite3.connect(self.path, check_same_thread=False)
        self.other.execute("BEGIN EXCLUSIVE")
        self.timer = threading.Timer(self.seconds, self.other.rollback)
        self.timer.start()

    def __exit__(self, *error):
        self.timer.join()
        self.other.close()


def test_a_store_that_is_locked_is_waited_for(store, caplog):
    with Locked(store, 2):
        check_reachable(store)
    with opened(store) as run, Locked(store, 7):  # SQLite itself waits for five
        run.log_metrics({"a": 1.0}, step=0)
        assert Study(store, "study").runs()[0].run_id == run.run_id
    assert "waiting up to" in caplog.text
    assert Study(store, "study").history(run.run_id, "a") == [(0, 1.0)]


def test_a_store_that_stays_locked_is_told(store, monkeypatch):
    monkeypatch.setattr(uri, "LOCK_SECONDS", 0.5)
    with Locked(store, 4), pytest.raises(UserError, match="is locked by another program since more than 0 s; close"):
        check_reachable(store)


def test_a_store_of_another_mlflow_is_left_alone(store):
    path = store.removeprefix("sqlite:///")
    for revision, message in (
        ("451aebb31d03", r"older MLflow; copy it, then `mlflow db upgrade 'sqlite:///.*mlflow\.db'`"),
        ("ffffffffffff", "newer MLflow; pip install -U mlflow"),
    ):
        with sqlite3.connect(path) as database:
            database.execute("UPDATE alembic_version SET version_num = ?", [revision])
        database.close()
        before = Path(path).read_bytes()
        with pytest.raises(UserError, match=message):
            Study(store, "study")
        with pytest.raises(UserError, match=message), opened(store):
            pass
        assert Path(path).read_bytes() == before


def test_a_working_folder_with_percents_in_its_name_gets_no_neighbours(store, tmp_path):
    with opened(None) as run:
        run.log_metrics({"a": 1.0}, step=0)
        run.log_text("seed: 1", "config.yaml")
    assert Study(None, "study").text_artifact(run.run_id, "config.yaml") == "seed: 1"
    assert [path.name for path in tmp_path.iterdir()] == ["my%20work dir%2Fx"]
    assert {path.name for path in Path.cwd().iterdir() if not path.name.startswith(".")} == {"mlflow.db", "mlruns"}
    assert list(Path("mlruns").rglob("config.yaml"))


@pytest.mark.parametrize("place", ["/proc/x.db", "/sys/x.db", "/dev/null/x.db"])
def test_a_place_that_takes_no_file_is_refused_at_once(place):
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^tracking\.uri: "):
        check_reachable(f"sqlite:///{place}")
    assert time.monotonic() - started < 3


class Server(http.server.ThreadingHTTPServer):
    """Answers as MLflow's server does; what a test puts into `behaves` decides about a call."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaves = {}
        self.asked = []
        self.over = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self):
        return f"http://127.0.0.1:{self.server_port}"


ANSWERS = {
    "experiments/search": {"experiments": [{"experiment_id": "1", "name": "study", "lifecycle_stage": "active"}]},
    "experiments/get-by-name": {"experiment": {"experiment_id": "1", "name": "study", "lifecycle_stage": "active"}},
    "runs/create": {"run": {"info": {"run_id": "abc", "experiment_id": "1", "status": "RUNNING"}, "data": {}}},
    "runs/get": {"run": {"info": {"run_id": "abc", "experiment_id": "1", "artifact_uri": "file:///none"}, "data": {}}},
}


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        call = self.path.split("?")[0].removeprefix("/api/2.0/mlflow/")
        self.server.asked.append(call)
        status, body = self.server.behaves.get(call, (200, ANSWERS.get(call, {})))
        if status is None:
            self.server.over.wait(60)
            return
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = do_POST  # noqa: N815

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    server = Server()
    connect.cache_clear()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


FORBIDDEN = (403, {"error_code": "PERMISSION_DENIED", "message": "Permission denied"})


@pytest.mark.parametrize("call", ["runs/create", "experiments/get-by-name", "experiments/create"])
def test_a_server_that_lets_only_read_is_told(server, call):
    if call == "experiments/create":
        missing = {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such"}
        server.behaves["experiments/get-by-name"] = (404, missing)
    server.behaves[call] = FORBIDDEN
    with pytest.raises(UserError, match=r"lets us read but not write .*; ask for the right"), opened(server.uri):
        pass


def test_a_server_that_falls_silent_is_waited_for_within_limits(server, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setattr(delivery, "PATIENCE_SECONDS", 2.0)
    monkeypatch.setattr(delivery, "FLUSH_SECONDS", 0.2)
    monkeypatch.setattr(uri, "PROBE_SECONDS", 1.0)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"did not take 1 metrics.*, saved in rescued"), opened(server.uri) as run:  # noqa: PT012
        server.behaves = dict.fromkeys([*ANSWERS, "runs/log-batch", "runs/update"], (None, None))
        run.log_metrics({"a": 1.0}, step=0)
        for number in range(20):
            run.log_text("text", f"{number}.txt")
    assert time.monotonic() - started < 25


def test_limits_of_a_call_are_set_unless_a_person_did(monkeypatch):
    from kdexp.tracking.adapter import import_mlflow

    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    import_mlflow()
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "30"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("(sqlite3.OperationalError) database or disk is full", "has no room left; make room"),
        ("(sqlite3.OperationalError) disk I/O error", "has no room left; make room"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "can only be read"),
        ("something else", "cannot be used"),
    ],
)
def test_what_a_store_has_against_a_call_is_one_line(message, told):
    from mlflow.exceptions import MlflowException

    with pytest.raises(UserError, match=told), client.told("sqlite:///mlflow.db"):
        raise MlflowException(message)


def test_temporary_files_without_room_are_told(store, monkeypatch):
    def full(*arguments, **named):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(UserError, match=r"^TMPDIR: .*No space left on device.*; make room"), opened(store):
        pass


def test_what_cannot_be_saved_either_is_told(store, monkeypatch):
    from mlflow.exceptions import MlflowException

    def full(*arguments, **named):
        raise MlflowException("database or disk is full")

    Path("rescued").write_text("in the way")
    with pytest.raises(UserError, match=r"1 metrics of run .* cannot be saved in rescued"), opened(store) as run:  # noqa: PT012
        monkeypatch.setattr(run._delivery.client._client, "log_batch", full)
        run.log_metrics({"a": 1.0}, step=0)


def test_a_run_that_was_killed_at_once_is_found(store, tmp_path, monkeypatch, caplog):
    """Killed between its creation and its first tags."""
    cache = Cache(tmp_path / "cache")
    tags = {"kdexp.config_hash": "c0ffee", "kdexp.cache": cache.identity()}
    monkeypatch.setattr(delivery.Delivery, "flush", lambda self: True)
    monkeypatch.setattr(delivery.Delivery, "_terminate", lambda self, status: None)
    with opened(store, tags=tags):
        pass
    monkeypatch.undo()
    Study(store, "study").mark_cut_off(cache)
    (run,) = Study(store, "study").runs()
    assert run.status == "KILLED"
    caplog.clear()
    Study(store, "study").mark_cut_off(cache)
    assert "was cut off" not in caplog.text


def test_what_a_killed_process_left_in_the_temporary_folder_is_removed(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hour_ago = time.time() - 3600
    left = tmp_path / "kdexp-tracking-left"
    left.mkdir()
    os.utime(left, (hour_ago, hour_ago))
    with opened(store) as first:
        spool = first._delivery._spool
        first.log_text("text", "a.txt")
        os.utime(spool, (hour_ago, hour_ago))
        with opened(store):
            assert not left.exists()
            assert spool.exists()  # its process lives
    assert not list(tmp_path.glob("kdexp-tracking-*"))


def test_the_logger_of_mlflows_store_prints_no_tracebacks(store):
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.ERROR)


def test_a_port_that_takes_connections_and_says_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(uri, "PROBE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(UserError, match="cannot be reached"):
        check_reachable(f"http://127.0.0.1:{deaf.getsockname()[1]}")


def test_a_server_that_drips_is_waited_for_within_limits(monkeypatch):
    """Each byte would begin the limits of the client anew."""
    monkeypatch.setattr(uri, "PROBE_SECONDS", 0.5)
    monkeypatch.setattr(uri, "_CONNECT_SECONDS", 0.0)
    monkeypatch.setattr(deadline, "CALL_SECONDS", 0.5)
    connect.cache_clear()
    with dripping() as address:
        with pytest.raises(UserError, match=r"cannot be reached \(timed out.*start it with"):
            check_reachable(address)
        monkeypatch.setattr("kdexp.tracking.store.check_reachable", lambda *arguments, **named: None)
        with pytest.raises(UserError, match=r"cannot be used \(timed out"):
            Study(address, "study")


def test_what_sends_files_may_take_longer(tmp_path):
    (tmp_path / "weights").write_bytes(bytes(1_000_000))
    assert deadline.limit_of("log_batch", ("run",)) == deadline.CALL_SECONDS
    assert deadline.limit_of("log_model_artifacts", ("model", str(tmp_path))) == deadline.CALL_SECONDS + 10
    assert deadline.limit_of("log_artifact", ("run", str(tmp_path / "weights"))) == deadline.CALL_SECONDS + 10


def test_a_disk_that_is_full_while_a_store_is_made_is_the_stores(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def full(path):
        raise OperationalError("create", {}, Exception("database or disk is full"))

    monkeypatch.setattr("kdexp.tracking.store.create_sqlite_store", full)
    connect.cache_clear()
    with pytest.raises(UserError, match=r"^tracking\.uri: .*mlflow\.db has no room left; make room there"):
        connect(f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("store", ["sqlite:///mlflow.db", "http://127.0.0.1:5000"])
def test_what_a_call_names_its_arguments_is_the_clients_affair(store):
    class Client:
        def create_logged_model(self, experiment_id, **named):
            return experiment_id, named

    named = {"name": "student", "call": 1, "arguments": 2}
    assert client.PatientClient(Client(), store).create_logged_model("7", **named) == ("7", named)
