"""Hydra's side of a sweep: which jobs there are, and how the launcher is asked to run them.

Hydra accepts sweepers only from the namespace package `hydra_plugins`, and imports this module whenever it starts:
nothing heavy may be imported here.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from kdexp.sweep import Job, Outcome


class KdexpSweeper(Sweeper):
    """What a grid and a search have in common: composing jobs and launching them."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )
        self._num_launched = 0

    def parse(self, params: dict[str, Any], arguments: list[str]) -> dict[str, Override]:
        """The study's own params, and over them what the command line says, by setting."""
        lines = [f"{setting}={value}" for setting, value in params.items()] + arguments
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return {each.get_key_element(): each for each in parser.parse_overrides(lines)}

    def compose(self, overrides: Sequence[str]) -> "Job":
        """One job. Its config is refused here, before anything starts, where a value is out of range."""
        from kdexp.config import resolve
        from kdexp.errors import UserError
        from kdexp.sweep import Job

        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(composed):
            del composed["hydra"]
        changes = [line for line in overrides if not line.startswith("hydra")]
        try:
            return Job(tuple(overrides), " ".join(changes), resolve(composed), None)
        except UserError as error:
            return Job(tuple(overrides), " ".join(changes), None, error)

    def launch(self, jobs: "Sequence[Job]", extra: Sequence[str]) -> "list[Outcome]":
        """Run jobs by Hydra's launcher; one that fails does not stop the others."""
        from kdexp.sweep import Outcome

        extra = [*extra, *self._share_of_threads(len(jobs))]
        first = self._num_launched
        self._num_launched += len(jobs)
        returned = self.launcher.launch([[*job.overrides, *extra] for job in jobs], initial_job_idx=first)
        return [
            Outcome(job, None, each._return_value)
            if each.status == JobStatus.FAILED
            else Outcome(job, each._return_value, None)
            for job, each in zip(jobs, returned, strict=True)
        ]

    def save_config(self) -> None:
        """Leave the sweep's composed config beside its jobs, as Hydra's own sweeper does."""
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")

    def _share_of_threads(self, num_jobs: int) -> list[str]:
        """Jobs that run side by side on one machine share its cores: two that take all of them crawl."""
        launcher, wanted = self.config.hydra.launcher, self.config.hardware.num_threads
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        if "n_jobs" in launcher:
            parallel = launcher.n_jobs if launcher.n_jobs > 0 else cores + 1 + launcher.n_jobs
        elif "LocalLauncher" in launcher._target_:
            parallel = launcher.array_parallelism
        else:
            return []
        parallel = max(1, min(parallel, num_jobs))
        return [] if wanted or parallel == 1 else [f"hardware.num_threads={max(1, cores // parallel)}"]


class GridSweeper(KdexpSweeper):
    """Every combination of the listed values.

    Args:
        params: The study's own values (`loss.alpha: 0,0.5,1`); the command line's replace them.
    """

    def __init__(self, params: DictConfig | None = None) -> None:
        self.params = {str(name): value for name, value in (params or {}).items()}

    def sweep(self, arguments: list[str]) -> None:
        from kdexp.sweep import run_sweep

        overrides = self.parse(self.params, arguments)
        (combinations,) = BasicSweeper.split_arguments(list(overrides.values()), None)
        self.save_config()
        swept = [name for name, each in overrides.items() if each.is_sweep_override() or name in self.params]
        run_sweep([self.compose(each) for each in combinations], swept, self.launch)


@dataclass
class GridSweeperConfig:
    _target_: str = "hydra_plugins.kdexp_sweepers.GridSweeper"
    params: dict[str, Any] | None = field(default_factory=dict)


ConfigStore.instance().store(group="hydra/sweeper", name="kdexp_grid", node=GridSweeperConfig, provider="kdexp")
