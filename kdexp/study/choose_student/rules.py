"""Which student to ship: options by what they cost and how good they are, the front, and the choice on validation.

An option is a student in a format. What it costs (milliseconds for one text on one thread, megabytes on disk) does not
depend on the seed; how good it is does. The choice sees validation alone; test says what it is worth.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kdexp.results.record import RunRecord
from kdexp.results.statistics import PairedDifference, paired_t

LATENCY, SIZE = "p50_ms", "size_mb"


@dataclass(frozen=True)
class Option:
    """A student in a format, over seeds.

    Attributes:
        student: As the study names it.
        latency_ms, size_mb: Of one text on one thread; on disk.
        validation, test, baseline_test, teacher_test: Scores by seed, in one order of the seeds.
    """

    student: str
    file: str
    latency_ms: float
    size_mb: float
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

    def gain(self) -> PairedDifference:
        """Of the file over the same student without a teacher, in points."""
        return _points(self.test, self.baseline_test)

    def behind_teacher(self) -> PairedDifference:
        """The file minus the teacher, in points."""
        return _points(self.test, self.teacher_test)

    def smaller_model(self) -> PairedDifference:
        """The student without a teacher minus the teacher, in points: what the smaller model alone costs."""
        return _points(self.baseline_test, self.teacher_test)


def _points(ones: Sequence[float], others: Sequence[float]) -> PairedDifference:
    return paired_t(100 * (np.asarray(ones) - np.asarray(others)))


def options(records: Mapping[str, Sequence[RunRecord]]) -> list[Option]:
    """Every file of every student.

    Args:
        records: The finished runs of each student, one a seed.
    """
    found = []
    for student, runs in records.items():
        files = [name for name in runs[0].shipped if f"export/{name}" in runs[0].scores]
        for file in files:
            role = f"export/{file}"
            facts = [run.shipped[file].facts for run in runs]
            found.append(
                Option(
                    student,
                    file,
                    float(np.median([item[LATENCY] for item in facts])),
                    float(np.median([item[SIZE] for item in facts])),
                    _scores(runs, "validation", role),
                    _scores(runs, "test", role),
                    _scores(runs, "test", "baseline"),
                    _scores(runs, "test", "teacher"),
                )
            )
    return found


def _scores(runs: Sequence[RunRecord], split: str, role: str) -> list[float]:
    return [float("nan") if (score := run.score(split, role)) is None else score for run in runs]


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


def choose(found: Sequence[Option], latency_ms: float | None, size_mb: float | None) -> Option | None:
    """The best on validation within the budget, the faster of equals; None where nothing is within it."""
    within = [
        option
        for option in found
        if (latency_ms is None or option.latency_ms <= latency_ms) and (size_mb is None or option.size_mb <= size_mb)
    ]
    return max(within, key=lambda option: (option.mean_validation, -option.latency_ms), default=None)
