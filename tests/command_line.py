"""kdexp's command line, many times: each call is a fork of one process that has the libraries imported already.

A process of its own for every call would spend five seconds on imports, which is more than a small run takes. Before
the fork modules are imported, kdexp's too, and nothing is called, so a call is what `python -m kdexp ...` is.
"""

import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, NoReturn, TextIO

from unmeasured import MEASURE, import_libraries, measured_environment

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
        [sys.executable, *([] if arguments[:1] == ("-c",) else ["-m", "kdexp"]), *arguments],
        cwd=folder,
        env=child_environment(folder, **environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


class ServerProcess:
    """The process that is forked, for everybody who connects to its socket."""

    def __init__(self) -> None:
        self._folder = TemporaryDirectory()
        self.address = str(Path(self._folder.name, "socket"))
        silent = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        environment = child_environment(Path(self._folder.name), **silent)
        command = [sys.executable, __file__, self.address]
        self._process = subprocess.Popen(command, cwd=self._folder.name, env=environment, start_new_session=True)

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)  # it holds nothing, and an orderly end takes seconds
        self._process.wait()
        self._folder.cleanup()


class ForkServer:
    """Calls in forks of one process. Where there is no fork, as on Windows, each call is a process that begins anew.

    With the arguments `-c`, a program and what it reads in `sys.argv`, this program is run in place of kdexp.

    Args:
        address: Of a server that others use too; None starts one.
    """

    def __init__(self, address: str | None = None) -> None:
        self._folder = TemporaryDirectory()
        self._num_started = 0
        self._own = ServerProcess() if address is None and hasattr(os, "fork") else None
        self._connection = _connect(address or self._own.address) if address or self._own else None
        if self._connection:
            self._tell(self._folder.name)

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._connection:
            self._connection.close()
        if self._own:
            self._own.close()
        self._folder.cleanup()

    def call(self, folder: Path, *arguments: str, **environment: str) -> Result:
        if self._connection is None:
            return process(folder, *arguments, **environment)
        code = self._ask(arguments, folder, environment)
        output, errors = (Path(self._folder.name, name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(arguments, code, output, errors)

    def start(self, folder: Path, *arguments: str, **environment: str) -> "Started":
        """Begin a call in a process group of its own, such that all of it can be killed while it runs."""
        if self._connection is None:
            raise OSError("no process can be forked here")
        self._num_started += 1
        log = Path(self._folder.name, f"started{self._num_started}")
        return Started(self._ask(arguments, folder, environment, log=str(log)), log)

    def _ask(self, arguments: tuple[str, ...], folder: Path, environment: dict[str, str], **more: str) -> int:
        """Send a call; return what the server answers: its exit code, or of one that is only started the process."""
        assert self._connection
        environment = child_environment(folder, **environment, **measured_environment())
        self._tell({"arguments": arguments, "folder": str(folder), "environment": environment, **more})
        return int(self._connection.readline())

    def _tell(self, message: Any) -> None:
        assert self._connection
        self._connection.write(json.dumps(message) + "\n")
        self._connection.flush()


def _connect(address: str) -> TextIO:
    """Wait for a server that is still importing; one that could not start is not waited for as long as a call."""
    deadline = time.monotonic() + 120
    with socket.socket(socket.AF_UNIX) as client:
        while True:
            try:
                client.connect(address)
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
            else:
                return client.makefile("rw", encoding="utf-8")


@dataclass
class Started:
    """A call that goes on: as much of a `subprocess.Popen` as tests use.

    Its output is in the file `log`; its exit code will be in a file beside it, which the server writes.
    """

    pid: int
    log: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        code = self.log.with_suffix(".code")
        if self.returncode is None and code.exists():
            self.returncode = int(code.read_text())
        return self.returncode

    def wait(self, timeout: float = TIMEOUT_SECONDS) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(["kdexp"], timeout)
            time.sleep(0.02)
        return code

    def communicate(self, timeout: float = TIMEOUT_SECONDS) -> tuple[str, None]:
        self.wait(timeout)
        return self.output, None

    @property
    def output(self) -> str:
        """What it has printed so far, on either stream."""
        return self.log.read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill all of its process group."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


@dataclass(frozen=True)
class CommandLine:
    """kdexp's command line in one folder; the cache is there too, unless the arguments say otherwise."""

    server: ForkServer
    folder: Path

    def __call__(self, *arguments: str, **environment: str) -> Result:
        return self.server.call(self.folder, *arguments, **environment)


def serve(address: str) -> None:
    """Everybody who connects is answered by a fork of this process, until the one that started it is gone."""
    before, parent = dict(os.environ), os.getppid()
    _import_libraries()
    gc.freeze()  # a child that looked for garbage would copy all that is shared with it
    set_by_libraries = dict(os.environ.items() - before.items())
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        listener.settimeout(5)
        while os.getppid() == parent:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                continue
            if not os.fork():
                listener.close()
                _answer(client.makefile("rw", encoding="utf-8"), set_by_libraries)
                os._exit(0)
            client.close()


def _answer(connection: TextIO, set_by_libraries: Mapping[str, str]) -> None:
    """Read one call a line, and write a line for each: its exit code, or the process of one that is only started.

    The first line is the folder where what is printed is kept.
    """
    os.chdir(json.loads(connection.readline()))
    for line in connection:
        call = json.loads(line)
        call["environment"] |= set_by_libraries
        connection.write(f"{_start(call) if 'log' in call else _run(call)}\n")
        connection.flush()


def _run(call: Mapping[str, Any]) -> int:
    with open("stdout", "wb") as output, open("stderr", "wb") as errors:
        child = os.fork()
        if not child:
            _call(call, output.fileno(), errors.fileno())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _start(call: Mapping[str, Any]) -> int:
    with open(call["log"], "wb") as log:
        child = os.fork()
        if not child:
            os.setsid()
            # A shell's background job ignores Ctrl-C, and its children would too.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            _call(call, log.fileno(), log.fileno())
    threading.Thread(target=_tell_exit_code, args=(child, Path(call["log"])), daemon=True).start()
    return child


def _tell_exit_code(child: int, log: Path) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    unfinished = log.with_suffix(".unfinished")
    unfinished.write_text(str(code))
    unfinished.rename(log.with_suffix(".code"))


def _call(call: Mapping[str, Any], output: int, errors: int) -> NoReturn:
    for place, stream in enumerate((os.open(os.devnull, os.O_RDONLY), output, errors)):
        os.dup2(stream, place)
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    sys.path[0] = call["folder"]
    is_program = call["arguments"][:1] == ["-c"]
    sys.argv = call["arguments"][:1] + call["arguments"][2:] if is_program else ["kdexp", *call["arguments"]]
    exec(os.environ.pop(MEASURE, ""))
    signal.alarm(TIMEOUT_SECONDS)
    code = 0
    try:
        if is_program:
            exec(call["arguments"][1], {"__name__": "__main__"})
        else:
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
    import_libraries()
    import kdexp

    for module in pkgutil.walk_packages(kdexp.__path__, "kdexp."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


if __name__ == "__main__":
    serve(sys.argv[1])
