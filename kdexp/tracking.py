"""Write runs to MLflow: the only module of kdexp that imports it.

A run is written through an explicit client, so nothing about it is global state and several runs can be open
in one process. Metrics, params and tags are queued by the training loop and delivered by a thread every few
seconds; what a store that went away did not take is kept and delivered again. Delivering twice is harmless:
MLflow ignores a metric that it already holds (same key, step, timestamp and value).
"""

import hashlib
import importlib.metadata
import json
import logging
import os
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
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from kdexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SETTING = "tracking.uri"
LEGAL_URIS = "expected sqlite:///<file>, http(s)://<host>:<port>, postgresql://..., or tracking=none"
FLUSH_SECONDS = 5.0
PROBE_SECONDS = 8.0
# How long the end of a run waits for a store that went away, before it saves what is left to a local file.
PATIENCE_SECONDS = 60.0
# MLflow takes at most 1000 entities, 100 params, 100 tags and 1 MB a call; long values reach the 1 MB first.
MAX_METRICS, MAX_PARAMS, MAX_TAGS = 800, 50, 25
MAX_PARAM_CHARACTERS, MAX_TAG_CHARACTERS, MAX_KEY_CHARACTERS = 6000, 5000, 250
MAX_FAILURE_CHARACTERS = 500


def redact(text: str) -> str:
    """Replace the credentials in the URIs of a text (`http://user:password@host`, `?token=...`) by `***`."""
    text = re.sub(r"(\w://)[^/\s'\"<>]*@", r"\1***@", text)
    return re.sub(r"(?i)([?&](?:password|token|secret|api_?key)=)[^&\s'\"]*", r"\1***", text)


def resolve_uri(uri: str | None) -> str:
    """Return the store's URI, independent of the current folder from here on.

    None is MLflow's own default: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if uri.startswith("sqlite:///") and uri != "sqlite:///:memory:":
        # Not mlflow.get_tracking_uri(): it percent-encodes the folder, which SQLAlchemy takes literally.
        return "sqlite:///" + Path(uri.removeprefix("sqlite:///")).absolute().as_posix()
    return uri


def ui_command(uri: str | None, cwd: Path | None = None) -> str:
    """Return what a person types in `cwd` to see the runs; for a server, its address."""
    uri = resolve_uri(uri)
    cwd = (cwd or Path.cwd()).absolute()
    if uri.startswith(("http://", "https://")):
        return _ui_base(uri)
    # With runs of an old file store in ./mlruns, plain `mlflow ui` shows those instead.
    if uri == f"sqlite:///{(cwd / 'mlflow.db').as_posix()}" and not any(cwd.glob("mlruns/*/meta.yaml")):
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri '{redact(uri)}'"


def experiment_url(uri: str | None, experiment_id: str) -> str:
    """Return the link to an experiment's runs (without the parameter MLflow opens its GenAI view)."""
    base = _ui_base(resolve_uri(uri))
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def _ui_base(uri: str) -> str:
    """Where the pages are: the server, or for a database what `mlflow ui` will serve."""
    if not uri.startswith(("http://", "https://")):
        return "http://127.0.0.1:5000"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def check_reachable(uri: str | None) -> None:
    """Refuse a store that cannot take runs, within about 10 s and before anything expensive.

    Raises:
        UserError: No server answers, it refuses us, or the URI names no usable store.
    """
    uri = resolve_uri(uri)
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if uri == "databricks":
        scheme = uri
    match scheme:
        case "http" | "https":
            _check_server(uri)
        case "sqlite":
            _check_sqlite(uri)
        case "postgresql" | "mysql" | "mssql":
            _check_database(uri)
        case "databricks":
            pass  # The profile that is asked for at the first call says who and where.
        case "" | "file":
            raise UserError(
                SETTING,
                f"{redact(uri)} names a folder, and MLflow no longer keeps runs in folders",
                "use sqlite:///mlflow.db, http(s)://<host>:<port> for a server, or tracking=none",
            )
        case _:
            raise UserError(SETTING, f"'{scheme}://' is not a kind of store MLflow knows", LEGAL_URIS)


