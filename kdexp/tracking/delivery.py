"""What one run has to bring to its store: queued, sent by a thread every few seconds, and saved where that fails.

What a store that went away did not take is kept and delivered again. Delivering twice is harmless: MLflow ignores a
metric that it already holds (same key, step, timestamp and value).
"""

import contextlib
import json
import logging
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.errors import UserError
from kdexp.files import try_lock
from kdexp.tracking.data_sets import DataSet
from kdexp.tracking.registry import Registration, register
from kdexp.tracking.secrets import redact
from kdexp.tracking.student_model import StudentFiles, write_student
from kdexp.tracking.uri import PATIENCE_SECONDS, check_reachable, reason

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0
# MLflow takes at most 1000 entities, 100 params, 100 tags and 1 MB a call; long values reach the 1 MB first.
MAX_METRICS, MAX_PARAMS, MAX_TAGS = 800, 50, 25
SPOOL_LOCK = ".lock"
_NEW_SECONDS = 60.0
MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS, MAX_KEY_CHARACTERS = 6000, 5000, 250


class Delivery:
    """The way of one run's metrics, params, tags, artifacts and model into its store.

    Args:
        uri: Of the store, with credentials.
    """

    def __init__(self, client: "MlflowClient", uri: str, experiment_id: str, run_id: str) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.client, self.uri, self.experiment_id, self.run_id = client, uri, experiment_id, run_id
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._metrics: list[Any] = []
        self._last_metrics: dict[str, Any] = {}
        self._all_params: dict[str, str] = {}
        self._data_sets: dict[str, DataSet] = {}
        self._logged: dict[str, Any] = {}
        self._params: list[Any] = []
        self._tags: list[Any] = []
        self._rejected: list[dict[str, object]] = []
        self._retries: list[tuple[str, Callable[[], None]]] = []
        self._sending = threading.Lock()
        self._stop = threading.Event()
        self._store_is_away = False
        self._spool = _new_spool()
        self._spool_lock = try_lock(self._spool / SPOOL_LOCK)  # tells others that this process lives
        # A daemon: a run that is killed must not hang on a server that does not answer.
        self._thread = threading.Thread(target=self._deliver_regularly, name="kdexp-tracking", daemon=True)
        self._thread.start()

    def queue_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        now = time.time_ns() // 1_000_000
        queued = [self._metric(legal_key(key), float(value), now, step) for key, value in metrics.items()]
        self._metrics += queued
        self._last_metrics |= {metric.key: metric for metric in queued}

    def queue_params(self, params: Mapping[str, object]) -> None:
        queued = {legal_key(key): shorten(redact(str(value)), MAX_PARAM_CHARACTERS) for key, value in params.items()}
        self._params += [self._param(key, value) for key, value in queued.items()]
        self._all_params |= queued

    def queue_tags(self, tags: Mapping[str, str]) -> None:
        self._tags += [
            self._tag(legal_key(key), shorten(redact(str(value)), MAX_TAG_CHARACTERS)) for key, value in tags.items()
        ]

    def flush(self) -> bool:
        """Deliver everything that is queued; return whether the store took it."""
        with self._sending:
            while self._metrics or self._params or self._tags:
                if not self._send_batch():
                    return False
        return True

    def spooled(self, path: str) -> Path:
        """A local place for an artifact; it stays there until the store has taken it."""
        target = self._spool / "artifacts" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def send_artifact(self, path: str) -> None:
        """Send what lies at `spooled(path)`."""
        folder = Path(path).parent.as_posix()

        def send() -> None:
            self.client.log_artifact(self.run_id, str(self.spooled(path)), None if folder == "." else folder)
            self.spooled(path).unlink()

        self._deliver_or_keep(path, send)

    def send_data_sets(self, data_sets: Sequence[DataSet]) -> None:
        """Send what the run reads."""
        self._data_sets = {data_set.split: data_set for data_set in data_sets}

        def send() -> None:
            self.client.log_inputs(self.run_id, [data_set.entity() for data_set in data_sets])

        self._deliver_or_keep("data sets", send)

    def send_student(self, student: StudentFiles, metrics: Sequence[str]) -> None:
        """Send a model, with the run's params and the last values of some of its metrics."""
        from mlflow.entities import LoggedModelOutput

        target = self._spool / student.name

        def send() -> None:
            logged = self.client.create_logged_model(
                self.experiment_id,
                name=student.name,
                source_run_id=self.run_id,
                tags={"kdexp.run_name": self.client.get_run(self.run_id).info.run_name},
                params={key: value for key, value in self._all_params.items() if value != "None"},
                model_type="text-classification",
            )
            self.client.log_batch(self.run_id, self._metrics_of_model(metrics, logged.model_id))
            shutil.rmtree(target, ignore_errors=True)
            write_student(student, logged, target)
            self.client.log_model_artifacts(logged.model_id, str(target))
            self.client.finalize_logged_model(logged.model_id, "READY")
            # Last, so that the run never points to a model that is not all there.
            self.client.log_outputs(self.run_id, [LoggedModelOutput(logged.model_id, step=0)])
            shutil.rmtree(target)
            self._logged[student.name] = logged

        self._deliver_or_keep(student.name, send)

    def send_registration(self, student_name: str, registration: Registration) -> None:
        """Register a model that was sent."""

        def send() -> None:
            register(self.client, registration, self._logged[student_name])

        self._deliver_or_keep(f"registered model {registration.name}", send)

    def _metrics_of_model(self, names: Sequence[str], model_id: str) -> list[Any]:
        """The run's own points, which it holds already, with the model and the data set that they are of."""
        points = [self._last_metrics[key] for key in map(legal_key, names) if key in self._last_metrics]
        found = []
        for point in points:
            split = self._data_sets.get(point.key.partition("/")[0])
            measured_on = {"dataset_name": split.name, "dataset_digest": split.digest} if split else {}
            found.append(self._metric(point.key, point.value, point.timestamp, point.step, model_id, **measured_on))
        return found

    def close(self, status: str, rescue_folder: Path) -> str:
        """Deliver what is left and end the run. Return what was not delivered and where it lies, or ""."""
        self._stop.set()
        deadline = time.monotonic() + PATIENCE_SECONDS
        try:
            # The thread may be in the middle of MLflow's own retries.
            self._thread.join(PATIENCE_SECONDS)
            delivered = not self._thread.is_alive() and self._is_back(deadline - time.monotonic())
            if delivered:
                self._store_is_away = False
                retries, self._retries = self._retries, []
                for name, send in retries:
                    self._deliver_or_keep(name, send)
                delivered = self.flush()
            undelivered = "" if delivered and not (self._rejected or self._retries) else self._rescue(rescue_folder)
        finally:
            self._terminate(status)
        if self._spool_lock:
            self._spool_lock.release()
        shutil.rmtree(self._spool, ignore_errors=True)
        return undelivered

    def _deliver_regularly(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()

    def _send_batch(self) -> bool:
        """Send the first of what is queued; return whether the store was there to take or to refuse it."""
        from mlflow.exceptions import MlflowException

        metrics, params, tags = self._metrics[:MAX_METRICS], self._params[:MAX_PARAMS], self._tags[:MAX_TAGS]
        try:
            self.client.log_batch(self.run_id, metrics=metrics, params=params, tags=tags)
        except (MlflowException, OSError) as error:
            if getattr(error, "error_code", None) != "INVALID_PARAMETER_VALUE":
                if not self._store_is_away:
                    logger.warning("MLflow does not answer; kept for later: %s", reason(error))
                self._store_is_away = True
                return False
            # Kept in the queue, it would block everything behind it.
            logger.warning("MLflow refuses a batch: %s", reason(error))
            self._rejected += [dict(entity) for entity in (*metrics, *params, *tags)]
        del self._metrics[: len(metrics)], self._params[: len(params)], self._tags[: len(tags)]
        self._store_is_away = False
        return True

    def _deliver_or_keep(self, name: str, send: Callable[[], None]) -> None:
        """Send now; what fails is sent again when the run ends, since no artifact is worth a training."""
        from mlflow.exceptions import MlflowException

        if self._store_is_away:  # each try would wait for it again
            self._retries.append((name, send))
            return
        try:
            send()
        except (MlflowException, OSError) as error:
            logger.warning("MLflow did not take %s; kept for later: %s", name, reason(error))
            self._store_is_away = True
            self._retries.append((name, send))

    def _is_back(self, patience: float) -> bool:
        try:
            check_reachable(self.uri, patience=patience)
        except UserError:
            return False
        return True

    def _terminate(self, status: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            # Asked first: MLflow's own retries would hold a process that ends for four minutes.
            check_reachable(self.uri)
            self.client.set_terminated(self.run_id, status)
        except (UserError, MlflowException, OSError) as error:
            logger.error("MLflow run %s could not be marked %s: %s", self.run_id, status, reason(error))

    def _rescue(self, rescue_folder: Path) -> str:
        """Save what the store did not take, and say what it is and where."""
        target = rescue_folder / self.run_id
        kept = {
            "run_id": self.run_id,
            "uri": redact(self.uri),
            "metrics": [dict(metric) for metric in self._metrics],
            "params": [dict(param) for param in self._params],
            "tags": [dict(tag) for tag in self._tags],
            "rejected": self._rejected,
            "artifacts": [name for name, _ in self._retries],
        }
        counts = [f"{len(value)} {name}" for name, value in kept.items() if isinstance(value, list) and value]
        lost = f"{', '.join(counts) or 'the end of the run'} of run {self.run_id}"
        try:
            target.mkdir(parents=True, exist_ok=True)
            (target / "undelivered.json").write_text(json.dumps(kept, indent=1), encoding="utf-8")
            shutil.copytree(self._spool, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(SPOOL_LOCK))
        except OSError as error:
            return f"{lost}, which cannot be saved in {target} either ({error.strerror or reason(error)})"
        return f"{lost}, saved in {target}"


def _new_spool() -> Path:
    """A folder for what is on its way, and away with those of processes that were killed.

    Raises:
        UserError: The folder of temporary files cannot be written.
    """
    try:
        folder = Path(tempfile.gettempdir())
        for spool in folder.glob("kdexp-tracking-*"):
            _remove_if_left_behind(spool)
        return Path(tempfile.mkdtemp(prefix="kdexp-tracking-"))
    except OSError as error:
        problem = f"no folder for temporary files can be written ({error.strerror or error})"
        raise UserError("TMPDIR", problem, "make room, or name another folder in TMPDIR") from error


def _remove_if_left_behind(spool: Path) -> None:
    with contextlib.suppress(OSError):  # another person's, or removed by another process meanwhile
        # One that was just made may not be locked yet.
        if time.time() - spool.stat().st_mtime < _NEW_SECONDS:
            return
        lock = try_lock(spool / SPOOL_LOCK)
        if lock:
            shutil.rmtree(spool, ignore_errors=True)
            lock.release()


@lru_cache(maxsize=4096)
def legal_key(key: str) -> str:
    """Replace what MLflow refuses in names: class labels and columns that people choose end up in them."""
    parts = re.sub(r"[^/\w.\- :]", "_", key).split("/")
    return "/".join(part for part in parts if part.strip(". "))[:MAX_KEY_CHARACTERS] or "_"


def shorten(text: str, max_characters: int) -> str:
    """The text, with its end cut off where MLflow would refuse it."""
    return text if len(text) <= max_characters else text[: max_characters - 1] + "…"
