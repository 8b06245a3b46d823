"""Hydra's side of a sweep: which jobs there are, and how the launcher is asked to run them.

The command line imports this module whenever it starts: nothing heavy may be imported here.
"""

import itertools
import logging
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from kdexp.cli.composition import build, register_schemas, resolve
from kdexp.cli.config import PLUGIN_MODULE, SearchConfig
from kdexp.cli.folders import discard
from kdexp.cli.help import GROUPS
from kdexp.cli.hydra_adapter import first_option, is_sequential, one_job_at_a_time, register_sweeper, returned
from kdexp.errors import UserError, under
from kdexp.hardware import available_cores

if TYPE_CHECKING:
    from kdexp.study.launch import Job, Outcome
    from kdexp.study.search import Choice, Interval

logger = logging.getLogger(__name__)


class KdexpSweeper(Sweeper):
    """A grid of the listed values, or where `search` is set, settings that Optuna proposes.

    Its settings are those of `kdexp.cli.config.SweeperConfig`.
    """

    def __init__(
        self, params: DictConfig | None = None, search: DictConfig | None = None, study: str = "grid"
    ) -> None:
        self.params = {str(name): value for name, value in (params or {}).items()}
        self.search, self.study = search, study

    only_plans: ClassVar[bool] = False
    """Whether a sweep tells what it would do, and does nothing."""

    def sweep(self, arguments: list[str]) -> None:
        self._num_parallel(1)  # refuses what the launcher would fail on
        if self.only_plans:
            return self._sweep(self._parse(arguments))
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")  # beside the jobs, as Hydra's own sweeper does
        try:
            self._sweep(self._parse(arguments))
        except UserError:
            if not self._num_launched:
                discard(folder)
            raise

    def _sweep(self, overrides: dict[str, Override]) -> None:
        if self.search is not None:
            self._sweep_search(overrides, self.search)
        elif self.study == "cross_family":
            self._sweep_cross_family(overrides)
        elif self.study == "few_labels":
            self._sweep_few_labels(overrides)
        elif self.study == "choose_student":
            self._sweep_choose_student(overrides)
        else:
            self._sweep_grid(overrides)

    def _sweep_choose_student(self, overrides: dict[str, Override]) -> None:
        from kdexp.study.choose_student.candidates import candidate_overrides
        from kdexp.study.choose_student.study import SWEPT, run_choose_student

        swept, fixed = self._split(overrides)
        base = self.compose(fixed, _first_options(swept))
        if base.config is None:
            raise base.refusal or AssertionError("a job has a config or a refusal")
        jobs: dict[str, list[Job]] = {}
        for name, lines in candidate_overrides(base.config).items():
            for combination in _combinations(swept.values()):
                # What else is swept makes another student of it; seeds are the same one again.
                other = [word for word in combination if not word.startswith("seed=")]
                jobs.setdefault(" ".join([name, *other]), []).append(self.compose(fixed, [*lines, *combination]))
        names = [*SWEPT, *swept]
        if self.only_plans:
            return self._plan([job for candidate in jobs.values() for job in candidate], names, "choose_student")
        run_choose_student(jobs, names, self.launch)

    def _sweep_grid(self, overrides: dict[str, Override]) -> None:
        from kdexp.study.sweep import run_sweep

        swept, fixed = self._split(overrides)
        jobs = [self.compose(fixed, combination) for combination in _combinations(swept.values())]
        if self.only_plans:
            return self._plan(jobs, list(swept), "grid")
        run_sweep(jobs, list(swept), self.launch)

    def _sweep_cross_family(self, overrides: dict[str, Override]) -> None:
        from kdexp.study.cross_family.study import pair_overrides, run_cross_family

        swept, fixed = self._split(overrides)
        base = self.compose(fixed, _first_options(swept))
        if base.config is None:
            raise base.refusal or AssertionError("a job has a config or a refusal")
        jobs = [
            self.compose(fixed, [*pair, *combination])
            for pair in pair_overrides(base.config)
            for combination in _combinations(swept.values())
        ]
        names = ["teacher", "student", "condition", *swept]
        if self.only_plans:
            return self._plan(jobs, names, "cross_family")
        run_cross_family(jobs, names, self.launch)

    def _sweep_few_labels(self, overrides: dict[str, Override]) -> None:
        from kdexp.study.few_labels.study import SWEPT, refuse_several_curves, run_few_labels, rungs

        swept, fixed = self._split(overrides)
        refuse_several_curves(swept)
        base = self.compose(fixed, _first_options(swept))
        if base.config is None:
            raise base.refusal or AssertionError("a job has a config or a refusal")
        ladder = rungs(base.config, fixed)
        # Seed by seed: what is cut off has whole curves.
        jobs = [
            self.compose(fixed, [*rung, *combination])
            for combination in _combinations(swept.values())
            for rung in ladder
        ]
        names = [*SWEPT, *swept]
        if self.only_plans:
            return self._plan(jobs, names, "few_labels")
        run_few_labels(jobs, names, self.launch)

    def _plan(self, jobs: "Sequence[Job]", swept: Sequence[str], kind: str) -> None:
        from kdexp.study.plan import plan

        for line in plan(jobs, swept, kind, num_parallel=self._num_parallel(len(jobs))):
            sys.stdout.write(f"{line}\n")

    def _sweep_search(self, overrides: dict[str, Override], search: DictConfig) -> None:
        from kdexp.study.search import SearchSettings, run_search, search_plan
        from kdexp.study.search_stage import DISTILLATION_ALONE

        with under("hydra.sweeper.search"):
            wished: SearchConfig = build(search)
        space = {
            name: _searched(name, override) for name, override in overrides.items() if override.is_sweep_override()
        }
        fixed = [_line(override) for name, override in overrides.items() if name not in space]
        settings = SearchSettings(
            num_trials=wished.num_trials,
            num_parallel=self._num_parallel(wished.num_trials),
            num_random=wished.num_random,
            prune=wished.prune,
            confirm_seeds=tuple(wished.confirm_seeds),
            seed=wished.seed,
        )
        if self.only_plans:
            for line in search_plan(space, settings):
                sys.stdout.write(f"{line}\n")
            return self._plan([self.compose(fixed, [])], [*space, "seed"], "search")
        alone = [line for line in fixed if not line.startswith(DISTILLATION_ALONE)] + ["loss=ce", "baseline=false"]
        run_search(
            space,
            settings,
            lambda chosen: self.compose(fixed, chosen),
            lambda chosen: self.compose(alone, chosen),
            self.launch,
        )

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._num_launched = 0

    def _parse(self, arguments: list[str]) -> dict[str, Override]:
        """The study's own params, and over them what the command line says, by setting."""
        lines = [f"{setting}={value}" for setting, value in self.params.items()] + arguments
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return {override.get_key_element(): override for override in parser.parse_overrides(lines)}

    def _split(self, overrides: dict[str, Override]) -> tuple[dict[str, Override], list[str]]:
        """Those that the sweep varies by setting, and as typed those that all jobs have in common."""
        swept = {
            name: override
            for name, override in overrides.items()
            if override.is_sweep_override() or name in self.params
        }
        return swept, [_line(override) for name, override in overrides.items() if name not in swept]

    def compose(self, fixed: Sequence[str], chosen: Sequence[str]) -> "Job":
        """One job: what all have in common, and what was chosen for it, which is its name.

        Its config is refused here, before anything starts, where a value is out of range.
        """
        from kdexp.study.launch import Job

        name = " ".join(chosen) or " ".join(fixed) or "all defaults"
        composed = self.hydra_context.config_loader.load_sweep_config(self.config, [*fixed, *chosen])
        with open_dict(composed):
            del composed["hydra"]
        try:
            return Job((*fixed, *chosen), name, resolve(composed), None)
        except UserError as error:
            return Job((*fixed, *chosen), name, None, error)

    def launch(self, jobs: "Sequence[Job]", extra: Sequence[str]) -> "list[Outcome]":
        """Run jobs by Hydra's launcher; one that fails does not stop the others.

        One after the other they are launched one by one, so that each can be announced with the time that is left.
        """
        from kdexp.study.pace import progress_line

        extra = [*extra, *self._share_of_threads(len(jobs))]
        if "***" in str(self.config.tracking.uri):  # a file may say it with the password, which Hydra would write down
            extra.append(f"tracking.uri='{self.config.tracking.uri}'")
        if not is_sequential(self.launcher):
            return self._launch_together(jobs, extra)
        outcomes: list[Outcome] = []
        seconds: list[float] = []
        for place, job in enumerate(jobs, start=1):
            if len(jobs) > 1:
                logger.info(progress_line(place, len(jobs), seconds))
            started = time.monotonic()
            with one_job_at_a_time(self.launcher):
                outcomes += self._launch_together([job], extra)
            seconds.append(time.monotonic() - started)
        return outcomes

    def _launch_together(self, jobs: "Sequence[Job]", extra: Sequence[str]) -> "list[Outcome]":
        from kdexp.study.launch import Outcome

        first = self._num_launched
        self._num_launched += len(jobs)
        ended = self.launcher.launch([[*job.overrides, *extra] for job in jobs], initial_job_idx=first)
        return [
            Outcome(job, None, returned(end)) if end.status == JobStatus.FAILED else Outcome(job, returned(end), None)
            for job, end in zip(jobs, ended, strict=True)
        ]

    def _num_parallel(self, num_jobs: int) -> int:
        """How many of so many jobs the launcher runs side by side on this machine."""
        launcher = self.config.hydra.launcher
        if "n_jobs" in launcher:  # joblib: -1 means all cores, -2 all but one
            number = 1 if launcher.n_jobs is None else launcher.n_jobs
            if number == 0:
                expected = "expected how many jobs run side by side, or -1 for one on every core"
                raise UserError("hydra.launcher.n_jobs", "got 0", expected)
            wished = number if number > 0 else available_cores() + 1 + number
        elif "LocalLauncher" in launcher._target_:  # submitit on this machine
            wished = num_jobs
        else:
            wished = 1
        return max(1, min(wished, num_jobs))

    def _share_of_threads(self, num_jobs: int) -> list[str]:
        """Jobs that run side by side on one machine share its cores: two that take all of them crawl."""
        parallel = self._num_parallel(num_jobs)
        return [f"hardware.num_parallel={parallel}"] if parallel > 1 else []


