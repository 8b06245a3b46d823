"""What every test of a whole run needs."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from command_line import CommandLine, ForkServer, Result, process


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No test may reach the network: the hub's clients would wait for it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> None:
    """For a run in this process: MLflow keeps the artifacts of a store that is a file in the current folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def fork_server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture
def kdexp(fork_server, tmp_path) -> CommandLine:
    """The command line in a folder of its own, as a person calls it."""
    return CommandLine(fork_server, tmp_path)


@pytest.fixture(scope="session")
def store_template(tmp_path_factory) -> Path:
    from kdexp.tracking.adapter import create_sqlite_store

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # MLflow makes a folder beside it
        create_sqlite_store(path)
    return path


@pytest.fixture
def empty_store(store_template, tmp_path) -> None:
    """A store without runs, for a test that does not ask how one is created: that takes a second."""
    shutil.copy(store_template, tmp_path)


@pytest.fixture
def kdexp_process(tmp_path) -> Callable[..., Result]:
    """The same in a process that begins with nothing imported, for what a fork could hide; five seconds more."""
    return partial(process, tmp_path)
