"""A search in place of a grid: Optuna proposes settings, hopeless ones are stopped early, the best is confirmed.

The baseline is searched as the student is: one that was not tuned makes any student that was look good.

Hydra's own Optuna plugin requires an Optuna below 3, whose database layer fails with today's SQLAlchemy; this is
the small part of it that a search needs, on today's Optuna. The study is kept in an SQLite file under the
cache, so that the same command continues it.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdexp.config import Config
from kdexp.errors import PrunedError, UserError
from kdexp.results.metric_names import metric_name
from kdexp.study.launch import Job, Launch, Outcome
from kdexp.study.search_stage import DISTILLATION_ALONE, baseline_key
from kdexp.study.sweep import Sweep, open_sweep
from kdexp.tracking.store import StoredRun

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

Compose = Callable[[Sequence[str]], Job]

_OF_THE_TEACHER = (*DISTILLATION_ALONE, "teacher", "more_teachers", "tokenization", "train.transfer_")


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


def refuse_illegal(space: Mapping[str, Interval | Choice], compose: Compose) -> None:
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
        confirm_seeds: The best settings of student and baseline are trained again with these: the trials that won were
            also lucky.
        seed: Of the sampler.
    """

    num_trials: int
    num_parallel: int
    num_random: int
    prune: bool
    confirm_seeds: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Side:
    """What is searched: the distilled student, or its baseline.

    Attributes:
        name: For people.
        compose: Makes a job of the settings that were chosen for it.
        space: What may be set, by setting.
        key: Names its study, and begins the names of its trials.
    """

    name: str
    compose: Compose
    space: Mapping[str, Interval | Choice]
    key: str


def run_search(
    space: Mapping[str, Interval | Choice],
    settings: SearchSettings,
    compose: Compose,
    compose_baseline: Compose,
    launch: Launch,
) -> None:
    """Search on validation (TPE, Bergstra et al. 2011) for student and baseline alike, and sum it up.

    Both have as many trials, each over the settings that it has. The best of both, and what was set before, are
    trained again with seeds that chose nothing.

    Args:
        space: What may be set, by setting.
        compose, compose_baseline: Make a job of the settings that were chosen for it.

    Raises:
        UserError: Optuna is not installed, or the settings cannot be used.
        SweepError: Some trials failed.
    """
    base = compose([])
    if base.config:
        refuse_illegal(space, compose)
        _refuse_unfit(base.config, space, settings)
    with open_sweep([base], [*space, "seed"], "search") as sweep:
        student = Side("student", compose, space, sweep.key)
        baseline = Side("baseline", compose_baseline, baseline_space(space), baseline_key(sweep.key))
        best = {side.name: _find_best(sweep, side, settings, launch) for side in (student, baseline)}
        seeds = [f"seed={seed}" for seed in settings.confirm_seeds]
        jobs = [
            side.compose([*chosen, seed])
            for side in (student, baseline)
            if (chosen := best[side.name]) is not None
            for seed in seeds
        ]
        if best["student"] is not None:
            jobs += [compose([seed]) for seed in seeds]
        if jobs:
            sweep.run(list({job.config_hash: job for job in jobs}.values()), launch)


def baseline_space(space: Mapping[str, Interval | Choice]) -> dict[str, Interval | Choice]:
    """Settings that a student without a teacher has too."""
    return {name: kind for name, kind in space.items() if not name.startswith(_OF_THE_TEACHER)}


def search_plan(space: Mapping[str, Interval | Choice], settings: SearchSettings) -> list[str]:
    """What a search would do, in lines."""
    shared = baseline_space(space)
    as_many = f"as many of the baseline over {', '.join(shared)}" if shared else "the baseline has none of them"
    seeds = ", ".join(map(str, settings.confirm_seeds)) or "none"
    return [
        f"a search of {settings.num_trials} trials over {', '.join(space)}; {as_many}",
        f"then the best of both, and what was set before, with seeds {seeds}",
    ]


def _refuse_unfit(config: Config, space: Mapping[str, Interval | Choice], settings: SearchSettings) -> None:
    if not config.tracking.enabled:
        raise UserError("tracking", "is off, and a search is read from it", "remove tracking=none")
    if not config.baseline:
        problem = "is false, but a search compares the student with a baseline that is searched as well"
        raise UserError("baseline", problem, "leave it out")
    if not config.loss.uses_teacher and not any(name.startswith("loss") for name in space):
        problem = "has no teacher, so that the student is its own baseline"
        raise UserError("loss", problem, "choose another, such as loss=kd")
    chose = space["seed"].samples() if "seed" in space else [config.seed]
    shared = sorted(set(settings.confirm_seeds) & set(chose))
    if shared:
        problem = (
            f"has {', '.join(map(str, shared))}, with which the trials are trained: it would confirm its own luck"
        )
        raise UserError("hydra.sweeper.search.confirm_seeds", problem, "name other seeds")


def _find_best(sweep: Sweep, side: Side, settings: SearchSettings, launch: Launch) -> list[str] | None:
    """The best settings on validation, as overrides; None where no trial succeeded."""
    if not side.space:
        logger.info("%s: has none of the settings that are searched", side.name)
        return []
    title = sweep.base.study if side.key == sweep.key else f"{sweep.base.study}, {side.name}"
    study = _open_study(sweep, settings, side.key, f"{title}: {' x '.join(side.space)}")
    _free_cut_off(study)
    while (num_left := settings.num_trials - _num_done(study)) > 0:
        trials = [study.ask(_distributions(side.space)) for _ in range(min(settings.num_parallel, num_left))]
        jobs = [side.compose(_trial_overrides(trial, side.key)) for trial in trials]
        outcomes = {outcome.job.config_hash: outcome for outcome in sweep.run(jobs, launch)}
        for trial, job in zip(trials, jobs, strict=True):
            _link(study, trial, sweep.latest_run(job))
            _tell(study, trial, outcomes[job.config_hash])
    done = [trial for trial in study.trials if trial.value is not None]
    if not done:
        return None
    best = _overrides(study.best_trial.params)
    logger.info("%s: best of %d trials on validation: %s", side.name, len(done), " ".join(best))
    return best


def _open_study(sweep: Sweep, settings: SearchSettings, key: str, name: str) -> "optuna.Study":
    """Begin the study, or open it again.

    Args:
        key: Names its file.
        name: Of a study that begins; one that an earlier version began keeps its own.
    """
    try:
        import optuna

        from kdexp.study.optuna_adapter import pruner, storage, study_name
    except ImportError:
        raise UserError("experiment", "a search needs Optuna", "pip install 'kdexp[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    place = storage(sweep.cache.root, key)
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
        logger.info("continues a search; trials so far: %d", len(study.trials))
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
