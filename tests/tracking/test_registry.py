"""Students in MLflow's model registry: a version a run, told by its description; refused before training otherwise."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from command_line import SMALL
from mlflow import MlflowClient

from kdexp import compose, distil
from kdexp.errors import UserError
from kdexp.export.predict import main as predict
from kdexp.identity import config_hash

FEW = ("task.train_size=64", "task.validation_size=40", "task.test_size=50", "train.max_steps=1")


@pytest.mark.usefixtures("own_folder", "empty_store")
def test_every_run_becomes_a_version_that_tells_what_it_is(tmp_path, capsys, monkeypatch):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    config = compose(*SMALL, *FEW, "tracking.register=my reviews", f"cache_dir={tmp_path}/cache")
    record = distil(config)
    again = distil(config)
    client = MlflowClient(store, store)
    first, second = (client.get_model_version("my reviews", number) for number in ("1", "2"))
    assert [first.run_id, second.run_id] == [record.run_id, again.run_id]
    assert first.tags["kdexp.test_score"] == f"{record.score('test'):.4f}"
    assert first.tags["kdexp.file"] == "torch"
    assert first.description.startswith("# reviews bert 2x64 -> bert 1x24")
    assert "95 % intervals" in first.description
    assert "distilled on reviews" in client.get_registered_model("my reviews").description
    model = client.get_logged_model(client.get_run(first.run_id).outputs.model_outputs[0].model_id)
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "my reviews", "version": "1"}]
    predict(["models:/my reviews/1", "a fine thing"])
    assert capsys.readouterr().out.startswith("text,label,score")


def test_a_registered_run_is_the_computation_that_it_was():
    assert config_hash(compose("tracking.register=mine")) == config_hash(compose())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["tracking.register=a/b"], "tracking.register: got 'a/b'; expected at most 200 letters, digits"),
        (["tracking.register=a:1"], "got 'a:1'"),
        (["tracking.register=..x"], "got '..x'"),
        (["tracking.register=''"], "got ''"),
        (["tracking.register=" + "a" * 201], "expected at most 200 letters"),
        (["tracking.register=a", "tracking.log_model=false"], "got a, but log_model is false; leave it out, or add"),
        (["tracking.register=a", "tracking=none"], "got a, but nothing is tracked; leave it out, or choose tracking="),
    ],
)
def test_what_no_name_can_be_is_refused(settings, told):
    with pytest.raises(UserError) as refused:
        compose(*settings)
    assert told in str(refused.value)
    assert str(refused.value).startswith("tracking.register: ")


class WithoutRegistry(BaseHTTPRequestHandler):
    """A tracking server whose registry is switched off."""

    def do_POST(self):
        self._answer(200, {"experiments": [{"experiment_id": "0", "name": "Default", "lifecycle_stage": "active"}]})

    def do_GET(self):
        self._answer(501, {"error_code": "FEATURE_DISABLED", "message": "no registry here"})

    def _answer(self, status, body):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("sweep", [False, True])
def test_a_store_without_a_registry_is_refused_before_anything_is_trained(command, tmp_path, sweep):
    with HTTPServer(("127.0.0.1", 0), WithoutRegistry) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"tracking.uri=http://127.0.0.1:{server.server_port}"
        words = ("-m", "seed=0,1") if sweep else ()
        told = command(*SMALL, *FEW, address, "tracking.register=mine", *words)
        server.shutdown()
    assert "has no model registry (" in told.refusal
    assert "no registry here" in told.refusal
    assert not list(tmp_path.glob("cache/teachers/*"))