def _first_options(swept: Mapping[str, Override]) -> list[str]:
    """The first option of each group that a sweep varies."""
    return [_line(first_option(override)) for name, override in swept.items() if name in GROUPS]


def _line(override: Override) -> str:
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _combinations(swept: Iterable[Override]) -> list[tuple[str, ...]]:
    """Every combination of the listed values, each as it would be typed; a single value is a list of one."""
    return list(itertools.product(*(_values(override) for override in swept)))


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [_line(override)]
    if not override.is_discrete_sweep():
        raise UserError(
            override.get_key_element(),
            f"cannot list every value of {override.input_line}",
            "list some (0.1,0.5), or search with experiment=search",
        )
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _searched(name: str, override: Override) -> "Interval | Choice":
    from kdexp.study.search import Choice, Interval

    try:
        match override.value():
            case IntervalSweep(start=low, end=high, tags=tags) if low is not None and high is not None:
                return Interval(float(low), float(high), log="log" in tags)
            case RangeSweep(start=low, stop=above, step=1, tags=tags) if low is not None and above is not None:
                return Interval(int(low), int(above) - 1, log="log" in tags, integer=True)
            case ChoiceSweep(list=values):
                return Choice(tuple(getattr(value, "text", value) for value in values))
    except UserError as error:
        raise UserError(name, f"{override.input_line.partition('=')[2]}: {error.problem}", error.remedy) from None
    raise UserError(
        name,
        f"cannot search {override.input_line}",
        "expected interval(low, high), tag(log, interval(low, high)), range(low, above) or choice(a, b)",
    )


def register() -> None:
    """Tell Hydra all that conf/ needs: the types, and the sweeper."""
    register_schemas()
    register_sweeper(KdexpSweeper, PLUGIN_MODULE)
