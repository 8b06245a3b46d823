"""All that kdexp uses of MLflow and MLflow does not document, tried with MLflow 3.17.

Tests fail when a release moves any of it. What is documented (the client, its entities, `mlflow.pyfunc`) is used
where it is needed in this package.
"""

import json
import logging
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger(__name__)


def import_mlflow() -> None:
    """Import MLflow with everything off that looks at other hosts than the store, or prints."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    # MLflow prints a run's link at its end with the password in it; kdexp prints its own.
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    # By default one call to a server that took the connection and says nothing would wait for 16 minutes and more.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow  # noqa: F401

    # It prints whole tracebacks of what it raises as well, and kdexp tells.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@lru_cache  # each time it reads some seventy files
def is_older_schema(revision: str) -> bool | None:
    """Whether a database with this revision was written by an older MLflow; False is a newer one, None this one."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision

    if revision == _get_latest_schema_revision():
        return None
    known = ScriptDirectory.from_config(_get_alembic_config(db_url="")).walk_revisions()
    return revision in {script.revision for script in known}


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Keep loggers to warnings for a while."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def sqlalchemy_uri(uri: str) -> str:
    """A store's URI as MLflow takes it: SQLAlchemy reads `%20` in the path of a file as a blank since version 2.1."""
    from sqlalchemy.engine import make_url

    path = uri.removeprefix("sqlite:///")
    if path == uri or "%" not in path or make_url(uri).database == path:
        return uri
    return f"sqlite:///{path.replace('%', '%25')}"


@contextmanager
def literal_paths() -> Iterator[None]:
    """Let MLflow open a store where its folder or the working folder has a `%` in its name.

    It would make a folder with the URI's `%25`, and look for artifacts in one whose name it decoded.
    """
    from mlflow.store.db import utils
    from mlflow.tracking._tracking_service.utils import _SERVER_ARTIFACT_ROOT_ENV_VAR

    made, root = utils._make_parent_dirs_if_sqlite, os.environ.get(_SERVER_ARTIFACT_ROOT_ENV_VAR)
    utils._make_parent_dirs_if_sqlite = lambda uri: None
    if root is None and "%" in str(Path.cwd()):
        os.environ[_SERVER_ARTIFACT_ROOT_ENV_VAR] = artifact_root()
    try:
        yield
    finally:
        utils._make_parent_dirs_if_sqlite = made
        if root is None:
            os.environ.pop(_SERVER_ARTIFACT_ROOT_ENV_VAR, None)


def artifact_root() -> str:
    """MLflow's default folder, as a URI where the path would be decoded."""
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH

    folder = Path.cwd() / DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    return folder.as_uri() if "%" in str(folder) else str(DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)


def create_sqlite_store(path: Path) -> None:
    """Create MLflow's tables, unless they are there, such that no process ever sees a half-made store.

    Two processes that initialise one file at the same time make one of them fail ("table experiments already
    exists"), and one that is killed leaves a file that no later run can use. So the tables are made in a file
    of another name, which then gets the store's name in one step.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        if path.exists() and path.stat().st_size:
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        logger.info("Creating the MLflow store %s (once, some seconds)", path)
        unfinished = path.with_name(f".{path.name}.new")
        unfinished.unlink(missing_ok=True)
        uri = sqlalchemy_uri(f"sqlite:///{unfinished.as_posix()}")
        with quiet("mlflow.store.db.utils", "alembic"), literal_paths():
            store = SqlAlchemyStore(uri, artifact_root())
        store._dispose_engine()
        os.replace(unfinished, path)


@dataclass
class RunRow:
    """A run as a database holds it."""

    run_id: str
    name: str
    status: str
    started: int
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def read_sqlite_runs(path: Path, experiment_id: str, tags: Mapping[str, str]) -> list[RunRow]:
    """The runs of an experiment that carry all these tags, oldest first, straight from the tables.

    MLflow's own search takes 4 s of CPU time for 1,000 runs, and this 0.5 s.
    """
    chosen = "SELECT run_uuid FROM runs WHERE experiment_id = ? AND lifecycle_stage = 'active'"
    values: list[object] = [int(experiment_id)]
    for name, value in tags.items():
        chosen += " AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"
        values += [name, value]
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as database:
        database.execute("BEGIN")  # all of it as it is at one moment
        rows = database.execute(
            f"SELECT run_uuid, name, status, start_time FROM runs WHERE run_uuid IN ({chosen}) "
            "ORDER BY start_time, run_uuid",
            values,
        )
        runs = {row[0]: RunRow(*row) for row in rows}
        for run_id, key, value in database.execute(
            f"SELECT run_uuid, key, value FROM params WHERE run_uuid IN ({chosen})", values
        ):
            runs[run_id].params[key] = value
        for run_id, key, value in database.execute(
            f"SELECT run_uuid, key, value FROM tags WHERE run_uuid IN ({chosen})", values
        ):
            runs[run_id].tags[key] = value
        for run_id, key, value, is_nan in database.execute(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE run_uuid IN ({chosen})", values
        ):
            runs[run_id].metrics[key] = math.nan if is_nan else value
    return list(runs.values())


def ask_server(uri: str, seconds: float) -> "Response":
    """What a tracking server answers within so many seconds; MLflow's own client would try for four minutes.

    Raises:
        MlflowException: Nothing answers.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    return http_request(
        get_default_host_creds(uri),
        "/api/2.0/mlflow/experiments/search",
        "POST",
        max_retries=0,
        timeout=seconds,
        raise_on_status=False,
        json={"max_results": 1},
    )


