"""One job, alone or of a sweep, under the lock of its computation."""

import logging
import re
import time
from pathlib import Path

from kdexp.cache import Cache
from kdexp.config import Config, flatten
from kdexp.errors import UserError
from kdexp.identity import config_hash
from kdexp.naming import run_name, run_tags
from kdexp.results.record import RunRecord
from kdexp.run import run
from kdexp.student.train import Watch
from kdexp.tracking.config import TrackingConfig
from kdexp.tracking.run import RunDescription, open_run
from kdexp.tracking.store import Study
from kdexp.tracking.uri import PATIENCE_SECONDS

logger = logging.getLogger(__name__)


def run_job(config: Config) -> RunRecord | None:
    """Run one job, unless another process has finished it in the meantime (then None).

    The job's lock is held meanwhile: two processes that want the same job do it once, and a run that
    the store calls RUNNING though nobody holds its lock is one that was cut off.
    """
    if config.trial is not None and config.parent_run is None:
        raise UserError("trial", f"got {config.trial}", "leave it out: a search sets it for its jobs")
    if not config.tracking.enabled:
        return run(config)
    cache, key = Cache(Path(config.cache_dir)), config_hash(config)
    cache.ensure_writable()
    with cache.lock("jobs", key):
        if config.parent_run is None:
            result = run(config)  # first: what is refused leaves no store behind
            Study(config.tracking.uri, config.study).mark_job_killed(key, cache)
            return result
        return _run_of_sweep(config, key, cache)


def _run_of_sweep(config: Config, key: str, cache: Cache) -> RunRecord | None:
    study = Study(config.tracking.uri, config.study, create=False, patience=PATIENCE_SECONDS)
    if not study.holds(str(config.parent_run)):
        problem = f"{config.parent_run} is no run of the study {study.name}"
        raise UserError("parent_run", problem, "leave it out: a sweep sets it for its jobs")
    study.mark_job_killed(key, cache)
    siblings = [
        earlier
        for earlier in study.runs(config_hash=key)
        if earlier.tags.get("mlflow.parentRunId") == config.parent_run
    ]
    if config.resume and any(sibling.is_done for sibling in siblings):
        logger.info("another process has finished this job")
        return None
    started = time.time_ns() // 1_000_000
    try:
        return run(config, watch=_watch(config))
    except Exception as error:
        if not any(attempt.started >= started for attempt in study.runs(config_hash=key)):
            description = RunDescription(study.name, run_name(config), flatten(config), run_tags(config, cache))
            record_failure(study, description, error)
        raise


def _watch(config: Config) -> Watch | None:
    """What stops a hopeless trial of a search."""
    if config.trial is None:
        return None
    if not re.fullmatch(r"[0-9a-f]{32}-\d+", config.trial):
        raise UserError("trial", f"got {config.trial}", "leave it out: a search sets it for its jobs")
    from kdexp.study.optuna_adapter import TrialReporter  # Optuna is an optional extra

    return TrialReporter(config.trial, Path(config.cache_dir))


def record_failure(study: Study, description: RunDescription, error: BaseException) -> None:
    """Leave a FAILED run for a job that was refused before it had one."""
    try:
        with open_run(TrackingConfig(uri=study.uri), description):
            raise error
    except type(error):
        pass
