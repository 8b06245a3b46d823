"""What can be set of a sweep (`hydra.sweeper`)."""

from dataclasses import dataclass, field
from typing import Any

from kdexp.ranges import Checked, NaturalNumber, PositiveInt, Seed

PLUGIN_MODULE = "hydra_plugins.kdexp"
"""The name by which Hydra knows kdexp/cli/sweeper.py."""


@dataclass(kw_only=True)
class SearchConfig(Checked):
    """A search in place of a grid; see `kdexp.study.search.SearchSettings`."""

    num_trials: PositiveInt = 24
    num_random: NaturalNumber = 8
    prune: bool = True
    confirm_seeds: list[Seed] = field(default_factory=lambda: [1, 2, 3])
    seed: Seed = 0


@dataclass(kw_only=True)
class SweeperConfig:
    """A sweep.

    Attributes:
        params: The study's own values (`loss.alpha: 0,0.5,1`, or for a search `interval(0, 1)`); what the command line
            says replaces them.
        search: Settings that Optuna proposes, in place of a grid of the listed values.
        study: `grid`; `cross_family`, the grid for every pair of families; or `few_labels`, for every number of
            labelled rows.
    """

    _target_: str = f"{PLUGIN_MODULE}.KdexpSweeper"
    params: dict[str, Any] | None = field(default_factory=dict)
    search: SearchConfig | None = None
    study: str = "grid"
