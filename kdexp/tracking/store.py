"""The runs of a study, as the store holds them."""

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from kdexp.errors import UserError
from kdexp.tracking.adapter import (
    create_sqlite_store,
    import_mlflow,
    literal_paths,
    quiet,
    read_sqlite_runs,
    saved_view,
    saved_view_tag,
    sqlalchemy_uri,
    sweep_view,
)
from kdexp.tracking.client import PatientClient, told
from kdexp.tracking.secrets import redact
from kdexp.tracking.uri import (
    SETTING,
    check_reachable,
    compare_url,
    experiment_url,
    reason,
    resolve_uri,
    run_url,
)

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from kdexp.cache import Cache

logger = logging.getLogger(__name__)

NOTE_TAG = "mlflow.note.content"
"""What MLflow shows as the description of a run or an experiment."""
MAX_VIEW_CHARACTERS = 5000  # MLflow's limit for a tag of an experiment


@lru_cache(maxsize=4)
def connect(uri: str) -> "MlflowClient":
    """Return the client of a store that is initialised; every job of a sweep gets the same one."""
    import_mlflow()
    from mlflow import MlflowClient

    if uri.startswith("sqlite:///"):
        with told(uri):
            create_sqlite_store(Path(uri.removeprefix("sqlite:///")))
    with told(uri), literal_paths():
        mlflows = sqlalchemy_uri(uri)
        client = PatientClient(MlflowClient(tracking_uri=mlflows, registry_uri=mlflows), uri)
        client.search_experiments(max_results=1)
    return cast("MlflowClient", client)


def find_experiment(client: "MlflowClient", study: str) -> str:
    """The id of a study's experiment, which is made where there is none.

    Raises:
        UserError: It was deleted, or MLflow does not take the name.
    """
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        try:
            return client.create_experiment(study)
        except MlflowException as error:
            # Another run of the same study was faster.
            experiment = client.get_experiment_by_name(study)
            if experiment is None and error.error_code != "INVALID_PARAMETER_VALUE":
                raise  # not for the name
            if experiment is None:
                raise UserError(
                    "study",
                    f"'{study}' is no name MLflow takes ({reason(error)})",
                    "use letters, digits, '-' and '_'",
                ) from None
    if experiment.lifecycle_stage != "active":
        raise UserError(
            "study",
            f"the experiment '{study}' was deleted in MLflow",
            f"`mlflow experiments restore -x {experiment.experiment_id}`, or another study=<name>",
        )
    return str(experiment.experiment_id)


@dataclass(frozen=True)
class StoredRun:
    """A run as the store holds it. `started` is in milliseconds since 1970."""

    run_id: str
    name: str
    status: str
    started: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def config_hash(self) -> str:
        return self.tags.get("kdexp.config_hash", "")

    @property
    def parent_id(self) -> str:
        """The sweep's run, of which this is a job."""
        return self.tags.get("mlflow.parentRunId", "")

    @property
    def sweep_key(self) -> str:
        """What the jobs of a sweep have in common, of a sweep's own run."""
        return self.tags.get("kdexp.sweep_key", "")

    @property
    def data_digest(self) -> str:
        """Of what the task's files held; "" of runs of earlier versions."""
        return self.tags.get("kdexp.data_sha256", "")

    @property
    def failure(self) -> str:
        return self.tags.get("kdexp.failure", "")

    @property
    def is_pruned(self) -> bool:
        """A search stopped it early."""
        return "kdexp.pruned" in self.tags

    @property
    def is_done(self) -> bool:
        """It need not be run again."""
        return self.status == "FINISHED" or self.is_pruned


