"""The command line, called in this process: a second, where a process of its own takes many."""

import json
import logging
import signal
from dataclasses import dataclass
from pathlib import Path

from kdexp.cache import Cache
from kdexp.cli.main import main
from kdexp.config import flatten
from kdexp.naming import run_name, run_tags
from kdexp.results.record import RunRecord, Scores
from kdexp.tracking.run import RunDescription, open_run


@dataclass
class Answer:
    """What a person saw."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """The one line of a refusal: exit code 2, no traceback."""
        assert self.code == 2, self.err + self.out
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        return lines[0]


def log_run(config, **handed_in):
    """What a run leaves in MLflow before it trains."""
    cache = Cache(Path(config.cache_dir))
    params = {name: str(value) for name, value in flatten(config).items()}
    tags = run_tags(config, cache) | {"kdexp.primary_metric": "accuracy"}
    scores = {"student": Scores({"accuracy": 0.5}, {"accuracy": 0.5}, 1)}
    with open_run(config.tracking, RunDescription(config.study, run_name(config), params, tags)) as run:
        run.log_text(json.dumps(params), "config.yaml")
        record = RunRecord(
            run_name(config), "accuracy", scores, {}, agreement={"student": 1.0}, costs={"seconds": 1.0}, url=run.url
        )
        run.log_metrics(record.metrics())
    return record


def commands(tmp_path, monkeypatch, capsys):
    """What calls `kdexp` in an empty folder, and afterwards everything as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDEXP_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("KDEXP_TRACKING_URI", "MLFLOW_TRACKING_URI"):  # MLflow itself sets the latter in its process
        monkeypatch.delenv(name, raising=False)
    root, kdexp = logging.getLogger(), logging.getLogger("kdexp")
    before = root.handlers[:], root.level, kdexp.level, signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["kdexp", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            for handler in set(root.handlers) - set(before[0]):
                handler.close()
        shown = capsys.readouterr()
        return Answer(code, shown.out, shown.err)

    yield call
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    kdexp.setLevel(before[2])
    signal.signal(signal.SIGTERM, before[3])
