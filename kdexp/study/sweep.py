"""One sweep, told from the beginning to the end: every computation once, under one parent run, whatever interrupts it.

A job is known by its `config_hash`. What the store holds as finished under the parent is not run again; what a killed
process left behind is marked KILLED and run again, from its last checkpoint. The parent is known by what the jobs have
in common, so that the same command, or one with other values of the same settings, continues it.
"""

import json
import logging
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdexp.cache import Cache
from kdexp.config import Config, flatten
from kdexp.errors import PrunedError, SweepError, UserError, interrupt
from kdexp.naming import sweep_name
from kdexp.processes import Processes
from kdexp.results.record import RunRecord
from kdexp.study.job import record_failure
from kdexp.study.launch import Job, Launch, Outcome
from kdexp.study.precheck import prechecked
from kdexp.study.sweep_key import find_sweep
from kdexp.tracking.registry import check_registry
from kdexp.tracking.run import RunDescription, TrackedRun, open_run
from kdexp.tracking.store import StoredRun, Study

logger = logging.getLogger(__name__)

JOBS_FILE = "jobs.json"


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
    num_processes = Processes.current().world_size
    if num_processes > 1:
        problem = f"was started in {num_processes} processes of one training"
        raise UserError("--multirun", problem, "start a sweep in one process, or one run in several")
    cache = Cache(Path(_first_legal(jobs).cache_dir))
    cache.ensure_writable()
    jobs = prechecked(jobs, cache)
    base = _first_legal(jobs)
    if not base.tracking.enabled:
        sweep = Sweep(jobs, base, cache)
        yield sweep
        sweep.raise_failures()
        return
    study = _open_study(base)
    key, _ = find_sweep(study, base, swept, kind)
    with cache.lock("sweeps", key.digest):
        study.mark_cut_off(cache)
        earlier = study.runs(sweep_key=key.digest)
        name = sweep_name(base, kind, key.swept)
        description = RunDescription(base.study, name, tags=key.tags | {"kdexp.cache": cache.identity()})
        continued_run = earlier[0].run_id if earlier else None
        with open_run(base.tracking, description, continued_run=continued_run) as parent:
            if earlier:
                title = " x ".join(key.swept) or "one setting"
                logger.info("continues the sweep over %s that began earlier: no finished job is repeated", title)
            sweep = Sweep(jobs, base, cache, study, parent, key.digest, key.swept)
            yield sweep
            _sum_up(study, parent)
            sweep.raise_failures()


def _open_study(base: Config) -> Study:
    if base.tracking.register:
        check_registry(base.tracking.uri, base.tracking.register)
    return Study(base.tracking.uri, base.study)


def _first_legal(jobs: Sequence[Job]) -> Config:
    """The config of the first job that has one and is not refused.

    Raises:
        UserError: There is none: what the first job was refused for.
    """
    legal = next((job.config for job in jobs if job.config and not job.refusal), None)
    if legal is None:
        none = UserError("hydra.sweeper.params", "holds no job", "name some values")
        raise next((job.refusal for job in jobs if job.refusal), none)
    return legal


def _sum_up(study: Study, parent: TrackedRun) -> None:
    # matplotlib is needed only now, not before the first job.
    from kdexp.study.summary.report import log_summary, print_summary
    from kdexp.study.summary.settings import summarize

    parent.flush()  # a study has left its verdict there
    summary = summarize(study, parent.run_id)
    log_summary(summary, parent, study)
    print_summary(replace(summary, verdict=""))  # the study has just printed it


