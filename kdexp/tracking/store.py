"""Where runs are kept: the MLflow store by its URI, refused early when it cannot take runs, and the links into it."""

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from filelock import FileLock

from kdexp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SETTING = "tracking.uri"
LEGAL_URIS = "expected sqlite:///<file>, http(s)://<host>:<port>, postgresql://..., or tracking=none"
PROBE_SECONDS = 8.0


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
        return ui_base(uri)
    # With runs of an old file store in ./mlruns, plain `mlflow ui` shows those instead.
    if uri == f"sqlite:///{(cwd / 'mlflow.db').as_posix()}" and not any(cwd.glob("mlruns/*/meta.yaml")):
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri '{redact(uri)}'"


def experiment_url(uri: str | None, experiment_id: str) -> str:
    """Return the link to an experiment's runs (without the parameter MLflow opens its GenAI view)."""
    base = ui_base(resolve_uri(uri))
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def ui_base(uri: str) -> str:
    """Where the pages are: the server, or for a database what `mlflow ui` will serve."""
    if not uri.startswith(("http://", "https://")):
        return "http://127.0.0.1:5000"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def check_reachable(uri: str | None, *, patience: float = 0.0) -> None:
    """Refuse a store that cannot take runs, within about 10 s and before anything expensive.

    Args:
        patience: Seconds to wait for a store that was there before and went away.

    Raises:
        UserError: No server answers, it refuses us, or the URI names no usable store.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            return _check(resolve_uri(uri))
        except UserError as error:
            if time.monotonic() > deadline:
                raise
            logger.warning("waiting for MLflow: %s", error)
            time.sleep(3)


def _check(uri: str) -> None:
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
            f"{shown} cannot be reached ({reason(error)})",
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
            f"{redact(uri)} cannot be reached ({reason(error)})",
            "start the database, or use tracking=none",
        ) from None


def reason(error: BaseException) -> str:
    """One readable line of an exception, free of credentials."""
    text = redact(" ".join(str(error).split()))
    known = ("Connection refused", "timed out", "Name or service not known", "Failed to resolve", "SSL")
    return next((phrase for phrase in known if phrase in text), text[:200])


def _import_mlflow() -> None:
    """Import MLflow with everything off that looks at other hosts than the store, or prints."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # MLflow prints a run's link at its end with the password in it; kdexp prints its own.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    import mlflow  # noqa: F401


@lru_cache(maxsize=4)
def connect(uri: str) -> "MlflowClient":
    """Return the client of a store that is initialised; every job of a sweep gets the same one."""
    _import_mlflow()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    if uri.startswith("sqlite:///"):
        _create_sqlite_store(Path(uri.removeprefix("sqlite:///")))
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(SETTING, f"{redact(uri)} cannot be used ({reason(error)})", LEGAL_URIS) from None
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
        with quiet("mlflow.store.db.utils", "alembic"):
            store = SqlAlchemyStore(f"sqlite:///{unfinished.as_posix()}", DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
        store._dispose_engine()
        os.replace(unfinished, path)


@contextmanager
def quiet(*names: str) -> Iterator[None]:
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


def find_experiment(client: "MlflowClient", study: str) -> str:
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


class Study:
    """The runs of one study, read from the store.

    Raises:
        UserError: The store cannot be used, or (with `create=False`) holds no such study.
    """

    def __init__(self, uri: str | None, name: str, *, create: bool = True, patience: float = 0.0) -> None:
        self.uri, self.name = resolve_uri(uri), name
        check_reachable(self.uri, patience=patience)
        self._client = connect(self.uri)
        if not create and self._client.get_experiment_by_name(name) is None:
            known = ", ".join(each.name for each in self._client.search_experiments())
            raise UserError("study", f"{redact(self.uri)} holds no study '{name}'", f"expected one of {known}")
        self.experiment_id = find_experiment(self._client, name)

    def runs(self, **tags: str) -> list[StoredRun]:
        """Runs that carry all these tags (`parent`, or the name of a kdexp tag without `kdexp.`), oldest first."""
        condition = " and ".join(f"tags.`{_tag_name(name)}` = '{value}'" for name, value in tags.items())
        found, token = [], None
        while True:
            page = self._client.search_runs(
                [self.experiment_id], condition, order_by=["attributes.start_time ASC"], page_token=token
            )
            found += [
                StoredRun(
                    run.info.run_id,
                    run.info.run_name,
                    run.info.status,
                    run.info.start_time,
                    run.data.params,
                    run.data.metrics,
                    run.data.tags,
                )
                for run in page
            ]
            token = page.token
            if not token:
                return found

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of one metric, in the order of the steps."""
        points = {(point.step, point.value) for point in self._client.get_metric_history(run_id, metric)}
        return sorted(points)

    def text_artifact(self, run_id: str, path: str) -> str | None:
        """A text artifact of a run, or None where it is not there."""
        from mlflow.exceptions import MlflowException

        with TemporaryDirectory() as folder, quiet("mlflow"):
            try:
                return Path(self._client.download_artifacts(run_id, path, folder)).read_text(encoding="utf-8")
            except (MlflowException, OSError):
                return None

    def table_artifact(self, run_id: str, path: str) -> "pd.DataFrame":
        """A Parquet artifact of a run."""
        import pandas as pd

        with TemporaryDirectory() as folder, quiet("mlflow"):
            return pd.read_parquet(self._client.download_artifacts(run_id, path, folder))

    def mark_killed(self, run: StoredRun) -> None:
        """Say of a run that its process is gone: nobody else will."""
        logger.warning("%s was cut off on %s: marked KILLED", run.name, _date(run.started))
        self._client.set_tag(run.run_id, "kdexp.failure", "the process ended without a word")
        self._client.set_terminated(run.run_id, "KILLED")

    def set_tag(self, key: str, value: str) -> None:
        """Set a tag of the study itself."""
        self._client.set_experiment_tag(self.experiment_id, key, value)

    @property
    def base_url(self) -> str:
        """Where MLflow shows this study."""
        return f"{ui_base(self.uri)}/#/experiments/{self.experiment_id}"

    def compare_url(self, run_ids: list[str]) -> str:
        """MLflow's page that compares runs: parallel coordinates, scatter and contour plot."""
        runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [self.experiment_id]))
        return f"{ui_base(self.uri)}/#/compare-runs?runs={runs}&experiments={experiments}"


def _tag_name(name: str) -> str:
    return {"parent": "mlflow.parentRunId"}.get(name, f"kdexp.{name}")


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
