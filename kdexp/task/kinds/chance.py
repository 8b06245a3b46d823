"""Is a teacher better than chance? A test that says no only where it could have said yes.

Cohen's kappa (1960) is how far answers and labels agree beyond what their frequencies alone would bring about. That
it is above 0 is tested by permuting the labels: of two classes exactly (Fisher 1922), of more by random tables with
the same frequencies. A test on few rows, or on rows that are nearly all of one class, finds nothing whoever answers:
its power is that against a teacher who makes half the errors of the most frequent answer.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.01
POWER = 0.9
_NUM_TABLES = 1999
_NUM_TEACHERS = 200
_NUM_TABLES_EACH = 199


@dataclass(frozen=True)
class ChanceTest:
    """Right answers against those that chance would give.

    Attributes:
        num_expected: Right answers of one who answers as often with each class, whatever the row.
        num_frequent: Right answers of one who always says the most frequent class.
        kappa: nan where labels and answers are all of one class.
        p_value: One-sided.
        unit: What is counted, for people.
    """

    num_rows: int
    num_correct: int
    num_expected: float
    num_frequent: int
    kappa: float
    p_value: float
    unit: str = "rows"

    @property
    def is_better(self) -> bool:
        return self.p_value < LEVEL

    @property
    def is_worse(self) -> bool:
        """Whether chance alone would hardly give so few right answers: those of a teacher whose classes are others."""
        return self.p_value > 1 - LEVEL

    def __str__(self) -> str:
        p_value = f"p = {self.p_value:.2g}" if self.p_value >= 0.001 else "p < 0.001"
        kappa = "" if np.isnan(self.kappa) else f"Cohen's kappa {self.kappa + 0.0:.2f}, "
        return (
            f"answers {self.num_correct:,} of {self.num_rows:,} {self.unit} correctly; as many answers of each "
            f"class would be right on {self.num_expected:,.1f} by chance ({kappa}{p_value}), and the most frequent "
            f"class is right on {self.num_frequent:,}"
        )


def chance_test(answers: np.ndarray, labels: np.ndarray, num_classes: int, unit: str = "rows") -> ChanceTest:
    """Test whether answers know more of the labels than their frequencies.

    Args:
        answers, labels: [rows], class indices; at least one row.
        unit: What is counted, for people.
    """
    table = _table(answers, labels, num_classes)
    total, correct = int(table.sum()), int(np.trace(table))
    expected = float(table.sum(axis=0) @ table.sum(axis=1)) / total
    return ChanceTest(
        num_rows=total,
        num_correct=correct,
        num_expected=expected,
        num_frequent=int(table.sum(axis=1).max()),
        kappa=(correct - expected) / (total - expected) if expected < total else np.nan,
        p_value=_p_value(table, _NUM_TABLES, np.random.default_rng(0)),
        unit=unit,
    )


def power(labels: np.ndarray, num_classes: int) -> float:
    """How often the test finds a teacher who makes half the errors of the most frequent answer.

    Each of the teacher's answers is wrong with the same probability, and then any other class; 200 such teachers.

    Args:
        labels: [rows], class indices.
    """
    error_rate = (1 - np.bincount(labels).max() / len(labels)) / 2
    random, found = np.random.default_rng(0), 0
    for _ in range(_NUM_TEACHERS):
        others = (labels + random.integers(1, num_classes, len(labels))) % num_classes
        answers = np.where(random.random(len(labels)) < error_rate, others, labels)
        found += _p_value(_table(answers, labels, num_classes), _NUM_TABLES_EACH, random) < LEVEL
    return found / _NUM_TEACHERS


def _table(answers: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """[classes, classes]: how often each label was answered with each class."""
    return np.bincount(labels * num_classes + answers, minlength=num_classes**2).reshape(num_classes, num_classes)


def _p_value(table: np.ndarray, num_tables: int, random: np.random.Generator) -> float:
    """Of at least as many right answers, with these frequencies of labels and answers; kappa grows with them."""
    from scipy.stats import fisher_exact, random_table  # a quarter of a second to import

    if len(table) == 2:
        return float(fisher_exact(table, alternative="greater").pvalue)
    by_chance = random_table(table.sum(axis=1), table.sum(axis=0))
    # Few at a time where there are many classes: bounds the memory.
    sizes = [min(100, num_tables - start) for start in range(0, num_tables, 100)]
    right = [np.trace(by_chance.rvs(size, random_state=random), axis1=1, axis2=2) for size in sizes]
    return float((1 + (np.concatenate(right) >= np.trace(table)).sum()) / (1 + num_tables))
