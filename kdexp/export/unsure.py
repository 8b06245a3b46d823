"""Answers that a person should look at, and what that threshold would have meant on validation."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kdexp.errors import UserError


@dataclass(frozen=True)
class Unsure:
    """A threshold of the score.

    Attributes:
        coverage, accuracy: On validation, the share of rows at or above it, and the share of these that were right;
            None where there were none.
    """

    threshold: float
    coverage: float
    accuracy: float | None

    @classmethod
    def of(cls, folder: Path, threshold: float) -> "Unsure":
        """With what the student in a folder knows of itself.

        Raises:
            UserError: It does not: its answers have no score, or it was logged by an earlier version.
        """
        table = json.loads((folder / "student.json").read_text(encoding="utf-8")).get("sureness")
        if not table:
            problem = "this student does not say how sure it is (numbers have no score; nor do earlier students)"
            raise UserError("--unsure", problem, "leave it out, or train the student again")
        rows, right = table["rows"], table["right"]
        steps = len(rows) - 1
        place = round(threshold * steps)
        if abs(place - threshold * steps) > 1e-6:
            raise UserError(
                "--unsure", f"got {threshold}", f"expected at most three decimals, such as {place / steps}"
            )
        return cls(threshold, rows[place] / rows[0], right[place] / rows[place] if rows[place] else None)

    def marks(self, answers: Any) -> list[bool]:
        """Which rows a person should look at.

        Args:
            answers: A student's, as a table.
        """
        return [bool(score < self.threshold) for score in row_scores(answers)]

    def line(self, num_unsure: int, num_rows: int) -> str:
        """What was marked, and what the threshold is worth."""
        right = "" if self.accuracy is None else f", and {self.accuracy:.1%} of these were right"
        return (
            f"{num_unsure:,} of {num_rows:,} rows are unsure (score below {self.threshold:g}); "
            f"on validation {self.coverage:.1%} of rows were not{right}"
        )


def row_scores(answers: Any) -> np.ndarray:
    """How sure each row is, [rows]: of classes the score, of words the lowest, of several labels the least sure one.

    As `TaskKind.row_scores` counts it on validation.
    """
    if "score" in answers:
        return answers["score"].to_numpy()
    if "scores" in answers:
        told = [[score for score in row if score is not None] for row in answers["scores"]]
        return np.array([min(row, default=1.0) for row in told])
    names = [name for name in answers if name.startswith("probability_")]
    probabilities = answers[names].to_numpy()
    told = [[name.removeprefix("probability_") in labels for name in names] for labels in answers["labels"]]
    return np.where(np.array(told, dtype=bool).reshape(probabilities.shape), probabilities, 1 - probabilities).min(
        axis=1
    )
