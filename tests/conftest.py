"""What every test of a whole run needs."""

import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from command_line import CommandLine, ForkServer, ServerProcess
from unmeasured import leave_libraries_unmeasured, leave_processes_unmeasured, looking_away

# The models of tests are so small that a second thread makes them slower, most of all beside a second worker.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded
leave_processes_unmeasured()  # those of the workers too, which begin to measure with their session


@pytest.hookimpl(trylast=True)
def pytest_sessionstart():
    """Coverage has started by now."""
    leave_processes_unmeasured()
    leave_libraries_unmeasured()


def pytest_collection_finish():
    """Trainings collect garbage: not among the million objects that are there before the first test.

    Else it is looked for as seldom as the command line does: a tenth of the time of what composes and draws.
    """
    gc.freeze()
    gc.set_threshold(100_000)


def pytest_collection_modifyitems(config, items):
    """Fast tests first; where workers share files, those with most slow ones, lest one works on alone at the end."""
    is_slow = {item: item.get_closest_marker("slow") is not None for item in items}
    if hasattr(config, "workerinput"):
        num_slow = Counter(item.path for item in items if is_slow[item])
        items.sort(key=lambda item: -num_slow[item.path])
    else:
        items.sort(key=is_slow.__getitem__)


TOGETHER = {
    "exported students": ("tests/export/",),
    "forked.py's server": ("tests/test_processes.py", "tests/test_cache.py", "tests/training/test_two_processes.py"),
}
"""Beginnings of the paths of tests that one worker takes, by what they share."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Each worker takes whole files, whose models no other one trains again, and all that share what takes long."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next((name for name, places in TOGETHER.items() if file.startswith(places)), file)

    return Scheduling(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Slow tests run the lines that fast ones do, but for a few: coverage looks away from the others."""
    is_measured = item.get_closest_marker("measured") or not item.get_closest_marker("slow")
    with nullcontext() if is_measured else looking_away():
        return (yield)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """No test may reach the network: the hub's clients would wait for it."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def no_other_store(monkeypatch):
    """No test finds the store that another one named: MLflow keeps it in the process and in its environment."""
    if "mlflow" in sys.modules:
        sys.modules["mlflow"].set_tracking_uri(None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> None:
    """For a run in this process: MLflow keeps the artifacts of a store that is a file in the current folder."""
    monkeypatch.chdir(tmp_path)


SERVER = pytest.StashKey[ServerProcess]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    """All workers have one fork server, which imports while they collect."""
    if hasattr(os, "fork"):
        if SERVER not in node.config.stash:
            node.config.stash[SERVER] = ServerProcess()
        node.workerinput["fork_server"] = node.config.stash[SERVER].address


def pytest_unconfigure(config):
    if server := config.stash.get(SERVER, None):
        server.close()


@pytest.fixture(scope="session")
def fork_server(request) -> Iterator[ForkServer]:
    with ForkServer(getattr(request.config, "workerinput", {}).get("fork_server")) as server:
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
def command(tmp_path, monkeypatch, capsys):
    """Call `kdexp` with these words in an empty folder, in this process."""
    from in_process import commands

    yield from commands(tmp_path, monkeypatch, capsys)


@pytest.fixture
def log_only(monkeypatch, store_template, tmp_path):
    """A run leaves its MLflow run and trains nothing."""
    from in_process import log_run

    shutil.copy(store_template, tmp_path)
    # Drawing takes longer than all the rest.
    monkeypatch.setattr("kdexp.study.sweep._sum_up", lambda study, parent: None)
    monkeypatch.setattr("kdexp.study.job.run", log_run)


@pytest.fixture
def folder(tmp_path, monkeypatch, store_template):
    """Where sweeps are started that train nothing."""
    from untrained import Folder

    monkeypatch.chdir(tmp_path)
    # Drawing takes longer than all the rest, and is tested in test_summary.
    monkeypatch.setattr("kdexp.study.sweep._sum_up", lambda study, parent: None)
    shutil.copy(store_template, tmp_path)
    return Folder(tmp_path)


@pytest.fixture
def reviews(tmp_path):
    """A file of a person's own: `write(times)` makes it another one."""

    def write(name="train.csv", times=1):
        rows = [f"good film {i},yes\nbad film {i},no\n" for i in range(30 * times)]
        (tmp_path / name).write_text("text,label\n" + "".join(rows))
        return name

    return write