def _check_server(uri: str) -> None:
    _import_mlflow()
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = redact(uri)
    try:
        reply = http_request(
            get_default_host_creds(uri),
            "/api/2.0/mlflow/experiments/search",
            "POST",
            max_retries=0,
            timeout=PROBE_SECONDS,
            raise_on_status=False,
            json={"max_results": 1},
        )
    except MlflowException as error:
        port = urlsplit(uri).port or 5000
        # `from None`: the cause quotes the URI with its password.
        raise UserError(
            SETTING,
            f"{shown} cannot be reached ({_reason(error)})",
            f"start it with `mlflow server --host 127.0.0.1 --port {port}`, or use tracking=none",
        ) from None
    if reply.status_code in (401, 403):
        raise UserError(
            SETTING,
            f"{shown} refuses us ({reply.status_code} {reply.reason})",
            "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    if reply.status_code != 200 or "json" not in reply.headers.get("content-type", ""):
        raise UserError(SETTING, f"what answers at {shown} is no MLflow server ({reply.status_code})", LEGAL_URIS)


def _check_sqlite(uri: str) -> None:
    path = Path(uri.removeprefix("sqlite:///"))
    if uri in ("sqlite://", "sqlite:///:memory:") or not uri.startswith("sqlite:///"):
        raise UserError(SETTING, f"{uri} names no file, so nothing would be kept", LEGAL_URIS)
    if not path.parent.is_dir():
        raise UserError(SETTING, f"no folder {path.parent} for {path.name}", "create it, or name another file")
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UserError(SETTING, f"{path} cannot be written", "name a file in a folder of your own")
    if path.exists():
        with path.open("rb") as file:
            header = file.read(16)
        # SQLAlchemy would try ten times, for 100 s, before it says so.
        if header and header != b"SQLite format 3\0":
            raise UserError(SETTING, f"{path} is not an SQLite database", "name another file, or a new one")


def _check_database(uri: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()
    except ImportError as error:
        raise UserError(SETTING, f"the driver for {redact(uri)} is missing ({error})", "pip install it") from None
    except SQLAlchemyError as error:
        raise UserError(
            SETTING,
            f"{redact(uri)} cannot be reached ({_reason(error)})",
            "start the database, or use tracking=none",
        ) from None


def _reason(error: BaseException) -> str:
    """One readable line of an exception, free of credentials."""
    text = redact(" ".join(str(error).split()))
    known = ("Connection refused", "timed out", "Name or service not known", "Failed to resolve", "SSL")
    return next((phrase for phrase in known if phrase in text), text[:200])


def _import_mlflow() -> None:
    """Import MLflow with everything off that looks at other hosts than the store, or prints."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    # MLflow prints a run's link at its end with the password in it; kdexp prints its own.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow  # noqa: F401


def _connect(uri: str) -> "MlflowClient":
    """Return a client for a store that is initialised."""
    _import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if uri.startswith("sqlite:///"):
        _create_sqlite_store(Path(uri.removeprefix("sqlite:///")))
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(SETTING, f"{redact(uri)} cannot be used ({_reason(error)})", LEGAL_URIS) from None
    return client


def _create_sqlite_store(path: Path) -> None:
    """Create MLflow's tables, unless they are there, such that no process ever sees a half-made store.

    Two processes that initialise one file at the same time make one of them fail ("table experiments already
    exists"), and one that is killed leaves a file that no later run can use. So the tables are made in a file
    of another name, which then gets the store's name in one step.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists() and path.stat().st_size:
            return
        from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        logger.info("Creating the MLflow store %s (once, some seconds)", path)
        unfinished = path.with_name(f".{path.name}.new")
        unfinished.unlink(missing_ok=True)
        with _quiet("mlflow.store.db.utils", "alembic"):
            store = SqlAlchemyStore(f"sqlite:///{unfinished.as_posix()}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store._dispose_engine()
        os.replace(unfinished, path)


@contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Keep loggers to warnings for a while."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.WARNING)
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


def _experiment_id(client: "MlflowClient", study: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        try:
            return client.create_experiment(study)
        except MlflowException as error:
            # Another run of the same study was faster.
            experiment = client.get_experiment_by_name(study)
            if experiment is None:
                raise UserError(
                    "study",
                    f"'{study}' is no name MLflow takes ({_reason(error)})",
                    "use letters, digits, '-' and '_'",
                ) from None
    if experiment.lifecycle_stage != "active":
        raise UserError(
            "study",
            f"the experiment '{study}' was deleted in MLflow",
            f"`mlflow experiments restore -x {experiment.experiment_id}`, or another study=<name>",
        )
    return str(experiment.experiment_id)


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
        self.url = f"{_ui_base(uri)}/#/experiments/{experiment_id}/runs/{run_id}" if client else None
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
        """Write a matplotlib figure as an artifact, such as `figures/confusion_matrix.png`."""
        if self._client:
            figure.savefig(self._spooled(path), bbox_inches="tight")
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
                            logger.warning("MLflow does not answer; kept for later: %s", _reason(error))
                        self._store_is_away = True
                        return False
                    # Kept in the queue, it would block everything behind it.
                    logger.warning("MLflow refuses a batch: %s", _reason(error))
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
            logger.warning("MLflow did not take %s; kept for later: %s", name, _reason(error))
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
        _write_student(
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
            delivered = not self._thread.is_alive() and self._wait_for_store(deadline)
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

    def _wait_for_store(self, deadline: float) -> bool:
        while True:
            try:
                check_reachable(self._store_uri)
                return True
            except UserError as error:
                if time.monotonic() > deadline:
                    return False
                logger.warning("Waiting for MLflow: %s", error)
                time.sleep(3)

    def _terminate(self, status: str) -> None:
        assert self._client is not None
        from mlflow.exceptions import MlflowException

        try:
            # Asked first: MLflow's own retries would hold a process that ends for four minutes.
            check_reachable(self._store_uri)
            self._client.set_terminated(self.run_id, status)
        except (UserError, MlflowException, OSError) as error:
            logger.error("MLflow run %s could not be marked %s: %s", self.run_id, status, _reason(error))

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


def _write_student(
    folder: Path,
    target: Path,
    run_id: str,
    model_id: str,
    artifact_location: str,
    label_names: list[str],
    max_length: int,
    example_texts: list[Any],
) -> None:
    """Write a student as an MLflow model whose top folder is also a transformers checkpoint.

    The pyfunc flavor with a loader module: no pickle, and the model is not loaded to guess its requirements.
    (The transformers flavor asks the hub for a model card: 48 s without a network.)
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from kdexp.pyfunc_student import SETTINGS_FILE

    outputs = [ColSpec(DataType.string, "label"), ColSpec(DataType.float, "score")]
    outputs += [ColSpec(DataType.float, f"probability_{name}") for name in label_names]
    packages = ("mlflow", "torch", "transformers", "tokenizers", "safetensors", "pandas")
    code = Path(__file__).with_name("pyfunc_student.py")
    with tempfile.TemporaryDirectory() as scratch, _quiet("mlflow.pyfunc"):
        # Named after its content: two students loaded into one process never get each other's code.
        loader = Path(scratch) / f"kdexp_student_{hashlib.sha256(code.read_bytes()).hexdigest()[:12]}.py"
        shutil.copyfile(code, loader)
        model = Model(artifact_path=artifact_location, run_id=run_id, model_id=model_id, model_uuid=model_id)
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=loader.stem,
            data_path=str(folder),
            code_paths=[str(loader)],
            # No input schema: MLflow would allow only one of texts, pairs and tables.
            signature=ModelSignature(outputs=Schema(outputs)),
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in packages],
            input_example=example_texts or None,
            mlflow_model=model,
        )
    shutil.copytree(target / model.flavors["python_function"]["data"], target, dirs_exist_ok=True)
    shutil.rmtree(target / "data")
    settings = {"label_names": label_names, "max_length": max_length}
    (target / SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    model.flavors["python_function"]["data"] = "."
    model.save(str(target / "MLmodel"))


@contextmanager
def open_run(
    *,
    uri: str | None,
    study: str,
    run_name: str,
    params: Mapping[str, object],
    tags: Mapping[str, str],
    enabled: bool = True,
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
        enabled: False gives a run whose methods do nothing, and never imports mlflow.
        rescue_folder: Where a folder is written with what the store would not take.

    Raises:
        UserError: The store cannot be used; or, after a body that succeeded, it did not take everything.
    """
    if not enabled:
        yield TrackedRun(None, "", "", "")
        return
    uri = resolve_uri(uri)
    check_reachable(uri)
    client = _connect(uri)
    from mlflow.tracking.context.registry import resolve_tags

    experiment_id = _experiment_id(client, study)
    # Who, from which script and commit; the tags given here come with the first batch.
    context = {key: _cut(redact(value), MAX_TAG_CHARACTERS) for key, value in resolve_tags().items()}
    parent = {key: value for key, value in tags.items() if key.startswith("mlflow.")}
    created = client.create_run(experiment_id, run_name=redact(run_name), tags=context | parent)
    run = TrackedRun(client, uri, experiment_id, created.info.run_id)
    try:
        run.set_tags(tags)
        run.log_params(params)
        run.flush()
        yield run
    except BaseException as error:
        killed = isinstance(error, KeyboardInterrupt | SystemExit)
        first_line = next(iter(str(error).splitlines()), "")
        reason = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
        run.set_tags({"kdexp.failure": _cut(redact(reason), MAX_FAILURE_CHARACTERS)})
        undelivered = run._close("KILLED" if killed else "FAILED", rescue_folder)
        if undelivered:
            logger.error("MLflow did not take %s", undelivered)
        raise
    undelivered = run._close("FINISHED", rescue_folder)
    if undelivered:
        raise UserError(SETTING, f"{run.uri} did not take {undelivered}", "bring the store back, then run again")
