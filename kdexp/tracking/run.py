"""Write one run to MLflow.

A run is written through an explicit client, so nothing about it is global state and several runs can be open
in one process. Metrics, params and tags are queued by the training loop and delivered by a thread every few
seconds; what a store that went away did not take is kept and delivered again. Delivering twice is harmless:
MLflow ignores a metric that it already holds (same key, step, timestamp and value).
"""

import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.errors import PrunedError, UserError
from kdexp.tracking.store import (
    SETTING,
    check_reachable,
    connect,
    experiment_url,
    find_experiment,
    reason,
    redact,
    resolve_uri,
    ui_base,
)
from kdexp.tracking.student_model import write_student

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
# How long the end of a run waits for a store that went away, before it saves what is left to a local file.
PATIENCE_SECONDS = 60.0
# MLflow takes at most 1000 entities, 100 params, 100 tags and 1 MB a call; long values reach the 1 MB first.
MAX_METRICS, MAX_PARAMS, MAX_TAGS = 800, 50, 25
MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS, MAX_KEY_CHARACTERS = 6000, 5000, 250
MAX_FAILURE_CHARACTERS = 500


@lru_cache(maxsize=4096)
def _legal_key(key: str) -> str:
    """Replace what MLflow refuses in names: class labels and columns that people choose end up in them."""
    parts = re.sub(r"[^/\w.\- :]", "_", key).split("/")
    return "/".join(part for part in parts if part.strip(". "))[:MAX_KEY_CHARACTERS] or "_"