class Study:
    """The runs of one study, read from the store.

    Raises:
        UserError: The store cannot be used, or (with `create=False`) holds no such study.
    """

    def __init__(self, uri: str | None, name: str, *, create: bool = True, patience: float = 0.0) -> None:
        self.uri, self.name = resolve_uri(uri), name
        if not create and self.uri.startswith("sqlite:///") and not Path(self.uri.removeprefix("sqlite:///")).exists():
            raise UserError(SETTING, f"there is no {self.uri}", "run something first, or name the store that it is in")
        check_reachable(self.uri, patience=patience)
        self._client = connect(self.uri)
        with told(self.uri):
            if not create and self._client.get_experiment_by_name(name) is None:
                known = ", ".join(experiment.name for experiment in self._client.search_experiments())
                raise UserError("study", f"{redact(self.uri)} holds no study '{name}'", f"expected one of {known}")
            self.experiment_id = find_experiment(self._client, name)

    def runs(self, **tags: str) -> list[StoredRun]:
        """Runs that carry all these tags (`parent`, or the name of a kdexp tag without `kdexp.`), oldest first."""
        wanted = {_tag_name(name): value for name, value in tags.items()}
        if self.uri.startswith("sqlite:///"):
            file = Path(self.uri.removeprefix("sqlite:///"))
            try:
                return [StoredRun(**vars(row)) for row in read_sqlite_runs(file, self.experiment_id, wanted)]
            except sqlite3.Error as error:  # tables of another MLflow: its own search knows them
                logger.debug("%s is read by MLflow: %s", file, error)
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
        found, token = [], None
        while True:
            with told(self.uri):
                page = self._client.search_runs(
                    [self.experiment_id], condition, order_by=["attributes.start_time ASC"], page_token=token
                )
            found += [_stored_run(run) for run in page]
            token = page.token
            if not token:
                return found

    def holds(self, run_id: str) -> bool:
        """Whether a run of that id is one of the study's."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self._client.get_run(run_id).info.experiment_id == self.experiment_id)
        except MlflowException:
            return False

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of one metric, in the order of the steps."""
        with told(self.uri):
            return sorted({(point.step, point.value) for point in self._client.get_metric_history(run_id, metric)})

    def text_artifact(self, run_id: str, path: str) -> str | None:
        """A text artifact of a run, or None where it is not there."""
        from mlflow.exceptions import MlflowException

        with TemporaryDirectory() as folder, quiet("mlflow"):
            try:
                return Path(self._client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None

    def table_artifact(self, run_id: str, path: str) -> "pd.DataFrame | None":
        """A Parquet artifact of a run, or None where it is not there."""
        import pandas as pd
        from mlflow.exceptions import MlflowException

        with TemporaryDirectory() as folder, quiet("mlflow"):
            try:
                return pd.read_parquet(self._client.download_artifacts(run_id, path, folder))
            except (MlflowException, OSError):
                return None

    def mark_job_killed(self, config_hash: str, cache: "Cache") -> None:
        """Mark what others left of a job whose lock this process holds."""
        for run in self.runs(config_hash=config_hash, cache=cache.identity()):
            if run.status == "RUNNING":
                self._mark_killed(run)

    def mark_cut_off(self, cache: "Cache") -> None:
        """Mark as KILLED what the store calls RUNNING though the process is gone: nobody holds its lock."""
        for run in self.runs(cache=cache.identity()):
            if run.status != "RUNNING":
                continue
            kind, key = ("jobs", run.config_hash) if run.config_hash else ("sweeps", run.tags["kdexp.sweep_key"])
            with cache.lock(kind, key, wait=False) as is_free:
                if is_free:
                    self._mark_killed(run)

    def _mark_killed(self, run: StoredRun) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_tag(run.run_id, "kdexp.failure", "process ended without closing the run")
            self._client.set_terminated(run.run_id, "KILLED")
        except MlflowException as error:  # such as a full disk: no reason not to run
            logger.warning("%s was cut off, and cannot be marked: %s", run.name, reason(error))
        else:
            logger.warning("%s was cut off on %s: marked KILLED", run.name, date_of(run.started))

    def save_view(
        self,
        parent_id: str | None,
        settings: Sequence[str],
        metrics: Sequence[str],
        *,
        contour: tuple[str, str] | None,
        scatters: Sequence[tuple[str, str]] = (),
    ) -> str | None:
        """Save the view of a sweep in MLflow's pages and return the link that opens it, or None.

        MLflow keeps a shared view as JSON in a tag of the experiment; a failure to write it is a warning and
        never fails a run. The arguments are those of `sweep_view`.
        """
        key = view_key(parent_id)
        name = " x ".join(settings) or self.name
        tag, value = saved_view(key, name, sweep_view(parent_id, settings, metrics, contour, scatters))
        if len(value) > MAX_VIEW_CHARACTERS:
            logger.warning("no saved view in MLflow: %d characters, and it takes %d", len(value), MAX_VIEW_CHARACTERS)
            return None
        try:
            self._client.set_experiment_tag(self.experiment_id, tag, value)
        except Exception as error:  # a convenience: whatever MLflow has against it, the numbers stand
            logger.warning("no saved view in MLflow: %s", error)
            return None
        return f"{self.url}&compareRunsMode=CHART&viewStateShareKey={key}"

    def saved_view(self, parent_id: str | None) -> str | None:
        """The link to the view of a sweep, where one was saved."""
        key = view_key(parent_id)
        tags = self._client.get_experiment(self.experiment_id).tags
        return f"{self.url}&compareRunsMode=CHART&viewStateShareKey={key}" if saved_view_tag(key) in tags else None

    def describe(self, text: str) -> None:
        """What MLflow shows as the description of the study; what it has against it is a warning."""
        try:
            self._client.set_experiment_tag(self.experiment_id, NOTE_TAG, shorten(text, MAX_VIEW_CHARACTERS))
        except Exception as error:  # a convenience
            logger.warning("no description of the study in MLflow: %s", reason(error))

    @property
    def url(self) -> str:
        """Where MLflow shows the runs of this study."""
        return experiment_url(self.uri, self.experiment_id)

    def run_url(self, run_id: str) -> str:
        """Where MLflow shows one run."""
        return run_url(self.uri, self.experiment_id, run_id)

    def compare_url(self, run_ids: list[str]) -> str:
        """Where MLflow compares runs."""
        return compare_url(self.uri, self.experiment_id, run_ids)


def _stored_run(run: "Run") -> StoredRun:
    info, data = run.info, run.data
    return StoredRun(info.run_id, info.run_name, info.status, info.start_time, data.params, data.metrics, data.tags)


def view_key(parent_id: str | None) -> str:
    """What a sweep's view is saved under."""
    return f"kdexp-{(parent_id or 'study')[:12]}"


def shorten(text: str, max_characters: int) -> str:
    """Cut a text that is too long for MLflow."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


def _tag_name(name: str) -> str:
    return {"parent": "mlflow.parentRunId"}.get(name, f"kdexp.{name}")


def date_of(milliseconds: int) -> str:
    """`2026-01-31 12:00 UTC`"""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
