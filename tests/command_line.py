"""kdexp's command line, many times: each call is a fork of one process that has the libraries imported already.

A process of its own for every call would spend five seconds on imports, which is more than a small run takes. Nothing
of kdexp is imported before the fork, so a call is what `python -m kdexp ...` is.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import NoReturn

ROOT = Path(__file__).parents[1]
TIMEOUT_SECONDS = 600

# A run that takes seconds: little data, two epochs.
SMALL = (
    "task.train_size=300",
    "task.validation_size=200",
    "task.test_size=200",
    "teacher.train.epochs=2",
    "train.epochs=1",
    "teacher.chance_check=false",
    "hardware=cpu",
    "hardware.num_threads=1",  # the models are so small that a second thread makes them slower
)

Result = subprocess.CompletedProcess[str]


def child_environment(folder: Path, **environment: str) -> dict[str, str]:
    """What a call sees: this process's environment, a cache in `folder`, no network, and the checkout's kdexp."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH")]
    defaults = {
        "KDEXP_CACHE_DIR": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    return inherited | defaults | environment


def process(folder: Path, *arguments: str, **environment: str) -> Result:
    """Call kdexp in a process that begins with nothing, as a person's shell does."""
    return subprocess.run(
        [sys.executable, "-m", "kdexp", *arguments],
        cwd=folder,
        env=child_environment(folder, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


class ForkServer:
    """The process that is forked. Where there is no fork, as on Windows, each call is a process that begins anew."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self._server = None
        if hasattr(os, "fork"):
            folder = Path(self._folder.name)
            silent = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                cwd=folder,
                env=child_environment(folder, **silent),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._server:
            self._server.kill()  # it holds nothing, and an orderly end takes seconds
            self._server.communicate()
        self._folder.cleanup()

    def call(self, folder: Path, *arguments: str, **environment: str) -> Result:
        if self._server is None:
            return process(folder, *arguments, **environment)
        assert self._server.stdin
        assert self._server.stdout
        call = {"arguments": arguments, "folder": str(folder)}
        call["environment"] = child_environment(folder, **environment)
        self._server.stdin.write(json.dumps(call) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        output, errors = (Path(self._folder.name, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(arguments, code, output, errors)


@dataclass(frozen=True)
class CommandLine:
    """kdexp's command line in one folder; the cache is there too, unless the arguments say otherwise."""

    server: ForkServer
    folder: Path

    def __call__(self, *arguments: str, **environment: str) -> Result:
        return self.server.call(self.folder, *arguments, **environment)


def serve() -> None:
    """Read one call a line, and write one exit code a line."""
    before = dict(os.environ)
    _import_libraries()
    set_by_libraries = dict(os.environ.items() - before.items())
    for line in sys.stdin:
        call = json.loads(line)
        with open("stdout", "wb") as output, open("stderr", "wb") as errors:
            child = os.fork()
            if not child:
                for place, stream in enumerate((os.open(os.devnull, os.O_RDONLY), output.fileno(), errors.fileno())):
                    os.dup2(stream, place)
                _call(call["arguments"], call["folder"], call["environment"] | set_by_libraries)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _call(arguments: list[str], folder: str, environment: Mapping[str, str]) -> NoReturn:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[0] = folder
    sys.argv = ["kdexp", *arguments]
    signal.alarm(TIMEOUT_SECONDS)
    code = 0
    try:
        runpy.run_module("kdexp", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # not through the server's own clean-up


def _import_libraries() -> None:
    """Whatever is missing here is imported in every fork: slower, and the same."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import hydra  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import mlflow.pyfunc
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.metrics  # noqa: F401
    import statsmodels.stats.multitest  # noqa: F401
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer  # noqa: F401


if __name__ == "__main__":
    serve()
