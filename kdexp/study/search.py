"""A search in place of a grid: Optuna proposes settings, hopeless ones are stopped early, the best is confirmed.

Hydra's own Optuna plugin requires an Optuna below 3, whose database layer fails with today's SQLAlchemy; this is
the small part of it that a search needs, on today's Optuna. The study is kept in an SQLite file under the
cache, so that the same command continues it.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdexp.errors import PrunedError, UserError
from kdexp.results.record import metric_name
from kdexp.study.launch import Job, Launch, Outcome
from kdexp.study.sweep import Sweep, open_sweep
from kdexp.tracking.store import StoredRun

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interval:
    """Numbers from low to high, both included; `log` searches their orders of magnitude.

    Raises:
        UserError: There are none.
    """

    low: float
    high: float
    log: bool = False
    integer: bool = False

    def __post_init__(self) -> None:
        if not -math.inf < self.low <= self.high < math.inf:
            expected = "expected two finite numbers, the lower one first"
            raise UserError("interval", f"{self.low:g} to {self.high:g} holds no numbers", expected)
        if self.log and self.low <= 0:
            problem = f"{self.low:g} to {self.high:g} has no orders of magnitude"
            raise UserError("interval", problem, "begin above 0, or search it without log")

    def samples(self) -> list[float]:
        """Both ends, and one in between that is no round number."""
        inside = self.low + 0.3721 * (self.high - self.low)
        return [self.low, self.high, int(inside) if self.integer else inside]


@dataclass(frozen=True)
class Choice:
    """One of these."""

    values: tuple[Any, ...]

    def samples(self) -> list[Any]:
        return list(self.values)


def refuse_illegal(space: Mapping[str, Interval | Choice], compose: Callable[[Sequence[str]], Job]) -> None:
    """Refuse what no trial could set, before the first one starts.

    Raises:
        UserError: A value is out of its setting's range.
    """
    for name, kind in space.items():
        for value in kind.samples():
            refusal = compose(_overrides({name: value})).refusal
            if refusal:
                raise refusal


@dataclass(frozen=True)
class SearchSettings:
    """How to search.

    Attributes:
        num_trials: Settings to try, those of earlier calls of the same search included.
        num_parallel: Trials proposed at a time, for launchers that run jobs side by side.
        num_random: First trials that are drawn at random, before TPE proposes.
        prune: Stop a trial whose validation metric after some epoch is below the median of the earlier trials'.
        confirm_seeds: The best setting is trained again with these seeds, with its baseline: the trial
            that won was also lucky.
        seed: Of the sampler.
    """

    num_trials: int
    num_parallel: int
    num_random: int
    prune: bool
    confirm_seeds: tuple[int, ...]
    seed: int


def run_search(
    space: Mapping[str, Interval | Choice],
    settings: SearchSettings,
    compose: Callable[[Sequence[str]], Job],
    launch: Launch,
) -> None:
    """Search the space on validation (TPE, Bergstra et al. 2011), confirm the best setting, and sum it up.

    Args:
        space: What may be set, by setting.
        compose: Makes a job of the settings that were chosen for it.

    Raises:
        UserError: Optuna is not installed, or the settings cannot be used.
        SweepError: Some trials failed.
    """
    base = compose([])
    if base.config:
        refuse_illegal(space, compose)
    if base.config and not base.config.tracking.enabled:
        raise UserError("tracking", "is off, and a search is read from it", "remove tracking=none")
    with open_sweep([base], [*space, "seed"], "search") as sweep:
        study = _open_study(sweep, settings, f"{sweep.base.study}: {' x '.join(space)}")
        _free_cut_off(study)
        while (num_left := settings.num_trials - _num_done(study)) > 0:
            trials = [study.ask(_distributions(space)) for _ in range(min(settings.num_parallel, num_left))]
            jobs = [compose(_trial_overrides(trial, sweep.key)) for trial in trials]
            outcomes = {outcome.job.config_hash: outcome for outcome in sweep.run(jobs, launch)}
            for trial, job in zip(trials, jobs, strict=True):
                _link(study, trial, sweep.latest_run(job))
                _tell(study, trial, outcomes[job.config_hash])
        done = [trial for trial in study.trials if trial.value is not None]
        if done:
            best = study.best_trial
            logger.info("best of %d trials on validation: %s", len(done), " ".join(_overrides(best.params)))
            seeds = [f"seed={seed}" for seed in settings.confirm_seeds]
            sweep.run([compose([*_overrides(best.params), seed]) for seed in seeds], launch)


def _open_study(sweep: Sweep, settings: SearchSettings, name: str) -> "optuna.Study":
    """Begin the study, or open it again.

    Args:
        name: Of a study that begins; one that an earlier version began keeps its own.
    """
    try:
        import optuna

        from kdexp.study.optuna_adapter import pruner, storage, study_name
    except ImportError:
        raise UserError("experiment", "a search needs Optuna", "pip install 'kdexp[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = storage(sweep.cache.root, sweep.key)
    study = optuna.create_study(
        study_name=study_name(place, name),
        storage=place,
        direction="maximize",
        pruner=pruner(settings.prune),
        load_if_exists=True,
    )
    study.set_user_attr("prune", settings.prune)
    study.set_user_attr("mlflow_parent_run_id", sweep.parent_id)
    logger.info("Optuna's study '%s' is kept in %s", study.study_name, place)
    # A continued search with the same seed would propose its first points again.
    study.sampler = optuna.samplers.TPESampler(
        seed=(settings.seed + len(study.trials)) % 2**32, n_startup_trials=settings.num_random, multivariate=True
    )
    if study.trials:
        logger.info("continues a search of %d trials", len(study.trials))
    return study


def _free_cut_off(study: "optuna.Study") -> None:
    """Trials that a killed process left behind are tried again first: their checkpoints are still there."""
    from optuna.trial import TrialState

    for trial in study.get_trials(states=[TrialState.RUNNING]):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)


def _num_done(study: "optuna.Study") -> int:
    """Trials that need not be run again; failed ones count, or a search that always fails would never end."""
    from optuna.trial import TrialState

    states = [TrialState.COMPLETE, TrialState.PRUNED]
    failed = [trial for trial in study.get_trials(states=[TrialState.FAIL]) if "error" in trial.user_attrs]
    return len(study.get_trials(states=states)) + len(failed)


def _distributions(space: Mapping[str, Interval | Choice]) -> dict[str, Any]:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    distributions: dict[str, Any] = {}
    for name, kind in space.items():
        match kind:
            case Choice(values):
                distributions[name] = CategoricalDistribution(values)
            case Interval(low, high, log, True):
                distributions[name] = IntDistribution(int(low), int(high), log=log)
            case Interval(low, high, log, False):
                distributions[name] = FloatDistribution(low, high, log=log)
    return distributions


def _trial_overrides(trial: "optuna.Trial", key: str) -> list[str]:
    from kdexp.study.optuna_adapter import trial_name

    return [*_overrides(trial.params), "baseline=false", f"trial={trial_name(key, trial.number)}"]


def _overrides(params: Mapping[str, Any]) -> list[str]:
    """Params as a person would type them: four digits are finer than any of them matters."""
    return [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in params.items()]


def _link(study: "optuna.Study", trial: "optuna.Trial", run: StoredRun | None) -> None:
    """Say which run in MLflow a trial is, and what is measured."""
    from kdexp.study.optuna_adapter import name_metric

    if run is None:  # it was refused
        return
    trial.set_user_attr("mlflow_run_id", run.run_id)
    if "kdexp.primary_metric" in run.tags:
        name_metric(study, metric_name("validation", run.tags["kdexp.primary_metric"]))


def _tell(study: "optuna.Study", trial: "optuna.Trial", outcome: Outcome) -> None:
    from optuna.trial import TrialState

    if outcome.validation is not None:
        study.tell(trial, outcome.validation)
    elif isinstance(outcome.error, PrunedError):
        study.tell(trial, state=TrialState.PRUNED)
    else:
        trial.set_user_attr("error", str(outcome.error))
        study.tell(trial, state=TrialState.FAIL)
