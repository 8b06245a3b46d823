"""A file of answers: which column is which class, what its numbers are, and what is wrong with its rows.

Whatever the file holds becomes one row of float32 logits or log-probabilities for each text, by the text's key. What
was found on the way is counted, and told.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.task.split import id_keys, write_split
from kdexp.task.tables.file import read_table
from kdexp.task.tables.table import Table, row_ids, shorten
from kdexp.teacher.base import Scale
from kdexp.teacher.config import PredictionsTeacherConfig, Values
from kdexp.teacher.predictions.scores import Question, ScoreFile

_SUM_TOLERANCE = 1e-3
"""How far probabilities may be from a sum of one by rounding: files are often written with three or four digits."""


class ScoreReader:
    """One reading of one file.

    Args:
        scratch: A folder for the columns that are read.
    """

    def __init__(self, role: str, settings: PredictionsTeacherConfig, question: Question, scratch: Path) -> None:
        self.role, self.settings, self.question, self.scratch = role, settings, question, scratch
        self.path = Path(settings.path).expanduser()
        self.notes: list[str] = []

    def read(self) -> ScoreFile:
        names = self._table("names", []).names
        texts = self._id_column(names) or self._text_columns(names)
        if self.settings.label is not None:
            wanted, values_of = [self.settings.label, *self._confidence_column()], self._from_labels
        else:
            wanted, values_of = self._class_columns(names), self._from_columns
        table = self._table("columns", [*texts, *wanted])
        self.notes += table.notes
        values, scale = values_of(table, wanted)
        keys = self._keys(table, texts)
        answered = ~np.isnan(values).any(axis=1)
        self._note(len(values) - int(answered.sum()), "rows have no answer and count as missing")
        keys, values = self._each_once(keys[answered], values[answered], scale)
        return ScoreFile(
            keys, torch.from_numpy(values.astype(np.float32)), scale, self.notes, by_id=self.settings.id is not None
        )

    def refusal(self, setting: str, problem: str, remedy: str) -> UserError:
        return UserError(f"{self.role}.{setting}", problem, remedy)

    def _note(self, count: int, what: str) -> None:
        if count:
            self.notes.append(f"{self.path.name}: {count:,} {what}")

    def _table(self, name: str, columns: Sequence[str]) -> Table:
        return read_table(self.path, columns, self.scratch / f"{name}.arrow", setting=f"{self.role}.path")

    def _id_column(self, names: Sequence[str]) -> list[str]:
        name = self.settings.id
        if name is not None and name not in names:
            raise self.refusal("id", f"no column '{name}' in {self.path}", f"there are: {shorten(names)}")
        return [] if name is None else [name]

    def _text_columns(self, names: Sequence[str]) -> list[str]:
        text = self.settings.text
        if text is None:
            text = ["text", "text_pair"] if self.question.is_pair else ["text"]
        columns = [str(name) for name in text] if isinstance(text, list | tuple) else [str(text)]
        expected = 2 if self.question.is_pair else 1
        if len(columns) != expected:
            problem = f"names {len(columns)} columns, but the task's rows have {expected} text(s)"
            raise self.refusal("text", problem, "name as many as task.text does")
        missing = [name for name in columns if name not in names]
        if missing:
            problem = f"no column '{missing[0]}' in {self.path} to join it by"
            raise self.refusal("text", problem, f"name the column of the text; there are: {shorten(names)}")
        return columns

    def _class_columns(self, names: Sequence[str]) -> list[str]:
        """The column of each output, in order."""
        columns, classes = self.settings.columns, self.question.names
        if isinstance(columns, Mapping):
            named = {str(name): str(column) for name, column in columns.items()}
            found = [named.get(name, "") for name in classes]
        elif columns is not None:
            found = [f"{columns}{name}" for name in classes]
        else:
            found = [f"{self._prefix(names)}{name}" for name in classes]
        missing = [(name, column) for name, column in zip(classes, found, strict=True) if column not in names]
        if missing:
            name, column = missing[0]
            problem = f"no column '{column}' for the class {name}" if column else f"no column for the class {name}"
            remedy = f"give {self.role}.columns={{class: column}}, or what stands before each class's name; "
            raise self.refusal("columns", f"{problem} in {self.path}", f"{remedy}the columns are: {shorten(names)}")
        return found

    def _prefix(self, names: Sequence[str]) -> str:
        """What stands before the class in the names of the columns: `probability_`, or nothing."""
        classes = self.question.names
        first = classes[0]
        prefixes = [name.removesuffix(first) for name in names if name.endswith(first)]
        whole = [prefix for prefix in prefixes if all(f"{prefix}{name}" in names for name in classes)]
        if len(whole) > 1:
            shown = ", ".join(f"'{prefix}'" for prefix in whole)
            problem = f"{self.path} has columns for every class more than once, beginning with {shown}"
            raise self.refusal("columns", problem, f"choose one: {self.role}.columns={whole[0] or chr(39) * 2}")
        return whole[0] if whole else ""

    def _from_columns(self, table: Table, columns: Sequence[str]) -> tuple[np.ndarray, Scale]:
        values = np.stack([self._numbers(table, name) for name in columns], axis=1)
        kind = self._kind_of(values)
        if self.question.outputs == Outputs.number or kind == Values.logits:
            return values, Scale.logits
        if kind == Values.log_probabilities:
            above = (values > _SUM_TOLERANCE).any(axis=1)
            self._refuse_some(above, "rows have log-probabilities above 0", "are they logits?")
            values = np.exp(np.minimum(values, 0.0))
        outside = ((values < 0) | (values > 1 + _SUM_TOLERANCE)).any(axis=1)
        self._refuse_some(outside, "rows hold numbers that are no probabilities", "are they logits?")
        if self.question.outputs == Outputs.yes_no:
            return self._odds(values), Scale.logits
        return self._normalised(values), Scale.log_probabilities

    def _refuse_some(self, wrong: Any, what: str, question: str) -> None:
        if wrong.any():
            problem = f"{int(wrong.sum()):,} of {len(wrong):,} {what} in {self.path}, first row {wrong.argmax() + 1}"
            raise self.refusal("values", problem, f"{question} Say so with {self.role}.values=logits")

    def _kind_of(self, values: np.ndarray) -> Values:
        """What the numbers are, where nobody has said so."""
        if self.settings.values != Values.auto or self.question.outputs == Outputs.number:
            return self.settings.values
        whole = values[~np.isnan(values).any(axis=1)]
        low, high = (whole.min(), whole.max()) if len(whole) else (0.0, 1.0)
        if low >= 0 and high <= 1:
            found = Values.probabilities
            is_sure = self._share_near(whole.sum(axis=1), 1.0) >= 0.9 or self.question.outputs == Outputs.yes_no
        elif high <= 0:
            found = Values.log_probabilities
            is_sure = self._share_near(np.exp(whole).sum(axis=1), 1.0) >= 0.9
        else:
            found, is_sure = Values.logits, True
        if not is_sure:
            problem = f"{self.path} holds numbers from {low:.3g} to {high:.3g} that do not sum to one"
            remedy = "logits, probabilities (made to sum to one) or log_probabilities"
            raise self.refusal("values", f"{problem}: what are they", f"say it with {self.role}.values: {remedy}")
        self.notes.append(f"{self.path.name}: read as {found.value.replace('_', '-')}, by their range")
        return found

    @staticmethod
    def _share_near(sums: np.ndarray, one: float) -> float:
        return float((np.abs(sums - one) <= 10 * _SUM_TOLERANCE).mean()) if len(sums) else 1.0

    def _normalised(self, values: np.ndarray) -> np.ndarray:
        """Log-probabilities, [rows, outputs], of probabilities that may sum to something else."""
        values = np.clip(values, 0.0, 1.0)
        sums = values.sum(axis=1)
        nothing = sums == 0
        off = (np.abs(sums - 1) > _SUM_TOLERANCE) & ~nothing
        if off.any():
            low, high = sums[off].min(), sums[off].max()
            self._note(int(off.sum()), f"rows sum to something else than 1 ({low:.3g} to {high:.3g}): scaled to 1")
        self._note(int(nothing.sum()), "rows give no class any probability and count as missing")
        with np.errstate(invalid="ignore", divide="ignore"):
            values = values / sums[:, None]
        self._note_floor(values < self.settings.floor)
        values = np.maximum(values, self.settings.floor)  # nan stays nan
        return np.log(values / values.sum(axis=1, keepdims=True))

    def _odds(self, values: np.ndarray) -> np.ndarray:
        """Logits of probabilities for each label by itself."""
        floor = self.settings.floor
        self._note_floor((values < floor) | (values > 1 - floor))
        values = np.clip(values, floor, 1 - floor)
        return np.log(values) - np.log1p(-values)

    def _note_floor(self, floored: np.ndarray) -> None:
        self._note(
            int(floored.sum()),
            f"probabilities in {int(floored.any(axis=1).sum()):,} rows are nearer to "
            f"certain than {self.settings.floor:g}, and are taken for that",
        )

    def _confidence_column(self) -> list[str]:
        confidence = self.settings.confidence
        return [confidence] if isinstance(confidence, str) else []

    def _from_labels(self, table: Table, columns: Sequence[str]) -> tuple[np.ndarray, Scale]:
        """The label has its confidence, every other class an equal share of the rest."""
        if self.question.outputs != Outputs.classes:
            problem = "a label with a confidence says which one of several classes it is"
            raise self.refusal("label", problem, "this task asks for something else: give a column for each output")
        labels = list(table.column(columns[0], f"{self.role}.label"))
        places = {name: index for index, name in enumerate(self.question.names)}
        missing = np.array([label is None or str(label).strip() == "" for label in labels])
        chosen = np.array([places.get(str(label).strip(), -1) for label in labels])
        unknown = (chosen < 0) & ~missing
        if unknown.any():
            first = labels[int(unknown.argmax())]
            problem = f"{int(unknown.sum()):,} rows of {self.path} have a label that is no class: '{first!s:.40}'"
            raise self.refusal("label", problem, f"the classes are: {shorten(self.question.names)}")
        if isinstance(self.settings.confidence, str):
            confidence = self._numbers(table, self.settings.confidence)
        else:
            confidence = np.full(len(labels), float(self.settings.confidence))
        outside = (confidence < 0) | (confidence > 1)
        if outside.any():
            problem = f"{int(outside.sum()):,} rows of {self.path} have a confidence outside of 0 to 1"
            raise self.refusal("confidence", problem, "expected the probability of the label")
        num_classes = len(places)
        values = np.repeat(((1 - confidence) / (num_classes - 1))[:, None], num_classes, axis=1)
        values[np.arange(len(labels)), np.maximum(chosen, 0)] = confidence
        values[missing] = np.nan
        self.notes.append(
            f"{self.path.name}: a label with a confidence: the rest is shared out evenly among the other classes"
        )
        return self._normalised(values), Scale.top_class

    def _numbers(self, table: Table, name: str) -> np.ndarray:
        """[rows], float64; nan where a cell is empty."""
        column = table.column(name, f"{self.role}.columns")
        parts: list[np.ndarray] = []
        for batch in column.batches():
            try:
                parts.append(_floats(batch))
            except _NoNumberError as error:
                row = sum(map(len, parts)) + error.place
                problem = f"{column.where(row)}: column '{name}' holds {batch[error.place]!r:.40s}, not a number"
                remedy = "write one finite number in each cell, or leave it empty"
                raise self.refusal("columns", problem, remedy) from None
        return np.concatenate(parts)

    def _keys(self, table: Table, texts: Sequence[str]) -> np.ndarray:
        if self.settings.id is not None:
            return id_keys(row_ids(table.column(self.settings.id, f"{self.role}.id"), f"{self.role}.id"))
        columns = [table.column(name, f"{self.role}.text") for name in texts]
        for column in columns:
            for row, value in enumerate(column):
                if not isinstance(value, str):
                    problem = f"{column.where(row)}: column '{column.name}' holds {value!r:.40s}, not a text"
                    raise self.refusal("text", problem, "every row needs the text that it answers")
        return write_split(self.scratch / "texts.arrow", [([column.batches() for column in columns], None)]).text_keys

    def _each_once(self, keys: np.ndarray, values: np.ndarray, scale: Scale) -> tuple[np.ndarray, np.ndarray]:
        """One answer for each text: the mean of those that it has, of probabilities where they are such."""
        unique, first, places, counts = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        if len(unique) == len(keys):
            return unique, values[first]
        differ = np.abs(values - values[first][places]).max(axis=1) > 1e-6
        self._note(
            len(keys) - len(unique),
            "rows are of a text that the file answers already"
            + (f", {int(differ.sum()):,} of them otherwise: the mean is taken" if differ.any() else ""),
        )
        summed = np.exp(values) if scale != Scale.logits else values
        totals = np.zeros((len(unique), values.shape[1]))
        np.add.at(totals, places, summed)
        means = totals / counts[:, None]
        return unique, np.log(means) if scale != Scale.logits else means


class _NoNumberError(Exception):
    def __init__(self, place: int) -> None:
        super().__init__(place)
        self.place = place


def _floats(values: Sequence[Any]) -> np.ndarray:
    """Numbers, or the words of a text file for them; nan for an empty cell.

    Raises:
        _NoNumberError: A cell holds something else.
    """
    filled = [np.nan if value is None or value == "" else value for value in values]
    try:
        numbers = np.array(filled, dtype=np.float64)
    except (TypeError, ValueError):
        raise _NoNumberError(next(place for place, value in enumerate(filled) if not _is_number(value))) from None
    if (numbers == np.inf).any():
        raise _NoNumberError(int((numbers == np.inf).argmax()))
    return numbers


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
