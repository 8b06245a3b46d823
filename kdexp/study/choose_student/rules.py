"""Which student to ship: options by what they cost and how good they are, the front, and the choice on validation.

An option is a student in a format. What it costs (milliseconds for one text on one thread, megabytes on disk) does not
depend on the seed; how good it is does. The choice sees validation alone; test says what it is worth. Those compete
that are finished on every planned seed, by the rules of `kdexp/study/summary/choice.py`.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdexp.export.config import BudgetConfig
from kdexp.results.record import RunRecord
from kdexp.results.roles import file_role
from kdexp.results.statistics import PairedDifference, paired_t
from kdexp.study.summary.choice import Candidate, choose

LATENCY, SIZE = "p50_ms", "size_mb"


@dataclass(frozen=True)
class Option:
    """A student in a format, over seeds.

    Attributes:
        student: As the study names it.
        latency_ms, size_mb: Of one text on one thread; on disk.
        seeds: Those that are finished.
        validation, test, baseline_test, teacher_test: Scores in the order of the seeds.
    """

    student: str
    file: str
    latency_ms: float
    size_mb: float
    seeds: Sequence[str]
    validation: Sequence[float]
    test: Sequence[float]
    baseline_test: Sequence[float]
    teacher_test: Sequence[float]

    @property
    def name(self) -> str:
        return f"{self.student}, {self.file}"

    @property
    def mean_validation(self) -> float:
        return float(np.mean(self.validation))

    @property
    def mean_test(self) -> float:
        return float(np.mean(self.test))

    def score(self) -> PairedDifference:
        """On test, in percent, with its interval over seeds."""
        return paired_t(100 * np.asarray(self.test))

    def gain(self) -> PairedDifference:
        """Of the file over the same student without a teacher, in points."""
        return _points(self.test, self.baseline_test)

    def behind_teacher(self) -> PairedDifference:
        """The file minus the teacher, in points."""
        return _points(self.test, self.teacher_test)

    def smaller_model(self) -> PairedDifference:
        """The student without a teacher minus the teacher, in points: what the smaller model alone costs."""
        return _points(self.baseline_test, self.teacher_test)

    def fits(self, budget: BudgetConfig) -> bool:
        """Whether it costs no more than the budget has."""
        limits = ((self.latency_ms, budget.latency_ms), (self.size_mb, budget.size_mb))
        return all(limit is None or cost <= limit for cost, limit in limits)


def _points(ones: Sequence[float], others: Sequence[float]) -> PairedDifference:
    return paired_t(100 * (np.asarray(ones) - np.asarray(others)))


def options(records: Mapping[str, Sequence[RunRecord]]) -> list[Option]:
    """Every file of every student.

    Args:
        records: The finished runs of each student, one a seed.
    """
    found = []
    for student, runs in records.items():
        files = [name for name in runs[0].shipped if all(file_role(name) in run.scores for run in runs)]
        for file in files:
            role = file_role(file)
            facts = [run.shipped[file].facts for run in runs]
            found.append(
                Option(
                    student,
                    file,
                    float(np.median([item[LATENCY] for item in facts])),
                    float(np.median([item[SIZE] for item in facts])),
                    [run.settings.get("seed", "") for run in runs],
                    _scores(runs, "validation", role),
                    _scores(runs, "test", role),
                    _scores(runs, "test", "baseline"),
                    _scores(runs, "test", "teacher"),
                )
            )
    return found


def _scores(runs: Sequence[RunRecord], split: str, role: str) -> list[float]:
    return [float("nan") if (score := run.score(split, role)) is None else score for run in runs]


def complete(found: Sequence[Option], planned: Collection[str]) -> list[Option]:
    """Those that are finished on every planned seed; all of them where none is."""
    return [option for option in found if set(planned) <= set(option.seeds)] or list(found)


def front(found: Sequence[Option], cost: str) -> list[Option]:
    """Those that no other beats: on validation at least as good and no more costly, and better in one of both.

    Args:
        cost: `latency_ms` or `size_mb`.
    """

    def is_beaten(option: Option) -> bool:
        mine = (option.mean_validation, -getattr(option, cost))
        others = [(other.mean_validation, -getattr(other, cost)) for other in found if other is not option]
        return any(good >= mine[0] and cheap >= mine[1] and (good, cheap) != mine for good, cheap in others)

    return sorted((option for option in found if not is_beaten(option)), key=lambda option: getattr(option, cost))


@dataclass(frozen=True)
class Chosen:
    """What was chosen.

    Attributes:
        near: Within one paired standard error of it on validation, and faster or smaller: as good, as far as these
            seeds tell.
    """

    option: Option
    near: Sequence[Option]


def choose_option(found: Sequence[Option], budget: BudgetConfig, planned: Collection[str] = ()) -> Chosen | None:
    """The best on validation within the budget, the faster of equals; None where nothing is within it.

    Args:
        planned: The seeds that each was to have.
    """
    within = [option for option in found if option.fits(budget)]
    if not within:
        return None
    candidates = [
        # Of equal ones the rules prefer fewer steps of training; here it is the time to answer that counts.
        Candidate(dict(zip(option.seeds, option.validation, strict=True)), option.latency_ms)
        for option in within
    ]
    choice = choose(candidates, planned)
    winner = within[choice.winner]
    as_good = [within[place] for place in (*choice.tied, *choice.near)]
    cheaper = [item for item in as_good if item.latency_ms < winner.latency_ms or item.size_mb < winner.size_mb]
    return Chosen(winner, cheaper)
