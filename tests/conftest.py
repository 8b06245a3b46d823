"""What every test of a whole run needs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A run that takes seconds: little data, two epochs.
SMALL = (
    "task.train_size=300",
    "task.validation_size=200",
    "task.test_size=200",
    "teacher.train.epochs=2",
    "train.epochs=1",
    "teacher.chance_check=false",
    "hardware=cpu",
)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No test may reach the network: the hub's clients would wait for it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def kdexp(tmp_path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the real command line in a folder of its own, as a person does."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        env = os.environ | {"KDEXP_CACHE_DIR": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"} | environment
        # The checkout, unless the package is installed.
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, "-m", "kdexp", *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return call


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow takes seconds to make one: tests copy it."""
    from kdexp.tracking.adapter import create_sqlite_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    create_sqlite_store(path)
    return path


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Call `kdexp` with these words in an empty folder, in this process."""
    from in_process import commands

    yield from commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def log_only(monkeypatch, empty_store, tmp_path):
    """A run leaves its MLflow run and trains nothing."""
    from in_process import log_run

    shutil.copy(empty_store, tmp_path)
    # Drawing takes longer than all the rest.
    monkeypatch.setattr("kdexp.study.sweep._sum_up", lambda study, parent: None)
    monkeypatch.setattr("kdexp.study.job.run", log_run)


@pytest.fixture
def folder(tmp_path, monkeypatch, empty_store):
    """Where sweeps are started that train nothing."""
    from untrained import Folder

    monkeypatch.chdir(tmp_path)
    # Drawing takes longer than all the rest, and is tested in test_summary.
    monkeypatch.setattr("kdexp.study.sweep._sum_up", lambda study, parent: None)
    shutil.copy(empty_store, tmp_path)
    return Folder(tmp_path)


@pytest.fixture
def reviews(tmp_path):
    """A file of a person's own: `write(times)` makes it another one."""

    def write(name="train.csv", times=1):
        rows = [f"good film {i},yes\nbad film {i},no\n" for i in range(30 * times)]
        (tmp_path / name).write_text("text,label\n" + "".join(rows))
        return name

    return write
