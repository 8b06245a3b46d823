"""A dry run: what a command would compute, what is there already, and how long the rest may take."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.results.metric_names import cost_metric
from kdexp.study.pace import duration
from kdexp.study.precheck import prechecked
from kdexp.study.sweep import Job
from kdexp.study.sweep_key import find_sweep
from kdexp.tracking.store import StoredRun, Study

_MOST_JOBS = 30
_SECONDS = cost_metric("seconds")


def plan(jobs: Sequence[Job], swept: Sequence[str], kind: str = "grid", *, num_parallel: int = 1) -> list[str]:
    """The plan in lines; nothing is written but what reading the data keeps in the cache.

    Raises:
        UserError: No job is legal.
    """
    first = next((job.config for job in jobs if job.config), None)
    if first is None:
        raise jobs[0].refusal or UserError("hydra.sweeper.params", "holds no job", "name some values")
    jobs = prechecked(jobs, Cache(Path(first.cache_dir)))
    refused = [job for job in jobs if job.refusal]
    legal = [job for job in jobs if job.config and not job.refusal]
    distinct = {job.config_hash: job for job in reversed(legal)}
    study = _study(legal[0]) if legal else None
    done = _done(study, legal[0], swept, kind) if study else set()
    left = [job for job in legal if distinct[job.config_hash] is job and job.config_hash not in done]
    num_done = sum(key in done for key in distinct)
    lines = [
        f"{len(jobs)} jobs, {len(distinct)} computations: {len(legal) - len(distinct)} share one with another job, "
        f"{num_done} finished already, {len(refused)} refused, {len(left)} to run"
    ]
    if left:
        lines.append(_time(study.runs() if study else [], len(left), num_parallel))
    lines += [f"refused   {job.label(swept)}: {job.refusal}" for job in refused]
    lines += [f"to run    {job.label(swept)}" for job in left[:_MOST_JOBS]]
    return lines + ([f"... and {len(left) - _MOST_JOBS} more"] if len(left) > _MOST_JOBS else [])


def _study(job: Job) -> Study | None:
    """The study as it is in the store, if there is one."""
    assert job.config
    if not job.config.tracking.enabled:
        return None
    try:
        return Study(job.config.tracking.uri, job.config.study, create=False)
    except UserError:
        return None


def _done(study: Study, job: Job, swept: Sequence[str], kind: str) -> set[str]:
    assert job.config
    _, sweep = find_sweep(study, job.config, swept, kind)
    if sweep is None or not job.config.resume:
        return set()
    return {run.config_hash for run in study.runs(parent=sweep.run_id) if run.is_done}


def _time(runs: Sequence[StoredRun], num_left: int, num_parallel: int) -> str:
    seconds = [run.metrics[_SECONDS] for run in runs if _SECONDS in run.metrics]
    if not seconds:
        return "how long it takes is not known: no run of this study is finished yet"
    median = statistics.median(seconds)
    rounds = -(-num_left // num_parallel)
    return (
        f"about {duration(rounds * median)}: "
        f"the median of {len(seconds)} finished runs of this study is {duration(median)}"
    )
