"""What runs without the tracer of coverage, which is on for every instruction of a process, counted or not.

Libraries take twice the time with it, and most of a test's time is theirs. What is listed here calls nothing of kdexp,
or only what is called elsewhere too. So it is with slow tests, but for those marked `measured`, and with the processes
that tests start, but for those with a `measured_environment`.
"""

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

LIBRARIES = (
    *("accelerate", "datasets", "hydra", "matplotlib.figure", "mlflow.pyfunc", "optuna", "pandas", "scipy.stats"),
    *("mlflow.store.tracking.sqlalchemy_store", "sklearn.metrics", "statsmodels.stats.weightstats", "torch._dynamo"),
    *("transformers.models.auto", "transformers.models.bert.modeling_bert", "transformers.trainer", "git"),
    *("transformers.models.roberta.modeling_roberta", "matplotlib.backends.backend_agg"),
)
"""Imported in every process that runs many tests."""

CONFIG = "COVERAGE_PROCESS_CONFIG"
"""By this variable coverage tells the processes that a measured one starts how to measure."""

MEASURE = "KDEXP_TESTS_MEASURE"
"""The variable with the code by which a process begins to measure."""

START = f"""
import coverage, os
os.environ["{CONFIG}"] = {{!r}}
coverage.process_startup()
os.environ.pop("{CONFIG}", None)
"""

CALLS = {
    "hydra._internal.config_loader_impl:ConfigLoaderImpl": ("load_configuration", "load_sweep_config"),
    "matplotlib.figure:Figure": ("draw",),
    "mlflow.store.tracking.sqlalchemy_store:SqlAlchemyStore": ("__init__",),
    "mlflow.tracking:MlflowClient": (
        *("__init__", "create_run", "get_run", "log_batch", "search_runs", "set_terminated", "update_run", "set_tag"),
        *("create_experiment", "get_experiment_by_name", "log_artifact", "log_artifacts", "log_inputs"),
        *("get_metric_history", "list_artifacts", "download_artifacts", "set_experiment_tag", "search_experiments"),
    ),
    "mlflow.models.model:Model": ("log",),
    "torch:Tensor": ("backward",),
    "torch.onnx:": ("export",),
    "transformers:PreTrainedModel": ("from_pretrained", "save_pretrained"),
    "transformers:PreTrainedTokenizerBase": ("from_pretrained", "save_pretrained"),
    "transformers:TrainingArguments": ("__post_init__",),
    "accelerate:Accelerator": ("__init__", "prepare"),
}
"""By `module:class`, or `module:` for functions."""


def leave_libraries_unmeasured() -> None:
    """Import them and wrap their calls, where coverage is measured by a tracer."""
    tracer = sys.gettrace()
    if tracer is None:
        return
    sys.settrace(None)  # here, not in a function: the tracer counts calls and returns
    import_libraries()
    sys.settrace(tracer)
    measured_environment()  # coverage takes its place with the first call; one outside of this frame comes too late


def import_libraries() -> None:
    """What every process that runs many tests needs; their calls are not measured."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for place, names in CALLS.items():
        module, _, owner = place.partition(":")
        holder = importlib.import_module(module)
        if owner:
            holder = getattr(holder, owner)
        for name in names:
            _wrap(holder, name)


_config: dict[str, str] = {}


def leave_processes_unmeasured() -> None:
    """Keep to this process what coverage would tell those that it starts."""
    if CONFIG in os.environ:
        _config[CONFIG] = os.environ.pop(CONFIG)


def measured_environment(*, from_start: bool = False) -> dict[str, str]:
    """What a process has to be told to be measured: nothing where this one is not, or looks away.

    Args:
        from_start: It imports little. Another one calls `exec(os.environ.pop(MEASURE, ""))` after its imports.
    """
    if not _config or not sys.gettrace():
        return {}
    return dict(_config) if from_start else {MEASURE: START.format(_config[CONFIG])}


@contextmanager
def looking_away() -> Iterator[None]:
    """In this process, and in the forks that it asks for meanwhile."""
    tracer, tracer_of_threads = sys.gettrace(), threading.gettrace()
    sys.settrace(None)
    threading.settrace(None)  # type: ignore[arg-type]
    try:
        yield
    finally:
        sys.settrace(tracer)
        threading.settrace(tracer_of_threads)  # type: ignore[arg-type]


def _wrap(holder: Any, name: str) -> None:
    kept = vars(holder)[name]
    if isinstance(kept, classmethod):
        setattr(holder, name, classmethod(_untraced(kept.__func__)))
    else:
        setattr(holder, name, _untraced(kept))


def _untraced(function: Callable) -> Callable:
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        tracer = sys.gettrace()
        if tracer is None:
            return function(*arguments, **named)
        sys.settrace(None)
        try:
            return function(*arguments, **named)
        finally:
            sys.settrace(tracer)

    return call
