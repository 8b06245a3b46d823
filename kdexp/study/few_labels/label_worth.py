"""How many labelled rows a teacher is worth: a learning curve read backwards."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdexp.results.record import RunRecord
from kdexp.results.roles import PSEUDO_LABELS, Role
from kdexp.tracking.store import StoredRun

_CURVES: dict[str, Role] = {
    "baseline": "baseline",
    "pseudo_labels": PSEUDO_LABELS,
    "distilled": "student",
    "teacher": "teacher",
}
_GRID = 2000
"""Numbers of rows, equally far apart in their logarithms, that are tried for the interval."""


@dataclass(frozen=True)
class Rows:
    """A number of labelled rows, or on which side of the curve it lies.

    Attributes:
        number: None where it lies outside of what was measured: with `is_more`, more than the largest number of rows
            reaches; otherwise fewer than the smallest one.
    """

    number: float | None
    is_more: bool = False


@dataclass(frozen=True)
class Worth:
    """How many labelled rows without a teacher do as well as the distilled student.

    Attributes:
        low, high: Of the 95 % interval; None where seeds give no estimate of chance.
    """

    rows: Rows
    low: Rows | None = None
    high: Rows | None = None


def worth(sizes: Sequence[int], baseline: np.ndarray, distilled: np.ndarray) -> Worth:
    """Invert the baseline's learning curve.

    The curve is the isotonic mean over seeds (more labels do not harm) over the logarithm of the number of rows;
    between the sizes a monotone cubic (Fritsch & Carlson 1980), because straight lines cut the bends of a learning
    curve and lose coverage there. The interval holds all numbers n at which the paired 95 % t interval over seeds of
    distilled minus baseline(n) contains 0 (the inversion of a test: Fieller 1954); its spread is that of the seeds'
    own curves at n, since what a seed draws is common to its students. It reaches from the least such number to the
    largest, and holds what was found.

    Args:
        sizes: Numbers of labelled rows, ascending, two or more.
        baseline: [seeds, sizes], scores on test, larger is better.
        distilled: [seeds], scores on test of the students that a teacher helped, of the same seeds.
    """
    from scipy.interpolate import PchipInterpolator
    from scipy.optimize import isotonic_regression

    places = np.log(np.asarray(sizes, dtype=float))
    grid = np.linspace(places[0], places[-1], _GRID)
    curve = PchipInterpolator(places, isotonic_regression(baseline.mean(axis=0)).x)(grid)
    value = _inverse(grid, curve, float(distilled.mean()))
    if len(distilled) < 2:
        return Worth(value)
    differences = distilled[:, None] - np.stack([np.interp(grid, places, scores) for scores in baseline])
    if np.ptp(differences, axis=0).max() < 1e-12:
        return Worth(value)
    within = grid[np.abs(distilled.mean() - curve) <= _half_width(differences)]
    if not len(within):  # far beyond one end
        return Worth(value, value, value)
    low = Rows(None) if within[0] == grid[0] else Rows(float(np.exp(within[0])))
    high = Rows(None, is_more=True) if within[-1] == grid[-1] else Rows(float(np.exp(within[-1])))
    # Where seeds differ much on few rows and little on many, what is found may lie outside of these numbers.
    return Worth(value, min(low, value, key=_order), max(high, value, key=_order))


def _order(rows: Rows) -> float:
    """From fewer than measured to more than measured."""
    if rows.number is not None:
        return rows.number
    return np.inf if rows.is_more else -np.inf


def _half_width(differences: np.ndarray, level: float = 0.95) -> np.ndarray:
    """[numbers], of the t interval over seeds.

    Args:
        differences: [seeds, numbers]
    """
    from scipy.special import stdtrit

    seeds = len(differences)
    return stdtrit(seeds - 1, (1 + level) / 2) * differences.std(axis=0, ddof=1) / np.sqrt(seeds)


def _inverse(places: np.ndarray, curve: np.ndarray, score: float) -> Rows:
    """The fewest rows that reach a score.

    Args:
        places: Logarithms of numbers of rows.
        curve: Scores there, which do not fall.
    """
    if score < curve[0]:
        return Rows(None)
    if score > curve[-1]:
        return Rows(None, is_more=True)
    first = int(np.searchsorted(curve, score))
    if first == 0:
        return Rows(float(np.exp(places[0])))
    return Rows(float(np.exp(np.interp(score, curve[first - 1 : first + 1], places[first - 1 : first + 1]))))


@dataclass(frozen=True)
class Ladder:
    """What was measured: scores on test.

    Attributes:
        sizes: Numbers of labelled rows, ascending; the last one is all.
        seeds: Those that finished every rung.
        scores: [seeds, sizes] by curve; nan where there is none: on all labels there is only the baseline.
        left_out: Seeds that did not finish every rung.
    """

    metric: str
    sizes: list[int]
    seeds: list[int]
    scores: dict[str, np.ndarray]
    left_out: list[int]

    @classmethod
    def of(cls, runs: Sequence[StoredRun]) -> "Ladder":
        records = {
            (int(run.tags["kdexp.train_rows"]), int(run.params["seed"])): RunRecord.from_stored(run) for run in runs
        }
        sizes = sorted({size for size, _ in records})
        seeds = sorted({seed for _, seed in records})
        complete = [seed for seed in seeds if all((size, seed) in records for size in sizes)]
        scores = {
            name: np.array(
                [_score(records[size, seed], role) for seed in complete for size in sizes], dtype=float
            ).reshape(len(complete), len(sizes))
            for name, role in _CURVES.items()
        }
        # On all labels there is only the baseline.
        of_all = {size for (size, _), record in records.items() if record.settings.get("loss.alpha") == "1"}
        for name in set(_CURVES) - {"baseline"}:
            scores[name][:, [sizes.index(size) for size in of_all]] = np.nan
        left_out = [seed for seed in seeds if seed not in complete]
        return cls(next(iter(records.values())).metric, sizes, complete, scores, left_out)

    def worth(self) -> dict[int, Worth]:
        """By number of labelled rows."""
        distilled = self.scores["distilled"]
        return {
            size: worth(self.sizes, self.scores["baseline"], distilled[:, place])
            for place, size in enumerate(self.sizes)
            if not np.isnan(distilled[:, place]).any()
        }


def _score(record: RunRecord, role: Role) -> float:
    score = record.score("test", role)
    return np.nan if score is None else score
