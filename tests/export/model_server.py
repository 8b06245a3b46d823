"""A real `mlflow models serve` on the loopback, and what it makes of a request without its process."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import pandas as pd
from command_line import child_environment


class ModelServer:
    """What answers requests at an address."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/invocations"

    def ask(self, request: dict) -> pd.DataFrame:
        body = json.dumps(request).encode()
        asked = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        for _ in range(120):
            try:
                with urllib.request.urlopen(asked, timeout=30) as answer:
                    return pd.DataFrame(json.loads(answer.read())["predictions"])
            except urllib.error.HTTPError as error:
                raise AssertionError(error.read().decode()) from error
            except OSError:
                time.sleep(1)
        raise AssertionError("no server")


def asked(exported, model: str, request: dict) -> pd.DataFrame:
    """What MLflow's scoring server answers with a model of a run."""
    import mlflow.pyfunc
    from mlflow.pyfunc.scoring_server import invocations

    loaded = mlflow.pyfunc.load_model(f"runs:/{exported.record.run_id}/{model}")
    response = invocations(
        json.dumps(request).encode(), "application/json", loaded, loaded.metadata.get_input_schema()
    )
    assert response.status == 200, response
    return pd.DataFrame(json.loads(response.response)["predictions"])


@contextmanager
def serve(exported, model: str) -> Iterator[ModelServer]:
    """A model of a run, served until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri = f"sqlite:///{exported.folder}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"runs:/{exported.record.run_id}/{model}"]
    command += ["--env-manager", "local", "--port", str(port), "--host", "127.0.0.1", "--workers", "1"]
    environment = child_environment(exported.folder) | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with subprocess.Popen(
        command, env=environment, cwd=exported.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:  # fmt: skip
        try:
            yield ModelServer(port)
        finally:
            os.killpg(server.pid, 15)