@dataclass
class Sweep:
    """An open sweep: its jobs, and where it is written.

    Attributes:
        base: What the jobs have in common can be read from it: the first legal job's config.
        study: None where nothing is tracked.
        key: What the sweep is known by; see `kdexp.study.sweep_key`.
        swept: Settings that it varies.
    """

    jobs: Sequence[Job]
    base: Config
    cache: Cache
    study: Study | None = None
    parent: TrackedRun = field(default_factory=TrackedRun)
    key: str = ""
    swept: Sequence[str] = ()
    failed: list[Outcome] = field(default_factory=list)
    num_run: int = 0

    @property
    def parent_id(self) -> str:
        return self.parent.run_id

    def distinct_jobs(self) -> list[Job]:
        """The legal jobs, one of each computation; refused ones are recorded as failed."""
        distinct: dict[str, Job] = {}
        for job in self.jobs:
            if job.refusal:
                self._refuse(job, job.refusal)
            else:
                distinct.setdefault(job.config_hash, job)
        num_shared = len(self.jobs) - len(self.failed) - len(distinct)
        if num_shared:
            logger.info(
                "%d jobs, %d computations: %d share one with another job (%s)",
                len(self.jobs),
                len(distinct),
                num_shared,
                _why_shared(self.jobs),
            )
        logger.info("what jobs share (a teacher, its logits, a baseline) is computed once")
        return list(distinct.values())

    def run(self, jobs: Sequence[Job], launch: Launch) -> list[Outcome]:
        """Run those of `jobs` that are not finished; return what became of all of them, in their order."""
        self.num_run += len(jobs)
        outcomes = self._known_outcomes(jobs)
        remaining = [job for job in jobs if job.config_hash not in outcomes]
        names = ",".join(f"'{name}'" for name in self.swept)
        extra = [f"parent_run={self.parent_id}", f"varied=[{names}]"] if self.study else []
        if remaining:
            outcomes |= {outcome.job.config_hash: outcome for outcome in launch(remaining, extra)}
        self.failed += [
            outcome for outcome in outcomes.values() if outcome.error and not isinstance(outcome.error, PrunedError)
        ]
        return [outcomes[job.config_hash] for job in jobs]

    def _known_outcomes(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Of the jobs that are finished already, by the hash of their config."""
        if self.study is None:
            return {}
        self._note(jobs)
        if not self.base.resume:
            return {}
        done = {run.config_hash: run for run in self.study.runs(parent=self.parent_id) if run.is_done}
        outcomes = {
            job.config_hash: _known_outcome(job, done[job.config_hash]) for job in jobs if job.config_hash in done
        }
        num_done = sum(job.config_hash in done for job in jobs)
        if num_done:
            logger.info("%d of %d jobs are finished already (resume=false runs them again)", num_done, len(jobs))
        return outcomes

    def finished_runs(self) -> list[StoredRun]:
        """What the sweep has found, also in earlier commands: of several runs of one computation the latest."""
        if self.study is None:
            return []
        runs = [run for run in self.study.runs(parent=self.parent_id) if run.status == "FINISHED"]
        return list({run.config_hash: run for run in runs}.values())

    def latest_run(self, job: Job) -> StoredRun | None:
        """The last attempt at a job, or None where it left no run."""
        if self.study is None:
            return None
        runs = self.study.runs(parent=self.parent_id, config_hash=job.config_hash)
        return runs[-1] if runs else None

    def raise_failures(self) -> None:
        """Raise SweepError with a line per failed job, if there are any."""
        if not self.failed:
            return
        lines = [f"{outcome.job.name}: {_first_line(outcome.error)}" for outcome in self.failed]
        num_jobs = max(len(self.jobs), self.num_run)  # a search proposes them as it goes
        raise SweepError(
            f"{len(lines)} of {num_jobs} jobs failed:\n  " + "\n  ".join(lines) + "\n"
            "the same command again runs just the jobs that are missing"
        )

    def _refuse(self, job: Job, error: UserError) -> None:
        logger.error("%s: %s", job.name, error)
        self.failed.append(Outcome(job, None, error))
        if self.study:
            tags = {"mlflow.parentRunId": self.parent_id}
            name = job.label(self.swept)
            record_failure(self.study, RunDescription(self.study.name, name, flatten(self.base), tags), error)

    def _note(self, jobs: Sequence[Job]) -> None:
        """Leave in the parent which jobs it is to have: a summary can then name what is missing."""
        assert self.study
        names = {job.config_hash: job.label(self.swept) for job in jobs}
        noted = json.loads(self.study.text_artifact(self.parent_id, JOBS_FILE) or "{}")
        # Of one that a changed or a missing file made another computation, what it is now counts. The rest keep their
        # places, which decide between settings that are equally good.
        noted = {key: name for key, name in noted.items() if key in names or name not in names.values()} | names
        self.parent.log_text(json.dumps(noted, indent=1), JOBS_FILE)


def _why_shared(jobs: Sequence[Job]) -> str:
    if any(job.config is not None and not job.config.loss.uses_logits for job in jobs):
        return "with alpha=1 the temperature and the teacher have no effect"
    return "what differs between them does not change what is computed"


def _known_outcome(job: Job, run: StoredRun) -> Outcome:
    if run.is_pruned:
        return Outcome(job, None, PrunedError(run.tags["kdexp.failure"]))
    return Outcome(job, RunRecord.from_stored(run).score("validation"), None)


def _first_line(error: BaseException | None) -> str:
    text = next(iter(str(error).splitlines()), "")
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"
