"""Load a distilled student that was logged to MLflow, and predict with it.

A copy of this file travels inside every logged student, next to the weights, and is what
`mlflow.pyfunc.load_model` runs. So it imports nothing from kdexp: it must load on a machine where kdexp is
not installed. The folder it reads holds only safetensors and JSON.
"""

import importlib
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoTokenizer

SETTINGS_FILE = "student.json"
BATCH_SIZE = 32

_TEXT, _PAIR = "text", "text_pair"
_FORMS = {
    False: "texts, or a table with the column 'text'",
    True: "pairs (first, second), or a table with the columns 'text' and 'text_pair'",
    None: "texts, pairs (first, second), or a table with the columns 'text' and, for pairs, 'text_pair'",
}
_EVALUATORS = tuple(f"mlflow.models.evaluation.evaluators.{kind}" for kind in ("classifier", "regressor"))


class InputError(MlflowException, ValueError):
    """What was sent cannot be read. As an invalid parameter it is the client's fault: a server answers 400."""


class Student:
    """A student with its own tokenizer, its class names and the length it was trained at."""

    model_class: Any = AutoModelForSequenceClassification

    def __init__(self, folder: str) -> None:
        settings = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
        self.label_names: list[str] = settings["label_names"]
        self.max_length: int = settings["max_length"]
        self.kind: str = settings.get("kind", "single_label")
        self.thresholds: list[float] = settings.get("thresholds", [0.0] * len(self.label_names))
        """Of several labels: logits above which each is told, chosen on the validation rows."""
        self.is_pair: bool | None = settings.get("is_pair")
        """Whether it was trained on pairs; None where that is not known, and both are read."""
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if "architecture" in settings:  # of kdexp's own: a module beside this one, which tells transformers of it
            importlib.import_module(settings["architecture"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = self.model_class.from_pretrained(folder, local_files_only=True)
        self.model = model.to(self.device).eval()
        # Numbers are answered standardised.
        self.mean: float = getattr(model.config, "label_mean", 0.0)
        self.scale: float = getattr(model.config, "label_scale", 1.0)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> "pd.DataFrame | pd.Series":
        """Classify texts.

        Args:
            model_input: One text; texts or (first, second) pairs as a list, array or Series; rows as dictionaries; or
                a table: a DataFrame or a dictionary of columns, with `text` and, for pairs, `text_pair`.
            params: Not used; MLflow passes it.

        Returns:
            One row per text, in their order and with the index of a DataFrame or Series. Of classes `label`, `score`
            (the probability of that label), and `probability_<class>` for every class; of several labels `labels` (a
            list of those above their thresholds) and `probability_<label>`; of numbers `value`, in the unit of the
            labels that it was trained on. MLflow's evaluators of classifiers and of regressors, which take one
            column, are given the labels or the numbers.

        Raises:
            InputError: The input is none of these; a ValueError.
        """
        first, second = _texts(model_input, self.is_pair)
        rows = self._answers(self._logits(first, second))
        if isinstance(model_input, pd.DataFrame | pd.Series):
            rows.index = model_input.index
        return rows[rows.columns[0]] if _is_evaluated() else rows

    def _answers(self, logits: torch.Tensor) -> pd.DataFrame:
        """What is told of each row: the case of the task's kind.

        Args:
            logits: [rows, outputs]
        """
        match self.kind:
            case "single_label":
                return _classes(logits, self.label_names)
            case "multi_label":
                return _label_sets(logits, self.label_names, self.thresholds)
            case "regression":
                return pd.DataFrame({"value": logits[:, 0].double().numpy() * self.scale + self.mean})
            case _:
                raise MlflowException(f"students of the kind {self.kind} are not answered by this version")

    def _logits(self, first: list[str], second: list[str] | None) -> torch.Tensor:
        """[rows, outputs]"""
        logits = []
        for start in range(0, len(first), BATCH_SIZE):
            stop = start + BATCH_SIZE
            batch = self.tokenizer(
                first[start:stop],
                second[start:stop] if second is not None else None,
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                logits.append(self.model(**batch).logits.float().cpu())
        return torch.cat(logits) if logits else torch.zeros(0, len(self.label_names))


def _classes(logits: torch.Tensor, names: list[str]) -> pd.DataFrame:
    """Of classes of which one is right: `label`, `score`, `probability_<class>`."""
    scores = logits.softmax(dim=-1)
    rows = pd.DataFrame(scores.numpy(), columns=[f"probability_{name}" for name in names])
    rows.insert(0, "label", [names[index] for index in scores.argmax(dim=-1).tolist()])
    rows.insert(1, "score", scores.amax(dim=-1).numpy())
    return rows


def _label_sets(logits: torch.Tensor, names: list[str], thresholds: list[float]) -> pd.DataFrame:
    """Of several labels: `labels`, a list for each row, and `probability_<label>`."""
    told = logits.double() > torch.tensor(thresholds, dtype=torch.float64)
    rows = pd.DataFrame(logits.sigmoid().numpy(), columns=[f"probability_{name}" for name in names])
    rows.insert(0, "labels", [[name for name, yes in zip(names, row, strict=True) if yes] for row in told.tolist()])
    return rows


def _is_evaluated() -> bool:
    """Whether an evaluator of `mlflow.models.evaluate` asks that takes one column: nothing else tells it apart."""
    frame: Any = sys._getframe(2)
    while frame is not None and (name := frame.f_globals.get("__name__", "")).startswith("mlflow."):
        if name in _EVALUATORS:
            return True
        frame = frame.f_back
    return False


def _texts(model_input: Any, is_pair: bool | None) -> tuple[list[str], list[str] | None]:
    """Split any accepted input into first texts and, for pairs, second texts.

    Args:
        is_pair: Whether pairs are expected; None takes what comes.
    """
    try:
        columns = _columns(model_input)
        if columns[_TEXT] and is_pair and _PAIR not in columns:
            raise ValueError("this student reads pairs of texts, and was sent single ones")
        if is_pair is False and _PAIR in columns:
            raise ValueError("this student reads single texts, and was sent pairs")
        texts = {name: _checked(values, name) for name, values in columns.items()}
        first, second = texts[_TEXT], texts.get(_PAIR)
        if second is not None and len(first) != len(second):
            raise ValueError(f"{len(first)} values of 'text' and {len(second)} of 'text_pair'")
    except ValueError as error:
        raise InputError.invalid_parameter_value(f"{error}; send {_FORMS[is_pair]}") from None
    return first, second


def _columns(model_input: Any) -> dict[str, list[Any]]:
    """The values of the column `text` and, where there is one, `text_pair`."""
    match _unwrapped(model_input):
        case pd.DataFrame() as table:
            return _table_columns(table)
        case Mapping() as columns:
            return _named_columns(columns)
        case str() as text:
            return {_TEXT: [text]}
        case Iterable() as rows if not isinstance(rows, bytes):
            return _row_columns([_unwrapped(row) for row in rows])
        case other:
            raise ValueError(f"got {_kind(other)}")


def _unwrapped(value: Any) -> Any:
    """Arrays as lists, and those without a dimension, which MLflow makes of single values, as what they hold."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _table_columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    names = list(table.columns)
    if names == list(range(len(names))) and len(names) in (1, 2):  # they have no names
        table = table.set_axis([_TEXT, _PAIR][: len(names)], axis=1)
    _require_text(names := list(table.columns))
    found = [name for name in (_TEXT, _PAIR) if name in names]
    for name in found:
        if names.count(name) > 1:
            raise ValueError(f"the column '{name}' is there {names.count(name)} times")
    return {name: table[name].tolist() for name in found}


def _named_columns(columns: Mapping[Any, Any]) -> dict[str, list[Any]]:
    """A dictionary of columns, or of the texts of one row."""
    _require_text(columns)
    found = {name: _unwrapped(columns[name]) for name in (_TEXT, _PAIR) if name in columns}
    if all(isinstance(value, str) for value in found.values()):
        return {name: [value] for name, value in found.items()}
    for name, values in found.items():
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise ValueError(f"'{name}' is {_kind(values)}, no column")
    return {name: list(values) for name, values in found.items()}


def _row_columns(rows: list[Any]) -> dict[str, list[Any]]:
    """Rows that are texts, pairs, lists of one text, or dictionaries; all of the same kind."""
    if rows and all(isinstance(row, Mapping) for row in rows):
        return _record_columns(rows)
    if rows and all(isinstance(row, list | tuple) for row in rows):
        lengths = {len(row) for row in rows}
        if lengths not in ({1}, {2}):
            raise ValueError(f"rows of {' and '.join(map(str, sorted(lengths)))} values")
        return dict(zip((_TEXT, _PAIR), map(list, zip(*rows, strict=True)), strict=False))
    return {_TEXT: rows}


def _record_columns(rows: list[Mapping[Any, Any]]) -> dict[str, list[Any]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    _require_text(names)
    found = [name for name in (_TEXT, _PAIR) if name in names]
    for number, row in enumerate(rows):
        for name in found:
            if name not in row:
                raise ValueError(f"row {number} has no '{name}'")
    return {name: [_unwrapped(row[name]) for row in rows] for name in found}


def _require_text(names: Iterable[Any]) -> None:
    if _TEXT not in names:
        raise ValueError(f"expected a column 'text', got {', '.join(map(repr, names)) or 'none'}")


def _checked(values: list[Any], name: str) -> list[str]:
    for row, value in enumerate(values):
        if not isinstance(value, str):
            raise ValueError(f"row {row} of '{name}' is {_kind(value)}, no text")
    return [str(value) for value in values]


def _kind(value: Any) -> str:
    """What a value is, for a person: `empty`, `the number 3`, `a list`."""
    match value:
        case None:
            return "empty"
        case float() if math.isnan(value):
            return "empty"
        case int() | float():
            return f"the {'truth value' if isinstance(value, bool) else 'number'} {value}"
        case Mapping():
            return "a dictionary"
        case _:
            return f"of type {type(value).__name__}"


class Tagger(Student):
    """A student that tags words."""

    model_class = AutoModelForTokenClassification

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Tag the words of texts.

        Args:
            model_input: One text; texts or lists of words as a list, array or Series; rows as dictionaries; or a table
                with the column `text`, which holds texts or lists of words. A text is split at white space: for words
                that are cut otherwise, such as with punctuation apart, send lists.
            params: Not used; MLflow passes it.

        Returns:
            One row per text, in their order and with the index of a DataFrame or Series: `words`, `tags` and `scores`
            (the probability of each tag), lists of one length. A word that the student does not read, because it lies
            behind the student's `max_length` or has no token, is tagged `O` (None where that is no tag) without a
            score.

        Raises:
            InputError: The input is none of these; a ValueError.
        """
        rows = _rows_of_words(model_input)
        answered: list[dict[str, Any]] = []
        for start in range(0, len(rows), BATCH_SIZE):
            answered += self._tag(rows[start : start + BATCH_SIZE])
        index = model_input.index if isinstance(model_input, pd.DataFrame | pd.Series) else None
        return pd.DataFrame(answered, columns=["words", "tags", "scores"], index=index)

    def _tag(self, rows: list[list[str]]) -> list[dict[str, Any]]:
        texts = [" ".join(word.replace(" ", _NO_BREAK_SPACE) or _NO_BREAK_SPACE for word in words) for words in rows]
        options = {"truncation": True, "max_length": self.max_length, "padding": True, "return_tensors": "pt"}
        batch = self.tokenizer(texts, **options).to(self.device)
        with torch.inference_mode():
            scores, numbers = self.model(**batch).logits.float().softmax(dim=-1).cpu().max(dim=-1)
        answered = []
        for row, (words, text) in enumerate(zip(rows, texts, strict=True)):
            tags: list[str | None] = ["O" if "O" in self.label_names else None] * len(words)
            told: list[float | None] = [None] * len(words)
            for word, token in _first_tokens(text, batch.encodings[row]).items():
                tags[word] = self.label_names[int(numbers[row, token])]
                told[word] = float(scores[row, token])
            answered.append({"words": words, "tags": tags, "scores": told})
        return answered


_NO_BREAK_SPACE = "\u00a0"


def _first_tokens(text: str, encoding: Any) -> dict[int, int]:
    """The first visible token of each word that has one, by its number; words are what single spaces separate."""
    word_at: list[int | None] = []
    for number, word in enumerate(text.split(" ")):
        word_at += [*[number] * len(word), None]
    found: dict[int, int] = {}
    for token, (index, piece, span) in enumerate(
        zip(encoding.sequence_ids, encoding.tokens, encoding.offsets, strict=True)
    ):
        if index is not None and piece != "▁":  # SentencePiece's space, whose offsets may name the letter behind it
            place = next((number for number in word_at[slice(*span)] if number is not None), -1)
            if place > max(found, default=-1):
                found[place] = token
    return found


def _rows_of_words(model_input: Any) -> list[list[str]]:
    """The words of each row, whatever form it was sent in."""
    rows = _unwrapped(model_input)
    try:
        if isinstance(rows, pd.DataFrame | Mapping) or (
            isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)
        ):
            rows = _columns(rows)[_TEXT]
        rows = [rows] if isinstance(rows, str) else [_unwrapped(row) for row in rows]
        return [_words(row, number) for number, row in enumerate(rows)]
    except (ValueError, TypeError) as error:
        message = f"{error}; send texts, lists of words, or a table whose column 'text' holds them"
        raise InputError.invalid_parameter_value(message) from None


def _words(row: Any, number: int) -> list[str]:
    if isinstance(row, str):
        return row.split()
    if not isinstance(row, list | tuple):
        raise ValueError(f"row {number} is {_kind(row)}, neither a text nor a list of words")
    wrong = next((word for word in row if not isinstance(word, str)), "")
    if not isinstance(wrong, str):
        raise ValueError(f"a word of row {number} is {_kind(wrong)}, no text")
    return list(row)


def _load_pyfunc(data_path: str) -> Student:
    """Called by `mlflow.pyfunc.load_model` with the model's folder."""
    settings = json.loads((Path(data_path) / SETTINGS_FILE).read_text(encoding="utf-8"))
    return Tagger(data_path) if settings.get("kind") == "token_labels" else Student(data_path)
