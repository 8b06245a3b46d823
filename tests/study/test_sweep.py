"""Sweeps through the real command line: shared work, faults with processes that are really killed, summaries."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
from command_line import SMALL

from kdexp.tracking.store import Study

pytestmark = pytest.mark.slow

# The smallest sweep: what its jobs share is computed in the first.
TWO = ("-m", "study=grid", "loss.alpha=0.5,1", *SMALL, "tracking.log_model=false")
GRID = ("-m", "study=grid", "loss.alpha=0.5,1", "loss.temperature=1,4", *SMALL, "tracking.log_model=false")


def study(folder, name="grid"):
    return Study(f"sqlite:///{folder}/mlflow.db", name)


def parents(folder, name="grid"):
    return [run for run in study(folder, name).runs() if "kdexp.sweep_key" in run.tags]


def jobs(folder, name="grid"):
    (parent,) = parents(folder, name)
    return study(folder, name).runs(parent=parent.run_id)


def finished_once(folder, number):
    """Every computation of the sweep is finished exactly once, and nothing is left running."""
    runs = jobs(folder)
    counts = Counter(run.config_hash for run in runs if run.status == "FINISHED")
    assert len(counts) == number
    assert set(counts.values()) == {1}
    assert {run.status for run in runs} <= {"FINISHED", "KILLED"}
    assert [run.status for run in parents(folder)] == ["FINISHED"]


@pytest.fixture
def start(fork_server, tmp_path):
    """Start the command line as a process group of its own, so that all of it can be killed."""
    started = []

    def call(*arguments):
        started.append(fork_server.start(tmp_path, *arguments))
        return started[-1]

    yield call
    for process in started:
        if process.poll() is None:
            kill(process)


def wait_until(condition, process, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, getattr(process, "output", process)
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.01)


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_grid_is_computed_once_and_continued(kdexp, tmp_path):
    result = kdexp(*GRID)
    assert result.returncode == 0, result.stderr
    assert "4 jobs, 3 computations" in result.stderr
    assert "Chosen on validation among 3 settings" in result.stdout
    finished_once(tmp_path, 3)
    (parent,) = parents(tmp_path)
    assert {"best/validation", "best/test", "best/gain"} <= parent.metrics.keys()
    report = study(tmp_path).text_artifact(parent.run_id, "summary/report.html")
    assert "http://" not in report.partition("In MLflow")[0].replace("http://www.w3.org", "")
    assert report.count("data:image/svg+xml;base64,") == 3
    assert "loss.alpha" in study(tmp_path).text_artifact(parent.run_id, "summary/settings.csv")

    again = kdexp(*GRID)
    assert "3 of 3 jobs are finished already" in again.stderr
    finished_once(tmp_path, 3)
    # Other values of the same settings continue the same sweep.
    wider = kdexp(*GRID, "loss.alpha=0,0.5,1")
    assert wider.returncode == 0, wider.stderr
    finished_once(tmp_path, 5)
    summary = kdexp("summary", "study=grid")
    assert "Chosen on validation among 5 settings" in summary.stdout
    assert kdexp("summary", "study=grit").returncode == 2


@pytest.mark.usefixtures("empty_store")
def test_a_bad_value_fails_alone(kdexp, tmp_path):
    result = kdexp("-m", "study=grid", "loss.alpha=0.5,7", *SMALL, "tracking.log_model=false")
    assert result.returncode == 1
    assert "1 of 2 jobs failed" in result.stderr
    assert "loss.alpha: got 7.0; expected a number from 0" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(run.status for run in jobs(tmp_path)) == ["FAILED", "FINISHED"]
    (failed,) = [run for run in jobs(tmp_path) if run.status == "FAILED"]
    assert "got 7.0" in failed.tags["kdexp.failure"]
    assert "missing   loss.alpha=7" in result.stdout
    assert [run.status for run in parents(tmp_path)] == ["FAILED"]


@pytest.mark.measured
@pytest.mark.usefixtures("empty_store")
def test_a_job_whose_loss_explodes_fails_alone(kdexp, tmp_path):
    result = kdexp(
        "-m", "study=grid", "train.learning_rate=0.001,1e30", *SMALL, "tracking.log_model=false", "baseline=false"
    )
    assert result.returncode == 1
    assert sorted(run.status for run in jobs(tmp_path)) == ["FAILED", "FINISHED"]


def test_a_sweep_of_nothing_legal_is_refused(kdexp, tmp_path):
    result = kdexp("-m", "loss.alpha=2,3", *SMALL)
    assert result.returncode == 2
    assert result.stderr.count("error:") == 1
    assert not (tmp_path / "mlflow.db").exists()


def has(tmp_path, pattern):
    return lambda: any((tmp_path / "cache").glob(pattern))


def closing(tmp_path):
    """A job writes what it found: its run is not closed yet."""
    return lambda: any(tmp_path.glob("mlruns/*/*/artifacts/predictions.parquet"))


@pytest.mark.usefixtures("empty_store")
@pytest.mark.parametrize(
    "moment",
    ["teachers/*.work/checkpoint-*", "teacher_logits/*.tmp", "students/*.work/checkpoint-*", "closing"],
)
def test_killed_anywhere_and_continued(moment, kdexp, start, tmp_path):
    settings = (*TWO, "train.epochs=4", "teacher.train.epochs=6")
    process = start(*settings)
    wait_until(closing(tmp_path) if moment == "closing" else has(tmp_path, moment), process)
    kill(process)
    left = [run.status for run in study(tmp_path).runs()]
    assert left.count("RUNNING") == 2  # the parent and the job: nobody was left to say more
    result = kdexp(*settings)
    assert result.returncode == 0, result.stderr
    finished_once(tmp_path, 2)
    assert "KILLED" in {run.status for run in jobs(tmp_path)}


@pytest.mark.measured
@pytest.mark.usefixtures("empty_store")
def test_a_summary_of_a_sweep_that_was_killed(kdexp, start, tmp_path):
    process = start(*GRID, "train.epochs=4")
    wait_until(closing(tmp_path), process)
    wait_until(lambda: sum(run.status == "FINISHED" for run in study(tmp_path).runs()) == 1, process)
    kill(process)
    result = kdexp("summary", "study=grid")
    assert result.returncode == 0, result.stderr
    assert "1 FINISHED" in result.stdout
    assert result.stdout.count("missing   ") == 2
    assert "RUNNING" not in {run.status for run in study(tmp_path).runs()}


@pytest.mark.usefixtures("empty_store")
def test_ctrl_c_closes_the_runs_and_continues_from_the_checkpoint(kdexp, start, tmp_path):
    settings = ("study=grid", *SMALL, "train.epochs=15", "tracking.log_model=false")
    process = start(*settings)
    wait_until(has(tmp_path, "students/*.work/checkpoint-*/complete"), process)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "the same command continues" in output
    assert [run.status for run in study(tmp_path).runs()] == ["KILLED"]
    result = kdexp(*settings)
    assert result.returncode == 0, result.stderr
    assert "baseline: training continues from checkpoint-" in result.stderr


@pytest.mark.measured
@pytest.mark.usefixtures("empty_store")
def test_sigterm_closes_a_sweep(start, tmp_path):
    process = start(*GRID, "train.epochs=40")
    wait_until(has(tmp_path, "students/*.work/checkpoint-*/complete"), process)
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert {run.status for run in study(tmp_path).runs()} == {"KILLED"}


def test_two_people_start_the_same_sweep_at_the_same_moment(start, tmp_path):
    first, second = start(*GRID), start(*GRID)
    for process in (first, second):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    finished_once(tmp_path, 3)
    assert len(jobs(tmp_path)) == 3


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_side_by_side(launcher, kdexp, tmp_path):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    shared = "hardware.num_threads=null"  # the cores are shared among the jobs
    result = kdexp(
        *TWO, shared, f"hydra/launcher={launcher}", *(["hydra.launcher.n_jobs=2"] if launcher == "joblib" else [])
    )
    assert result.returncode == 0, result.stderr + result.stdout
    finished_once(tmp_path, 2)
    assert sum(run.metrics["cost/teacher_rows_forwarded"] for run in jobs(tmp_path)) == 700


def test_the_server_goes_away_for_seconds(start, tmp_path):
    port = 5000 + os.getpid() % 1000
    uri = f"http://127.0.0.1:{port}"

    def serve():
        command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", "artifacts"]
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def answers():
        import urllib.request

        try:
            return urllib.request.urlopen(f"{uri}/health", timeout=2).status == 200
        except OSError:
            return False

    server = serve()
    try:
        wait_until(answers, server, 120)
        process = start(*TWO, "train.epochs=10", f"tracking.uri={uri}")
        wait_until(lambda: any(run.status == "FINISHED" for run in study(tmp_path).runs()), process, 120)
        kill(server)
        time.sleep(3)  # and it takes as long to start
        server = serve()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
    finally:
        kill(server)
    finished_once(tmp_path, 2)
    assert len(jobs(tmp_path)) == 2
    for run in jobs(tmp_path):
        assert len(study(tmp_path).history(run.run_id, "validation/accuracy")) >= 10
