"""Write one run to MLflow.

A run is written through an explicit client, so nothing about it is global state and several runs can be open
in one process.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.errors import PrunedError, UserError
from kdexp.tracking.adapter import context_tags
from kdexp.tracking.client import told
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.data_sets import DataSet
from kdexp.tracking.delivery import MAX_TAG_CHARACTERS, Delivery, shorten
from kdexp.tracking.registry import Registration
from kdexp.tracking.secrets import redact
from kdexp.tracking.store import connect, find_experiment
from kdexp.tracking.student_model import SERVED_KINDS, StudentFiles
from kdexp.tracking.uri import SETTING, check_reachable, experiment_url, resolve_uri, run_url

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

MAX_FAILURE_CHARACTERS = 500
IDENTITY_TAGS = ("kdexp.config_hash", "kdexp.sweep_key", "kdexp.cache")
"""By these the run of a process that was killed is found: whose lock to ask for."""


@dataclass(frozen=True)
class RunDescription:
    """What a run is logged as.

    Attributes:
        study: The experiment's name; it is created when it is not there.
        params, tags: Logged before the run's body starts. The tag `mlflow.parentRunId` makes it the child of
            another run.
    """

    study: str
    name: str
    params: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


class TrackedRun:
    """One open MLflow run. Made by `open_run`; without a delivery, tracking is off and every method does nothing.

    Attributes:
        run_id, experiment_id: MLflow's ids ("" when tracking is off).
        uri: The store, without credentials.
        url, experiment_url: Links into MLflow's pages, or None when tracking is off.
    """

    def __init__(self, delivery: Delivery | None = None) -> None:
        self._delivery = delivery
        self.run_id = self.experiment_id = self.uri = ""
        self.url: str | None = None
        self.experiment_url: str | None = None
        if delivery:
            self.run_id, self.experiment_id = delivery.run_id, delivery.experiment_id
            self.uri = redact(delivery.uri)
            self.url = run_url(delivery.uri, delivery.experiment_id, delivery.run_id)
            self.experiment_url = experiment_url(delivery.uri, delivery.experiment_id)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue metrics (microseconds); they reach the store within seconds, at the latest at the end."""
        if self._delivery:
            self._delivery.queue_metrics(metrics, step or 0)

    def log_params(self, params: Mapping[str, object]) -> None:
        """Queue params. A value longer than MLflow takes is cut; the config artifact holds it in full."""
        if self._delivery:
            self._delivery.queue_params(params)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags; a later value replaces an earlier one."""
        if self._delivery:
            self._delivery.queue_tags(tags)

    def log_text(self, text: str, path: str) -> None:
        """Write a text artifact, such as `config.yaml`."""
        if self._delivery:
            self._delivery.spooled(path).write_text(redact(text), encoding="utf-8")
            self._delivery.send_artifact(path)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Write a matplotlib figure as an artifact, such as `figures/confusion_matrices.png`."""
        if self._delivery:
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            FigureCanvasAgg(figure).print_png(self._delivery.spooled(path))  # `savefig` would draw it twice
            self._delivery.send_artifact(path)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Write a table as `.parquet`, `.csv`, or `.json` (which MLflow shows), by the suffix of the path."""
        if self._delivery is None:
            return
        target = self._delivery.spooled(path)
        match target.suffix:
            case ".parquet":
                table.to_parquet(target, index=False)
            case ".csv":
                table.to_csv(target, index=False)
            case ".json":
                table.to_json(target, orient="split", index=False)
            case suffix:
                raise ValueError(f"{path}: no table format {suffix!r}")
        self._delivery.send_artifact(path)

    def log_data_sets(self, data_sets: Sequence[DataSet]) -> None:
        """Say which data the run reads."""
        if self._delivery:
            self._delivery.send_data_sets(data_sets)

    def log_student(
        self, student: StudentFiles, metrics: Sequence[str] = (), registration: Registration | None = None
    ) -> None:
        """Log a student as the model `student`, which loads with transformers and with `mlflow.pyfunc`.

        It carries the params of the run.

        Args:
            metrics: Names of those that were logged and that the model carries too, with their last values.
            registration: What it is to be in MLflow's model registry; None registers nothing.
        """
        if self._delivery and student.kind not in SERVED_KINDS:
            logger.warning("the student is not logged as a model: none of kind %s can be served yet", student.kind)
        elif self._delivery:
            self._delivery.send_student(student, metrics)
            if registration:
                self._delivery.send_registration(student.name, registration)

    def flush(self) -> bool:
        """Deliver everything that is queued; return whether the store took it."""
        return self._delivery is None or self._delivery.flush()


@contextmanager
def open_run(
    tracking: TrackingConfig,
    description: RunDescription,
    *,
    continued_run: str | None = None,
    rescue_folder: Path = Path("multirun/undelivered"),
) -> Iterator[TrackedRun]:
    """Open an MLflow run and end it as what it was: FINISHED, FAILED or KILLED.

    The body's exception goes on. A run that failed or was killed gets the tag `kdexp.failure`.

    Args:
        tracking: With `enabled=False` every method of the run does nothing, and mlflow is never imported.
        continued_run: Id of an earlier run to write on, instead of a new one.
        rescue_folder: Where a folder is written with what the store would not take.

    Raises:
        UserError: The store cannot be used; or, after a body that succeeded, it did not take everything.
    """
    if not tracking.enabled:
        yield TrackedRun()
        return
    delivery = _begin(tracking.uri, description, continued_run)
    run = TrackedRun(delivery)
    try:
        run.set_tags(description.tags)
        run.log_params(description.params)
        run.flush()
        yield run
    except BaseException as error:
        run.set_tags(_failure_tags(error))
        if isinstance(error, UserError):
            error.run_id = run.run_id
        killed = isinstance(error, KeyboardInterrupt | SystemExit | PrunedError)
        undelivered = delivery.close("KILLED" if killed else "FAILED", rescue_folder)
        if undelivered:
            logger.error("MLflow did not take %s", undelivered)
        raise
    undelivered = delivery.close("FINISHED", rescue_folder)
    if undelivered:
        raise UserError(SETTING, f"{run.uri} did not take {undelivered}", "bring the store back, then run again")


def _begin(uri: str | None, description: RunDescription, continued_run: str | None) -> Delivery:
    """Begin a run in the store, or an earlier one again."""
    uri = resolve_uri(uri)
    check_reachable(uri)
    _tell_what_is_ignored(description.study)
    client = connect(uri)
    with told(uri):
        experiment_id = find_experiment(client, description.study)
        if continued_run is not None:
            client.update_run(continued_run, status="RUNNING")
            return Delivery(client, uri, experiment_id, continued_run)
        # Who, from which script and commit; and with them what tells later that this process is gone, should it be
        # killed at once. The other tags of the description come with the first batch.
        tags = context_tags() | {
            key: value for key, value in description.tags.items() if key.startswith("mlflow.") or key in IDENTITY_TAGS
        }
        short: dict[str, Any] = {key: shorten(redact(value), MAX_TAG_CHARACTERS) for key, value in tags.items()}
        run = client.create_run(experiment_id, run_name=redact(description.name), tags=short)
        return Delivery(client, uri, experiment_id, run.info.run_id)


@lru_cache(maxsize=8)  # once, not for every job of a sweep
def _tell_what_is_ignored(study: str) -> None:
    """MLflow's own environment names where a program's runs go: what kdexp does otherwise is said."""
    wished = os.environ.get("MLFLOW_EXPERIMENT_NAME", study)
    if wished != study:
        logger.warning("MLFLOW_EXPERIMENT_NAME=%s is not used: the study says study=%s", wished, study)
    for name, remedy in (
        ("MLFLOW_EXPERIMENT_ID", "name the experiment with study=<name> or MLFLOW_EXPERIMENT_NAME"),
        ("MLFLOW_RUN_ID", "every run is a new one, and a sweep's command continues its own"),
    ):
        if os.environ.get(name):
            logger.warning("%s=%s is not used: %s", name, os.environ[name], remedy)


def _failure_tags(error: BaseException) -> dict[str, str]:
    first_line = next(iter(str(error).splitlines()), "")
    kind = "" if isinstance(error, UserError) else type(error).__name__
    cause = ": ".join(filter(None, [kind, first_line]))
    pruned = {"kdexp.pruned": "true"} if isinstance(error, PrunedError) else {}
    return pruned | {"kdexp.failure": shorten(redact(cause), MAX_FAILURE_CHARACTERS)}
