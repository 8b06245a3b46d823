"""What kdexp uses of MLflow without its promise: each fails here when a release moves it.

That a store is created, and that a logged student loads, is tested with the runs that need it.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from kdexp.errors import UserError
from kdexp.tracking.adapter import context_tags, saved_view, sweep_view
from kdexp.tracking.uri import check_reachable


class Tracking(BaseHTTPRequestHandler):
    """Answers as a tracking server does, with the status and the type of content that a test wants."""

    status, content_type = 200, "application/json"
    asked: list[tuple[str, str | None]]

    def do_POST(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Type", self.content_type)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Tracking, "asked", [], raising=False)
    with HTTPServer(("127.0.0.1", 0), Tracking) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_is_asked_once_with_the_credentials_of_the_environment(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    check_reachable(server)
    assert Tracking.asked == [("/api/2.0/mlflow/experiments/search", "Bearer abc")]


@pytest.mark.parametrize(
    ("status", "content_type", "message"),
    [
        (503, "application/json", "no MLflow server"),  # MLflow itself would ask again for minutes
        (401, "application/json", "refuses us"),
        (200, "text/html", "no MLflow server"),
    ],
)
def test_what_answers_otherwise_is_refused(
    status: int, content_type: str, message: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tracking, "status", status)
    monkeypatch.setattr(Tracking, "content_type", content_type)
    with pytest.raises(UserError, match=message):
        check_reachable(server)
    assert len(Tracking.asked) == 1


def test_a_run_is_tagged_with_who_and_from_where() -> None:
    assert {"mlflow.user", "mlflow.source.name", "mlflow.source.type"} <= context_tags().keys()


def test_the_pages_that_mlflow_ships_know_every_word_of_a_saved_view() -> None:
    """The state is JSON that its pages read back: a name that they no longer contain has been moved."""
    import mlflow.server

    pages = Path(mlflow.server.__file__).parent / "js" / "build" / "static" / "js"
    scripts = "".join(path.read_text(encoding="utf-8") for path in pages.glob("*.js"))
    state = sweep_view(
        "parent", ["loss.alpha", "loss.temperature"], ["v", "t", "g"], ("loss.alpha", "loss.temperature")
    )
    tag, value = saved_view("key", "name", state)
    names = {tag.removesuffix(".key"), "viewStateShareKey", "compareRunsMode", "workflowType", "machine_learning"}
    names |= json.loads(value).keys() | state.keys()
    for chart in state["compareRunCharts"]:
        names |= chart.keys() | {chart["type"]}
    assert {name for name in names if name not in scripts} == set()
