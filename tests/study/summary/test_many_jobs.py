"""A sweep of a thousand jobs is summed up in seconds, and every link that is printed can be opened."""

import json
import os
import sqlite3
import time
from urllib.parse import unquote

import pytest

from kdexp.study.summary.report import main, print_summary
from kdexp.study.summary.settings import summarize
from kdexp.tracking.store import Study

_PARAMS = {f"teacher.setting_{number}": "value" for number in range(90)} | {"task.name": "reviews"}
_METRICS = {f"cost/number_{number}": 1.0 for number in range(50)}


def fill(store, num_jobs):
    """Write jobs where MLflow's client would take minutes."""
    study = Study(f"sqlite:///{store}", "many")
    parent = study._client.create_run(
        study.experiment_id, tags={"kdexp.sweep_key": "key", "kdexp.swept": "loss.alpha,loss.temperature,seed"}
    ).info.run_id
    with sqlite3.connect(store) as database:
        for number in range(num_jobs):
            run_id = f"{number:032x}"
            database.execute(
                "INSERT INTO runs (run_uuid, name, user_id, status, start_time, end_time, lifecycle_stage,"
                " artifact_uri, experiment_id) VALUES (?, ?, 'me', 'FINISHED', ?, ?, 'active', '', ?)",
                (run_id, f"job {number}", number, number, int(study.experiment_id)),
            )
            alpha, temperature, seed = number % 10 / 10, number // 10 % 20 + 1, number // 200
            params = _PARAMS | {"loss.alpha": str(alpha), "loss.temperature": str(temperature), "seed": str(seed)}
            tags = {"kdexp.config_hash": run_id, "kdexp.primary_metric": "accuracy", "mlflow.parentRunId": parent}
            scores = {f"{role}/accuracy": 0.5 + number / 4000 for role in ("validation", "test", "baseline/test")}
            metrics = _METRICS | scores | {"teacher/test/accuracy": 0.9, "kd/gain": 0.0, "kd/gain_low": -0.1}
            for table, values in (("params", params), ("tags", tags)):
                database.executemany(
                    f"INSERT INTO {table} (run_uuid, key, value) VALUES (?, ?, ?)",
                    [(run_id, key, value) for key, value in values.items()],
                )
            database.executemany(
                "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan) VALUES (?, ?, ?, 0, 0, 0)",
                [(run_id, key, value) for key, value in metrics.items()],
            )
    return study, parent


@pytest.fixture
def filled(folder):
    return fill(folder.path / "mlflow.db", 1000)


def test_a_thousand_jobs_take_seconds(filled, folder, capsys, monkeypatch):
    reads = []
    runs = Study.runs
    monkeypatch.setattr(Study, "runs", lambda self, **tags: reads.append(tags) or runs(self, **tags))
    before = time.process_time()
    main(["many", f"cache_dir={folder.path}/cache"])
    # The bar is 5 s; a busy machine counts the time that it waits for memory too.
    assert time.process_time() - before < 5
    assert reads.count({}) == 1
    assert "1000 FINISHED" in capsys.readouterr().out


def test_no_link_is_too_long_to_open(filled, capsys):
    study, parent = filled
    for summary in (summarize(study, parent), summarize(study, None)):
        print_summary(summary)
        lines = capsys.readouterr().out.splitlines()
        links = [word for line in lines for word in line.split() if word.startswith("http")]
        assert links
        assert all(len(link) < 2500 for link in links)
        assert all("workflowType=machine_learning" in link for link in links)


def test_what_is_read_from_the_tables_is_what_mlflow_says(folder):
    study, parent = fill(folder.path / "mlflow.db", 3)
    study._client.log_metric(f"{1:032x}", "nothing", float("nan"))
    study._client.delete_run(f"{2:032x}")
    direct = study.runs(parent=parent)
    found = study._client.search_runs([study.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {run.run_id for run in direct} == {run.info.run_id for run in found}
    for run in found:
        ours = next(each for each in direct if each.run_id == run.info.run_id)
        assert (ours.params, ours.tags, ours.status) == (run.data.params, run.data.tags, run.info.status)
        assert json.dumps(ours.metrics, sort_keys=True) == json.dumps(run.data.metrics, sort_keys=True)


def test_a_summary_repeats_the_link_to_the_view(filled, folder, capsys):
    study, parent = filled
    summary = summarize(study, parent)
    view = study.save_view(parent, summary.settings, ["a", "b", "c"], contour=None)
    main(["many", f"cache_dir={folder.path}/cache"])
    assert view in capsys.readouterr().out
    assert unquote(view).isascii()


def test_browse_is_followed_by_something(folder, capsys):
    study = Study("sqlite:///mlflow.db", "one")
    study._client.create_run(study.experiment_id)
    main(["study=one", f"cache_dir={folder.path}/cache"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].endswith("then open")
    assert lines[-1].startswith("runs ")
    assert os.getcwd() == str(folder.path)
