"""Which setting is chosen on validation: who competes, who wins, and who is as good; docs/statistics.md has the rules.

1. Those compete that are finished on every planned seed. Where none is, the seeds that all have are compared.
2. The highest mean on validation wins. Of equal ones it is the one with fewer optimizer steps, then the one that the
   sweep has first.
3. One whose mean lies within one paired standard error of the winner's is as good as far as these seeds tell.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

# Below this a difference of means is the rounding of float64.
_EQUAL = 1e-12


@dataclass(frozen=True)
class Candidate:
    """One setting, as far as it is finished.

    Attributes:
        validation: Primary metric by seed; at least one.
        steps: Optimizer steps of one training; nan where they are not known.
    """

    validation: Mapping[object, float]
    steps: float = np.nan

    def mean(self, seeds: Collection[object]) -> float:
        return float(np.mean([self.validation[seed] for seed in seeds]))


@dataclass(frozen=True)
class Choice:
    """What was chosen; candidates by their places.

    Attributes:
        seeds: On which the candidates were compared.
        is_complete: These are all that were planned.
        competing: From the best to the worst, the winner first.
        tied: Have the winner's mean; fewer steps, or the order of the sweep, decided against them.
        near: Within one paired standard error of the winner, those that are tied left out.
        incomplete: Lack a seed on which the others were compared.
    """

    seeds: tuple[object, ...]
    is_complete: bool
    competing: tuple[int, ...]
    tied: tuple[int, ...]
    near: tuple[int, ...]
    incomplete: tuple[int, ...]

    @property
    def winner(self) -> int:
        return self.competing[0]

    def renumbered(self, places: Mapping[int, int]) -> "Choice":
        """The same by other places: `places[old]` is the new one."""
        competing, tied, near, incomplete = (
            tuple(places[place] for place in old) for old in (self.competing, self.tied, self.near, self.incomplete)
        )
        return replace(self, competing=competing, tied=tied, near=near, incomplete=incomplete)


def choose(candidates: Sequence[Candidate], planned: Collection[object]) -> Choice:
    """Choose by the rules of this module.

    Args:
        candidates: At least one, in the order of the sweep.
        planned: The seeds that each was to have; those that a candidate has count as planned too.
    """
    planned = {*planned, *(seed for candidate in candidates for seed in candidate.validation)}
    seeds = planned
    if not any(candidate.validation.keys() == planned for candidate in candidates):
        seeds = _common(candidates)
    places = [place for place, candidate in enumerate(candidates) if seeds <= candidate.validation.keys()]
    means = {place: candidates[place].mean(seeds) for place in places}
    best = max(means.values())
    equal = [place for place in places if means[place] > best - _EQUAL]
    winner = min(equal, key=lambda place: (_steps(candidates[place]), place))
    competing = [winner, *sorted((place for place in places if place != winner), key=lambda place: -means[place])]
    return Choice(
        seeds=tuple(sorted(seeds, key=str)),
        is_complete=seeds == planned,
        competing=tuple(competing),
        tied=tuple(place for place in equal if place != winner),
        near=tuple(
            place
            for place in competing[1:]
            if place not in equal and _is_near(candidates[winner], candidates[place], seeds)
        ),
        incomplete=tuple(place for place in range(len(candidates)) if place not in means),
    )


def _common(candidates: Sequence[Candidate]) -> set[object]:
    """The seeds that all have; where there are none, the one that most have."""
    common = set.intersection(*(set(candidate.validation) for candidate in candidates))
    if common:
        return common
    had = [seed for candidate in candidates for seed in candidate.validation]
    return {min(had, key=lambda seed: (-had.count(seed), str(seed)))}


def _steps(candidate: Candidate) -> float:
    return np.inf if np.isnan(candidate.steps) else candidate.steps


def _is_near(winner: Candidate, other: Candidate, seeds: Collection[object]) -> bool:
    differences = np.array([winner.validation[seed] - other.validation[seed] for seed in seeds])
    if len(differences) < 2:
        return False
    return float(differences.mean()) <= float(differences.std(ddof=1) / np.sqrt(len(differences)))
