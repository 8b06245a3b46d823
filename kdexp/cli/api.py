"""A whole run from Python, as the command line would run it.

from kdexp import compose, distil

config = compose("teacher=roberta", "student=bert", "loss.alpha=0.3")
result = distil(config)

Nothing global is touched: no signal handlers, no logging configuration (`logging.basicConfig(level="INFO")` shows what
a run says), none of Hydra's own state. Those who have composed by Hydra already hand the result to `resolve`:

with hydra.initialize_config_dir(kdexp.conf_dir(), version_base="1.3"):
    config = kdexp.resolve(hydra.compose("config", ["loss.alpha=0.3"]))
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from kdexp.cli import hydra_adapter
from kdexp.cli.composition import refuse_lax_values, register_schemas, resolve, with_loss_of_kind
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.explain import explain
from kdexp.cli.flags import expand_home
from kdexp.config import Config
from kdexp.errors import UserError

if TYPE_CHECKING:
    from kdexp.results.record import RunRecord
    from kdexp.task.load import Task
    from kdexp.teacher.base import Teacher


def compose(*overrides: str) -> Config:
    """The config that the command line makes of the same words.

    Args:
        overrides: As on the command line: `teacher=roberta`, `loss.alpha=0.3`, `more_teachers=[roberta,electra]`.

    Raises:
        UserError: A setting is unknown, of the wrong type or out of range, or this would be many runs.
        TypeError: A word is no text.
    """
    for word in overrides:
        if not isinstance(word, str):
            raise TypeError(
                f"compose takes words, such as 'loss.alpha=0.3', and got a {type(word).__name__}: write *words"
            )
    register_schemas()
    overrides = tuple(with_loss_of_kind(expand_home(overrides)))
    refuse_lax_values(overrides)
    try:
        composed = hydra_adapter.compose(CONF_DIR, "config", overrides)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error) from None
    _refuse_sweep(composed, overrides)
    choices = composed.hydra.runtime.choices
    with open_dict(composed):
        del composed["hydra"]
    return resolve(composed, choices)


def distil(config: Config, *, task: "Task | None" = None, teacher: "Teacher | None" = None) -> "RunRecord":
    """Distil a teacher into a student, measure both beside a baseline, and log it all to MLflow.

    As on the command line, finished work is found in `cache_dir`, and an interrupted call continues when it is made
    again. The working folder is where `mlflow.db` comes to stand unless `tracking.uri` names another store.

    Args:
        task, teacher: In place of what the config describes: data that a program already holds
            (`kdexp.task.load.Task`), or anything that answers a split (`kdexp.teacher.base.Teacher`).

    Returns:
        What the run found: `record.gain`, `record.score("test")`, `record.url`, ...

    Raises:
        UserError: The person can mend it, for example a file that is not there.
    """
    # torch, transformers and mlflow are loaded only when a run really starts
    from kdexp.run import run
    from kdexp.study.job import run_job

    if task is not None or teacher is not None:
        return run(config, task=task, teacher=teacher)
    record = run_job(config)
    if record is None:
        raise UserError("parent_run", f"{config.parent_run} has this job's result already", "read it in MLflow")
    return record


def conf_dir() -> str:
    """The folder for `hydra.initialize_config_dir`; tells Hydra kdexp's types, without which it cannot be composed."""
    register_schemas()
    return str(CONF_DIR)


def _refuse_sweep(composed: DictConfig, overrides: Sequence[str]) -> None:
    if composed.hydra.mode == RunMode.MULTIRUN:
        name = composed.hydra.runtime.choices.get("experiment")
        raise UserError(
            f"experiment={name}" if name else "hydra.mode",
            "is many runs, and one config holds one",
            f"run it on the command line: {shlex.join(['python', '-m', 'kdexp', *overrides])}",
        )
