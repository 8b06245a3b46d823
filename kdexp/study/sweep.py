"""One sweep, told from the beginning to the end: every computation once, under one parent run, whatever interrupts it.

A job is known by its `config_hash`. What the store holds as finished under the parent is not run again; what a killed
process left behind is marked KILLED and run again, from its last checkpoint. The parent is known by what the jobs have
in common, so that the same command, or one with other values of the same settings, continues it.
"""

import hashlib
import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdexp.cache import Cache
from kdexp.config import Config, config_hash, flatten
from kdexp.errors import PrunedError, SweepError, UserError, interrupt
from kdexp.naming import run_tags
from kdexp.run import RunResult, run
from kdexp.study.summary import StudySummary, log_summary, print_summary, summarize
from kdexp.tracking.run import PATIENCE_SECONDS, TrackedRun, open_run
from kdexp.tracking.store import StoredRun, Study

logger = logging.getLogger(__name__)

JOBS_FILE = "jobs.json"


@dataclass(frozen=True)
class Job:
    """One setting of a sweep.

    Attributes:
        overrides: What Hydra composes it from.
        name: The same for a person: `loss.alpha=0.5 seed=1`.
        config: None where `refusal` says why there is none.
    """

    overrides: tuple[str, ...]
    name: str
    config: Config | None
    refusal: UserError | None

    @property
    def config_hash(self) -> str:
        return config_hash(self.config) if self.config else ""


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its primary metric on validation, or what it raised."""

    job: Job
    validation: float | None
    error: BaseException | None


Launch = Callable[[Sequence[Job], Sequence[str]], list[Outcome]]
"""Runs jobs, each with further overrides (`parent_run=...`), and waits for all of them."""


def run_sweep(jobs: Sequence[Job], swept: Sequence[str], launch: Launch) -> None:
    """Run every job that is not finished yet, and sum up what all of them found.

    Args:
        swept: Settings that the sweep varies (`loss.alpha`, `seed`, ...).

    Raises:
        UserError: No job is legal, or the store or the cache cannot be used.
        SweepError: Some jobs failed.
    """
    with open_sweep(jobs, swept) as sweep:
        sweep.run(sweep.distinct_jobs(), launch)


@contextmanager
def open_sweep(jobs: Sequence[Job], swept: Sequence[str], kind: str = "grid") -> Iterator["Sweep"]:
    """Open the parent run, continue an earlier one of the same sweep, and close it with the summary.

    Raises:
        UserError: No job is legal, or the store or the cache cannot be used.
        SweepError: Some jobs failed.
    """
    signal.signal(signal.SIGTERM, interrupt)
    base = next((job.config for job in jobs if job.config), None)
    if base is None:
        raise jobs[0].refusal or UserError("hydra.sweeper.params", "holds no job", "name some values")
    cache = Cache(Path(base.cache_dir))
    cache.ensure_writable()
    if not base.tracking.enabled:
        sweep = Sweep(jobs, swept, base, cache, None, TrackedRun(None, "", "", ""), "")
        yield sweep
        sweep.raise_failures()
        return
    study = Study(base.tracking.uri, base.study)
    key = _sweep_key(base, swept, kind)
    with cache.lock("sweeps", key):
        _mark_cut_off(study, cache)
        earlier = study.runs(sweep_key=key)
        with open_run(
            uri=base.tracking.uri,
            study=base.study,
            run_name=f"{kind}  {' x '.join(swept)}",
            params={},
            tags={
                "kdexp.sweep_key": key,
                "kdexp.swept": ",".join(swept),
                "kdexp.cache": cache.identity(),
            },
            continued_run=earlier[0].run_id if earlier else None,
        ) as parent:
            if earlier:
                logger.info("continues the sweep that began earlier: its finished jobs are not repeated")
            sweep = Sweep(jobs, swept, base, cache, study, parent, key)
            yield sweep
            parent.flush()
            summary = summarize(study, parent.run_id)
            log_summary(summary, parent, study)
            print_summary(summary)
            sweep.raise_failures()


class Sweep:
    """An open sweep: its jobs, and where it is written."""

    def __init__(
        self,
        jobs: Sequence[Job],
        swept: Sequence[str],
        base: Config,
        cache: Cache,
        study: Study | None,
        parent: TrackedRun,
        key: str,
    ) -> None:
        self.jobs, self.swept, self.base, self.cache = jobs, swept, base, cache
        self.study, self.parent, self.key = study, parent, key
        self.parent_id = parent.run_id
        self.failed: list[Outcome] = []

    def distinct_jobs(self) -> list[Job]:
        """The legal jobs, one of each computation; refused ones are recorded as failed."""
        distinct: dict[str, Job] = {}
        num_without_teacher = 0
        for job in self.jobs:
            if job.refusal:
                self._refuse(job, job.refusal)
                continue
            assert job.config
            num_without_teacher += not job.config.loss.uses_teacher
            distinct.setdefault(job.config_hash, job)
        num_shared = len(self.jobs) - len(self.failed) - len(distinct)
        if num_shared:
            logger.info(
                "%d jobs, %d computations: %d share one with another job "
                "(with alpha=1 the temperature and the teacher have no effect)",
                len(self.jobs),
                len(distinct),
                num_shared,
            )
        logger.info("the teacher, its logits and each seed's baseline are computed once for all jobs")
        return list(distinct.values())

    def run(self, jobs: Sequence[Job], launch: Launch) -> list[Outcome]:
        """Run those of `jobs` that are not finished; return what became of all of them, in their order."""
        todo = list(jobs)
        extra: list[str] = []
        outcomes: dict[str, Outcome] = {}
        if self.study:
            self._note(jobs)
            extra = [f"parent_run={self.parent_id}"]
            if self.base.resume:
                done = {each.config_hash: each for each in self.study.runs(parent=self.parent_id) if _is_done(each)}
                todo = [job for job in jobs if job.config_hash not in done]
                outcomes = {
                    job.config_hash: _known_outcome(job, done[job.config_hash]) for job in jobs if job not in todo
                }
                if len(todo) < len(jobs):
                    logger.info(
                        "%d of %d jobs are finished already (resume=false runs them again)",
                        len(jobs) - len(todo),
                        len(jobs),
                    )
        if todo:
            outcomes |= {each.job.config_hash: each for each in launch(todo, extra)}
        self.failed += [each for each in outcomes.values() if each.error and not isinstance(each.error, PrunedError)]
        return [outcomes[job.config_hash] for job in jobs]

    def raise_failures(self) -> None:
        """Raise SweepError with a line per failed job, if there are any."""
        if not self.failed:
            return
        lines = [f"{each.job.name}: {_first_line(each.error)}" for each in self.failed]
        raise SweepError(
            f"{len(lines)} of {len(self.jobs)} jobs failed:\n  " + "\n  ".join(lines) + "\n"
            "the same command again runs just the jobs that are missing"
        )

    def _refuse(self, job: Job, error: UserError) -> None:
        logger.error("%s: %s", job.name, error)
        self.failed.append(Outcome(job, None, error))
        if self.study:
            _record_failure(self.base, self.study, job.name, {"mlflow.parentRunId": self.parent_id}, error)

    def _note(self, jobs: Sequence[Job]) -> None:
        """Leave in the parent which jobs it is to have: a summary can then name what is missing."""
        assert self.study
        noted = json.loads(self.study.text_artifact(self.parent_id, JOBS_FILE) or "{}")
        noted |= {job.config_hash: job.name for job in jobs}
        self.parent.log_text(json.dumps(noted, indent=1), JOBS_FILE)


def run_job(config: Config) -> RunResult | None:
    """Run one job of a sweep, unless another process has finished it in the meantime (then None).

    The job's lock is held meanwhile: two processes that want the same job do it once, and a run that
    the store calls RUNNING though nobody holds its lock is one that was cut off.
    """
    if not config.tracking.enabled:
        return run(config)
    cache, key = Cache(Path(config.cache_dir)), config_hash(config)
    cache.ensure_writable()
    with cache.lock("jobs", key):
        if config.parent_run is None:
            result = run(config)  # first: what is refused leaves no store behind
            _mark_killed(Study(config.tracking.uri, config.study), key, cache)
            return result
        study = Study(config.tracking.uri, config.study, patience=PATIENCE_SECONDS)
        _mark_killed(study, key, cache)
        earlier = study.runs(config_hash=key)
        siblings = [each for each in earlier if each.tags.get("mlflow.parentRunId") == config.parent_run]
        if config.resume and any(_is_done(each) for each in siblings):
            logger.info("another process has finished this job")
            return None
        started = time.time_ns() // 1_000_000
        try:
            return run(config)
        except Exception as error:
            if not any(each.started >= started for each in study.runs(config_hash=key)):
                _record_failure(config, study, "refused", run_tags(config, cache), error)
            raise


def _mark_killed(study: Study, key: str, cache: Cache) -> None:
    """Mark what others left of a job whose lock this process holds."""
    for each in study.runs(config_hash=key, cache=cache.identity()):
        if each.status == "RUNNING":
            study.mark_killed(each)


def _record_failure(config: Config, study: Study, name: str, tags: dict[str, str], error: BaseException) -> None:
    """Leave a FAILED run for a job that was refused before it had one."""
    try:
        with open_run(uri=study.uri, study=study.name, run_name=name, params=flatten(config), tags=tags):
            raise error
    except type(error):
        pass


def _known_outcome(job: Job, run: StoredRun) -> Outcome:
    if "kdexp.pruned" in run.tags:
        return Outcome(job, None, PrunedError(run.tags["kdexp.failure"]))
    return Outcome(job, run.metrics[f"validation/{run.tags['kdexp.primary_metric']}"], None)


def _is_done(run: StoredRun) -> bool:
    return run.status == "FINISHED" or "kdexp.pruned" in run.tags


def _mark_cut_off(study: Study, cache: Cache) -> None:
    """Mark as KILLED what the store calls RUNNING though the process is gone: nobody holds its lock."""
    for each in study.runs(cache=cache.identity()):
        if each.status != "RUNNING":
            continue
        kind, key = ("jobs", each.config_hash) if each.config_hash else ("sweeps", each.tags["kdexp.sweep_key"])
        with cache.lock(kind, key, wait=False) as is_free:
            if is_free:
                study.mark_killed(each)


def _sweep_key(base: Config, swept: Sequence[str], kind: str) -> str:
    """What the jobs have in common: the settings that the sweep does not vary."""

    def is_swept(name: str) -> bool:
        return any(name == setting or name.startswith(f"{setting}.") for setting in swept)

    irrelevant = (
        "tracking.",
        "hardware.num_",
        "cache_dir",
        "resume",
        "parent_run",
        "trial",
        "families",
        "cross_family.",
    )
    common = {
        name: value for name, value in flatten(base).items() if not is_swept(name) and not name.startswith(irrelevant)
    }
    parts = json.dumps([kind, common, sorted(swept)], sort_keys=True)
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def _first_line(error: BaseException | None) -> str:
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


def summarize_study(uri: str | None, name: str, cache_dir: str) -> list[StudySummary]:
    """Sum up every sweep of a study as far as it is, the latest last; a study without one as a whole."""
    study = Study(uri, name, create=False)
    _mark_cut_off(study, Cache(Path(cache_dir).expanduser()))
    sweeps = [each.run_id for each in study.runs() if "kdexp.sweep_key" in each.tags]
    return [summarize(study, parent) for parent in sweeps] or [summarize(study, None)]
