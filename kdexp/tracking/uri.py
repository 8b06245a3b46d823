"""Where runs are kept: the MLflow store by its URI, refused early when it cannot take runs, and the links into it."""

import contextlib
import json
import logging
import os
import sqlite3
import time
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from kdexp.deadline import TooLateError, within
from kdexp.errors import UserError
from kdexp.files import prove_writable
from kdexp.tracking.adapter import ask_server, import_mlflow, is_older_schema, sqlalchemy_uri
from kdexp.tracking.secrets import redact, reveal_uri

logger = logging.getLogger(__name__)

SETTING = "tracking.uri"
LEGAL_URIS = "expected sqlite:///<file>, http(s)://<host>:<port>, postgresql://..., or tracking=none"
_ML = "workflowType=machine_learning"  # else MLflow opens its GenAI view
PROBE_SECONDS = 8.0
_CONNECT_SECONDS = 2.0  # beyond them
_DATABASE_SECONDS = 30.0
# How long is waited for a store that was there before and went away.
PATIENCE_SECONDS = 60.0
# How long is waited for an SQLite store that another program has locked.
LOCK_SECONDS = 120.0


def resolve_uri(uri: str | None) -> str:
    """Return the store's URI, independent of the current folder from here on.

    None is MLflow's own default: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.
    """
    uri = reveal_uri(uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db")
    if uri.startswith("sqlite:///") and uri != "sqlite:///:memory:":
        # Not mlflow.get_tracking_uri(): it percent-encodes the folder, which SQLAlchemy before 2.1 takes literally.
        path, decoded = (
            Path(name) for name in (uri.removeprefix("sqlite:///"), unquote(uri.removeprefix("sqlite:///")))
        )
        if not path.parent.is_dir() and decoded.parent.is_dir():
            path = decoded
        return "sqlite:///" + path.absolute().as_posix()
    return uri


def reason(error: BaseException) -> str:
    """One readable line of an exception, free of credentials."""
    text = redact(" ".join(str(error).split()))
    known = ("Connection refused", "timed out", "Name or service not known", "Failed to resolve", "SSL")
    return next((phrase for phrase in known if phrase in text), text[:200])


def ui_command(uri: str | None) -> str:
    """Return what a person types in this folder to see the runs; for a server, its address."""
    uri = resolve_uri(uri)
    if uri.startswith(("http://", "https://")):
        return ui_base(uri)
    here = Path.cwd()
    # With runs of an old file store in ./mlruns, plain `mlflow ui` shows those instead.
    if uri == f"sqlite:///{(here / 'mlflow.db').as_posix()}" and not any(here.glob("mlruns/*/meta.yaml")):
        return "mlflow ui"
    return f"mlflow ui --backend-store-uri '{redact(sqlalchemy_uri(uri))}'"


def ui_base(uri: str) -> str:
    """Where the pages are: the server, or for a database what `mlflow ui` will serve."""
    if not uri.startswith(("http://", "https://")):
        return "http://127.0.0.1:5000"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def experiment_url(uri: str, experiment_id: str) -> str:
    """Return the link to an experiment's runs."""
    return f"{ui_base(uri)}/#/experiments/{experiment_id}/runs?{_ML}"


def run_url(uri: str, experiment_id: str, run_id: str) -> str:
    """Return the link to a run."""
    return f"{ui_base(uri)}/#/experiments/{experiment_id}/runs/{run_id}?{_ML}"


def compare_url(uri: str, experiment_id: str, run_ids: list[str]) -> str:
    """Return the link to MLflow's page that compares runs: parallel coordinates, scatter and contour plot."""
    runs, experiments = (quote(json.dumps(ids, separators=(",", ":"))) for ids in (run_ids, [experiment_id]))
    return f"{ui_base(uri)}/#/compare-runs?runs={runs}&experiments={experiments}&{_ML}"


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
            logger.warning("waiting for MLflow, up to %.0f s: %s", patience, error)
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
    import_mlflow()
    from mlflow.exceptions import MlflowException

    shown = redact(uri)
    try:
        port = urlsplit(uri).port or 5000
    except ValueError:
        remedy = "expected http://<user>:<password>@<host>:<port>, with / @ : ? # of a password as %2F %40 %3A %3F %23"
        raise UserError(SETTING, f"{shown} is no address", remedy) from None
    try:
        reply = within(PROBE_SECONDS + _CONNECT_SECONDS, partial(ask_server, uri, PROBE_SECONDS))
    except (MlflowException, TooLateError) as error:
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
        raise UserError(SETTING, f"{redact(uri)} names no file, so nothing would be kept", LEGAL_URIS)
    if not path.parent.is_dir():
        raise UserError(SETTING, f"no folder {path.parent} for {path.name}", "create it, or name another file")
    try:
        header = _try_to_write(path)
    except OSError as error:
        problem = f"{path} cannot be written ({error.strerror})"
        raise UserError(SETTING, problem, "name a file in a folder of your own, with room left") from None
    if header is not None:
        # SQLAlchemy would try ten times, for 100 s, before it says so.
        if header and header != b"SQLite format 3\0":
            raise UserError(SETTING, f"{path} is not an SQLite database", "name another file, or a new one")
        if header:
            _check_schema(path)


def _try_to_write(path: Path) -> bytes | None:
    """The beginning of a database, None of one that is not there yet.

    SQLite needs to write beside it, and MLflow would try for minutes where that fails.

    Raises:
        OSError: It cannot be written.
    """
    prove_writable(path.parent)
    if not path.exists():
        return None
    with path.open("r+b") as file:
        return file.read(16)


def _check_schema(path: Path) -> None:
    """Refuse a store of another MLflow, which this one would change unasked."""
    deadline, is_told = time.monotonic() + LOCK_SECONDS, False
    while True:
        try:
            connection = sqlite3.connect(f"file:{quote(path.as_posix())}?mode=ro", uri=True, timeout=1)
            with contextlib.closing(connection):
                found = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            break
        except sqlite3.Error as error:
            if "no such table" in str(error):  # not MLflow's yet
                return
            if "locked" not in str(error):
                raise UserError(SETTING, f"{path} cannot be read ({error})", "name another file") from None
            if time.monotonic() > deadline:
                problem = f"{path} is locked by another program since more than {LOCK_SECONDS:.0f} s"
                raise UserError(SETTING, problem, "close that program, then run again") from None
        if not is_told:
            logger.warning("another program has locked %s: waiting up to %.0f s for it", path, LOCK_SECONDS)
            is_told = True
    is_older = is_older_schema(found[0]) if found else None
    if is_older:
        raise UserError(
            SETTING,
            f"{path} was written by an older MLflow",
            f"copy it, then `mlflow db upgrade '{sqlalchemy_uri(f'sqlite:///{path}')}'`; or name another file",
        )
    if is_older is not None:
        raise UserError(
            SETTING, f"{path} was written by a newer MLflow", "pip install -U mlflow, or name another file"
        )


def _check_database(uri: str) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    def ask() -> None:
        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()

    try:
        within(_DATABASE_SECONDS, ask)
    except ImportError as error:
        raise UserError(SETTING, f"the driver for {redact(uri)} is missing ({error})", "pip install it") from None
    except (SQLAlchemyError, TooLateError) as error:
        raise UserError(
            SETTING,
            f"{redact(uri)} cannot be reached ({reason(error)})",
            "start the database, or use tracking=none",
        ) from None