def context_tags() -> dict[str, str]:
    """Who runs this, from which script and commit, as MLflow's own `start_run` would tag it."""
    from mlflow.tracking.context.registry import resolve_tags

    return resolve_tags()


def version_tags(name: str, version: str | int) -> dict[str, str]:
    """By which MLflow's page of a logged model shows what it is registered as."""
    from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

    return {MLFLOW_MODEL_VERSIONS: json.dumps([{"name": name, "version": str(version)}])}


VIEW_SECTION = "kdexp"
_MOST_AXES = 4
_MOST_CURVES = 20


def saved_view(key: str, name: str, state: dict[str, Any]) -> tuple[str, str]:
    """Tag of an experiment, and its value, by which MLflow's pages open a shared view (`viewStateShareKey=<key>`)."""
    now = time.time_ns() // 1_000_000
    value = json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": json.dumps(state)})
    return saved_view_tag(key), value


def saved_view_tag(key: str) -> str:
    """The tag of an experiment under which MLflow's page looks for a saved view."""
    return f"mlflow.sharedViewState.{key}"


def sweep_view(
    parent_id: str | None,
    settings: Sequence[str],
    metrics: Sequence[str],
    contour: tuple[str, str] | None,
    scatters: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """The state of MLflow's pages in which a sweep is best looked at: which runs, which columns, which charts.

    Args:
        settings: Params that the sweep varies: columns, and axes of the parallel coordinates.
        metrics: Names of the columns: what settings are chosen by, what is reported, the gain. MLflow shows columns in
            the order of their names, `kd/gain` before `test/...`: others would push it out of sight.
        contour: The two settings of the contour plot, where the sweep varies two numbers.
        scatters: The two metrics of each scatter chart.
    """
    chosen, found, gain = metrics
    charts: list[dict[str, Any]] = []
    if contour:
        x, y = contour
        for place, shown in enumerate((chosen, found)):
            axes = {
                "xaxis": {"key": x, "type": "PARAM"},
                "yaxis": {"key": y, "type": "PARAM"},
                "zaxis": {"key": shown, "type": "METRIC"},
            }
            charts.append(_chart("CONTOUR", f"contour{place}", **axes))
    for place, (x, y) in enumerate(scatters):
        axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
        charts.append(_chart("SCATTER", f"scatter{place}", **axes))
    charts.append(_chart("BAR", "gain", metricKey=gain))
    if not contour and 1 < len(settings) <= _MOST_AXES:  # of more the labels lie over each other
        shown_axes = {"selectedParams": list(settings), "selectedMetrics": [chosen, gain], "showAllRuns": False}
        charts.append(_chart("PARALLEL", "parallel", **shown_axes))
    curves = {"xAxisKey": "step", "scaleType": "linear", "xAxisScaleType": "linear", "lineSmoothness": 0}
    curves |= {"metricKey": chosen, "selectedMetricKeys": [chosen], "runsCountToCompare": _MOST_CURVES}
    charts.append(_chart("LINE", chosen, **curves))
    condition = f"tags.`mlflow.parentRunId` = '{parent_id}' and " if parent_id else ""
    columns = [f"params.`{name}`" for name in settings] + [f"metrics.`{name}`" for name in metrics]
    return {
        "orderByKey": f"metrics.`{chosen}`",
        "orderByAsc": False,
        "searchFilter": f"{condition}attributes.status = 'FINISHED'",
        "lifecycleFilter": "Active",
        "startTime": "ALL",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": ["attributes.`Duration`", *columns],
        "runsHiddenMode": "SHOW_ALL",
        # Else the sections are sorted by name, and those that MLflow makes of its own come first.
        "isAccordionReordered": True,
        "compareRunSections": [
            {
                "uuid": VIEW_SECTION,
                "name": "sweep",
                "display": True,
                "isReordered": False,
                "columns": 1,  # beside each other labels lie over each other on a small screen
                "cardHeight": 480,
            }
        ],
        "compareRunCharts": charts,
    }


def _chart(kind: str, uuid: str, **fields: Any) -> dict[str, Any]:
    common = {"uuid": uuid, "metricSectionId": VIEW_SECTION, "runsCountToCompare": 100, "deleted": False}
    return {"type": kind, **common, "isGenerated": False, **fields}