class TrackedRun:
    """One open MLflow run. Made by `open_run`; when tracking is off, every method does nothing.

    Attributes:
        run_id, experiment_id: MLflow's ids ("" when tracking is off).
        uri: The store, without credentials.
        url, experiment_url: Links into MLflow's pages, or None when tracking is off.
    """

    def __init__(self, client: "MlflowClient | None", uri: str, experiment_id: str, run_id: str) -> None:
        self.run_id, self.experiment_id, self.uri = run_id, experiment_id, redact(uri)
        self.url = f"{ui_base(uri)}/#/experiments/{experiment_id}/runs/{run_id}" if client else None
        self.experiment_url = experiment_url(uri, experiment_id) if client else None
        self._client, self._store_uri = client, uri
        self._metrics: list[Any] = []
        self._params: list[Any] = []
        self._tags: list[Any] = []
        self._rejected: list[dict[str, object]] = []
        self._retries: list[tuple[str, Callable[[], None]]] = []
        self._delivery = threading.Lock()
        self._stop = threading.Event()
        self._store_is_away = False
        if client:
            from mlflow.entities import Metric, Param, RunTag

            self._metric, self._param, self._tag = Metric, Param, RunTag
            self._spool = Path(tempfile.mkdtemp(prefix="kdexp-tracking-"))
            # A daemon: a run that is killed must not hang on a server that does not answer.
            self._thread = threading.Thread(target=self._deliver_regularly, name="kdexp-tracking", daemon=True)
            self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queue metrics (microseconds); they reach the store within seconds, at the latest at the end."""
        if self._client is None:
            return
        now = time.time_ns() // 1_000_000
        for key, value in metrics.items():
            self._metrics.append(self._metric(_legal_key(key), float(value), now, step or 0))

    def log_params(self, params: Mapping[str, object]) -> None:
        """Queue params. A value longer than MLflow takes is cut; the config artifact holds it in full."""
        if self._client is None:
            return
        for key, value in params.items():
            self._params.append(self._param(_legal_key(key), _cut(redact(str(value)), MAX_PARAM_CHARACTERS)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Queue tags; a later value replaces an earlier one."""
        if self._client is None:
            return
        for key, value in tags.items():
            self._tags.append(self._tag(_legal_key(key), _cut(redact(str(value)), MAX_TAG_CHARACTERS)))

    def log_text(self, text: str, path: str) -> None:
        """Write a text artifact, such as `config.yaml`."""
        if self._client:
            self._spooled(path).write_text(redact(text), encoding="utf-8")
            self._upload(path)

    def log_figure(self, figure: "Figure", path: str) -> None:
        """Write a matplotlib figure as an artifact, such as `figures/confusion_matrices.png`."""
        if self._client:
            figure.savefig(self._spooled(path))
            self._upload(path)

    def log_table(self, table: "pd.DataFrame", path: str) -> None:
        """Write a table as `.parquet`, `.csv`, or `.json` (which MLflow shows), by the suffix of the path."""
        if self._client is None:
            return
        target = self._spooled(path)
        match target.suffix:
            case ".parquet":
                table.to_parquet(target, index=False)
            case ".csv":
                table.to_csv(target, index=False)
            case ".json":
                table.to_json(target, orient="split", index=False)
            case suffix:
                raise ValueError(f"{path}: no table format {suffix!r}")
        self._upload(path)

    def log_file(self, file: Path, path: str) -> None:
        """Copy a file into the run as the artifact `path`."""
        if self._client:
            shutil.copyfile(file, self._spooled(path))
            self._upload(path)

    def log_student(
        self, folder: Path, *, label_names: Sequence[str], max_length: int, example_texts: Sequence[Any] = ()
    ) -> None:
        """Log a student as the model `student`, which loads with transformers and with `mlflow.pyfunc`.

        Args:
            folder: What `save_pretrained` of the model and of its tokenizer wrote.
            label_names: Names of the classes, in the order of the logits.
            max_length: Tokens at which the student's inputs are truncated.
            example_texts: Some inputs (texts or pairs), shown by MLflow beside the model.
        """
        if self._client is None:
            return
        model_folder = self._spool / "student"
        self._deliver_or_keep(
            "student",
            lambda: self._send_student(Path(folder), model_folder, list(label_names), max_length, list(example_texts)),
        )

    def flush(self) -> bool:
        """Deliver everything that is queued; return whether the store took it."""
        if self._client is None:
            return True
        from mlflow.exceptions import MlflowException

        with self._delivery:
            while self._metrics or self._params or self._tags:
                metrics, params = self._metrics[:MAX_METRICS], self._params[:MAX_PARAMS]
                tags = self._tags[:MAX_TAGS]
                try:
                    self._client.log_batch(self.run_id, metrics=metrics, params=params, tags=tags)
                except (MlflowException, OSError) as error:
                    if getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
                        if not self._store_is_away:
                            logger.warning("MLflow does not answer; kept for later: %s", reason(error))
                        self._store_is_away = True
                        return False
                    # Kept in the queue, it would block everything behind it.
                    logger.warning("MLflow refuses a batch: %s", reason(error))
                    self._rejected += [dict(each) for each in (*metrics, *params, *tags)]
                del self._metrics[: len(metrics)], self._params[: len(params)], self._tags[: len(tags)]
                self._store_is_away = False
        return True

    def _deliver_regularly(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()

    def _spooled(self, path: str) -> Path:
        """A local place for an artifact; it stays there until the store has taken it."""
        target = self._spool / "artifacts" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _upload(self, path: str) -> None:
        self._deliver_or_keep(path, lambda: self._send_artifact(path))

    def _send_artifact(self, path: str) -> None:
        assert self._client is not None
        folder = Path(path).parent.as_posix()
        self._client.log_artifact(self.run_id, str(self._spooled(path)), None if folder == "." else folder)
        self._spooled(path).unlink()

    def _deliver_or_keep(self, name: str, send: Callable[[], None]) -> None:
        """Send now; what fails is sent again when the run ends, since no artifact is worth a training."""
        from mlflow.exceptions import MlflowException

        try:
            send()
        except (MlflowException, OSError) as error:
            logger.warning("MLflow did not take %s; kept for later: %s", name, reason(error))
            self._retries.append((name, send))

    def _send_student(
        self, folder: Path, target: Path, label_names: list[str], max_length: int, example_texts: list[Any]
    ) -> None:
        assert self._client is not None
        from mlflow.entities import LoggedModelOutput

        logged = self._client.create_logged_model(
            self.experiment_id, name="student", source_run_id=self.run_id, model_type="text-classification"
        )
        shutil.rmtree(target, ignore_errors=True)
        write_student(
            folder,
            target,
            self.run_id,
            logged.model_id,
            logged.artifact_location,
            label_names,
            max_length,
            example_texts,
        )
        self._client.log_model_artifacts(logged.model_id, str(target))
        self._client.finalize_logged_model(logged.model_id, "READY")
        # Last, so that the run never points to a model that is not all there.
        self._client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=0)])
        shutil.rmtree(target)

    def _close(self, status: str, rescue_folder: Path) -> str:
        """Deliver what is left and end the run. Return what was not delivered and where it lies, or ""."""
        assert self._client is not None
        self._stop.set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            # The thread may be in the middle of MLflow's own retries.
            self._thread.join(PATIENCE_SECONDS)
            delivered = not self._thread.is_alive() and self._is_back(deadline - time.monotonic())
            if delivered:
                retries, self._retries = self._retries, []
                for name, send in retries:
                    self._deliver_or_keep(name, send)
                delivered = self.flush()
            undelivered = "" if delivered and not (self._rejected or self._retries) else self._rescue(rescue_folder)
        finally:
            self._terminate(status)
        shutil.rmtree(self._spool, ignore_errors=True)
        return undelivered

    def _is_back(self, patience: float) -> bool:
        try:
            check_reachable(self._store_uri, patience=patience)
        except UserError:
            return False
        return True

    def _terminate(self, status: str) -> None:
        assert self._client is not None
        from mlflow.exceptions import MlflowException

        try:
            # Asked first: MLflow's own retries would hold a process that ends for four minutes.
            check_reachable(self._store_uri)
            self._client.set_terminated(self.run_id, status)
        except (UserError, MlflowException, OSError) as error:
            logger.error("MLflow run %s could not be marked %s: %s", self.run_id, status, reason(error))

    def _rescue(self, rescue_folder: Path) -> str:
        """Save what the store did not take, and say what it is and where."""
        target = rescue_folder / self.run_id
        target.mkdir(parents=True, exist_ok=True)
        kept = {
            "run_id": self.run_id,
            "uri": self.uri,
            "metrics": [dict(each) for each in self._metrics],
            "params": [dict(each) for each in self._params],
            "tags": [dict(each) for each in self._tags],
            "rejected": self._rejected,
            "artifacts": [name for name, _ in self._retries],
        }
        (target / "undelivered.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
        shutil.copytree(self._spool, target, dirs_exist_ok=True)
        counts = [f"{len(value)} {name}" for name, value in kept.items() if isinstance(value, list) and value]
        return f"{', '.join(counts) or 'the end of the run'} of run {self.run_id}, saved in {target}"


def _cut(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"


@contextmanager
def open_run(
    *,
    uri: str | None,
    study: str,
    run_name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    enabled: bool = True,
    continued_run: str | None = None,
    patience: float = 0.0,
    rescue_folder: Path = Path("multirun/undelivered"),
) -> Iterator[TrackedRun]:
    """Open an MLflow run and end it as what it was: FINISHED, FAILED or KILLED.

    The body's exception goes on. A run that failed or was killed gets the tag `kdexp.failure`.

    Args:
        uri: The store; None for MLflow's default (`mlflow.db` in the current folder).
        study: The experiment's name; it is created when it is not there.
        run_name: Name of the run.
        params: Logged before the body starts.
        tags: Set before the body starts. `mlflow.parentRunId` makes it the child of another run.
        continued_run: Id of an earlier run to write on, instead of a new one.
        patience: Seconds to wait for a store that does not answer.
        enabled: False gives a run whose methods do nothing, and never imports mlflow.
        rescue_folder: Where a folder is written with what the store would not take.

    Raises:
        UserError: The store cannot be used; or, after a body that succeeded, it did not take everything.
    """
    if not enabled:
        yield TrackedRun(None, "", "", "")
        return
    uri = resolve_uri(uri)
    check_reachable(uri, patience=patience)
    client = connect(uri)
    from mlflow.tracking.context.registry import resolve_tags

    experiment_id = find_experiment(client, study)
    # Who, from which script and commit; the tags given here come with the first batch.
    context = {key: _cut(redact(value), MAX_TAG_CHARACTERS) for key, value in resolve_tags().items()}
    parent = {key: value for key, value in tags.items() if key.startswith("mlflow.")}
    if continued_run is None:
        run_id = client.create_run(experiment_id, run_name=redact(run_name), tags=context | parent).info.run_id
    else:
        run_id = continued_run
        client.update_run(run_id, status="RUNNING")
    run = TrackedRun(client, uri, experiment_id, run_id)
    try:
        run.set_tags(tags)
        run.log_params(params)
        run.flush()
        yield run
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit | PrunedError)
        first_line = next(iter(str(error).splitlines()), "")
        cause = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        if isinstance(error, PrunedError):
            run.set_tags({"kdexp.pruned": "true"})
        run.set_tags({"kdexp.failure": _cut(redact(cause), MAX_FAILURE_CHARACTERS)})
        undelivered = run._close("KILLED" if killed else "FAILED", rescue_folder)
        if undelivered:
            logger.error("MLflow did not take %s", undelivered)
        raise
    undelivered = run._close("FINISHED", rescue_folder)
    if undelivered:
        raise UserError(SETTING, f"{run.uri} did not take {undelivered}", "bring the store back, then run again")
