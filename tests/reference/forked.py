"""kdexp's command line, many times: each call is a fork of one process that has the libraries imported already.

A process of its own for every call would spend five seconds on imports, which is more than a small run takes. Nothing
of kdexp is imported before the fork, so a call is what `python -m kdexp ...` is.
"""

import json
import os
import runpy
import subprocess
import sys
import traceback
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]


class CommandLine:
    """Call kdexp in `folder`, as a person does; the cache is in `folder` too, unless `cache_dir=` says otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = os.environ | {
            "KDEXP_CACHE_DIR": str(folder / "cache"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            # The checkout, unless the package is installed.
            "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        }
        environment.pop("MLFLOW_TRACKING_URI", None)
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "CommandLine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._server.stdin
        self._server.stdin.close()
        self._server.wait()

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        output, errors = ((self.folder / name).read_text(encoding="utf-8") for name in ("stdout.txt", "stderr.txt"))
        return subprocess.CompletedProcess(arguments, code, output, errors)


def serve() -> None:
    """Read one call's arguments a line, and write one exit code a line."""
    if hasattr(os, "fork"):
        _import_libraries()
    for line in sys.stdin:
        arguments = json.loads(line)
        with open("stdout.txt", "wb") as output, open("stderr.txt", "wb") as errors:
            if hasattr(os, "fork"):
                code = _forked(arguments, output.fileno(), errors.fileno())
            else:
                command = [sys.executable, "-m", "kdexp", *arguments]
                code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors).returncode
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _forked(arguments: list[str], output: int, errors: int) -> int:
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(errors, 2)
    sys.argv = ["kdexp", *arguments]
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
