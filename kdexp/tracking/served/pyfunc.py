"""Load a distilled student that was logged to MLflow, and predict with it.

A copy of this package travels inside every logged student, next to the weights, and is what
`mlflow.pyfunc.load_model` runs. So it imports nothing from kdexp: it must load on a machine where kdexp is
not installed. The folder it reads holds only safetensors and JSON; or, of an exported student, an ONNX file and JSON,
and then neither torch nor transformers need be there.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

# Relative, because all of it travels under another name.
from .forms import rows_of_words, texts_of
from .models import ONNX_FILE, OnnxModel, TorchModel

SETTINGS_FILE = "student.json"

_EVALUATORS = tuple(f"mlflow.models.evaluation.evaluators.{kind}" for kind in ("classifier", "regressor"))


class Student:
    """A student with its own tokenizer, its class names and the length it was trained at."""

    def __init__(self, folder: str) -> None:
        settings = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
        self.label_names: list[str] = settings["label_names"]
        self.max_length: int = settings["max_length"]
        self.kind: str = settings.get("kind", "single_label")
        self.thresholds: list[float] = settings.get("thresholds", [0.0] * len(self.label_names))
        """Of several labels: logits above which each is told, chosen on the validation rows."""
        self.is_pair: bool | None = settings.get("is_pair")
        """Whether it was trained on pairs; None where that is not known, and both are read."""
        model_class = OnnxModel if (Path(folder) / ONNX_FILE).exists() else TorchModel
        self.model: TorchModel | OnnxModel = model_class(folder, settings)

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
        first, second = texts_of(model_input, self.is_pair)
        rows = self._answers(self._logits(first, second))
        if isinstance(model_input, pd.DataFrame | pd.Series):
            rows.index = model_input.index
        return rows[rows.columns[0]] if _is_evaluated() else rows

    def _answers(self, logits: np.ndarray) -> pd.DataFrame:
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
                return pd.DataFrame({"value": logits[:, 0].astype(np.float64) * self.model.scale + self.model.mean})
            case _:
                raise MlflowException(f"students of the kind {self.kind} are not answered by this version")

    def _logits(self, first: list[str], second: list[str] | None) -> np.ndarray:
        """[rows, outputs]"""
        size = self.model.rows_at_once
        batches = [slice(start, start + size) for start in range(0, len(first), size)]
        logits = [self.model.ask(first[rows], None if second is None else second[rows])[0] for rows in batches]
        return np.concatenate(logits) if logits else np.zeros((0, len(self.label_names)), dtype=np.float32)


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _classes(logits: np.ndarray, names: list[str]) -> pd.DataFrame:
    """Of classes of which one is right: `label`, `score`, `probability_<class>`."""
    scores = _softmax(logits)
    rows = pd.DataFrame(scores, columns=[f"probability_{name}" for name in names])
    rows.insert(0, "label", [names[index] for index in scores.argmax(axis=-1).tolist()])
    rows.insert(1, "score", scores.max(axis=-1))
    return rows


def _label_sets(logits: np.ndarray, names: list[str], thresholds: list[float]) -> pd.DataFrame:
    """Of several labels: `labels`, a list for each row, and `probability_<label>`."""
    told = logits.astype(np.float64) > np.array(thresholds)
    probabilities = 0.5 * (1 + np.tanh(0.5 * logits))  # the logistic function, without overflow
    rows = pd.DataFrame(probabilities, columns=[f"probability_{name}" for name in names])
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


class Tagger(Student):
    """A student that tags words."""

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
        rows = rows_of_words(model_input)
        answered: list[dict[str, Any]] = []
        for start in range(0, len(rows), self.model.rows_at_once):
            answered += self._tag(rows[start : start + self.model.rows_at_once])
        index = model_input.index if isinstance(model_input, pd.DataFrame | pd.Series) else None
        return pd.DataFrame(answered, columns=["words", "tags", "scores"], index=index)

    def _tag(self, rows: list[list[str]]) -> list[dict[str, Any]]:
        texts = [" ".join(word.replace(" ", _NO_BREAK_SPACE) or _NO_BREAK_SPACE for word in words) for words in rows]
        logits, encodings = self.model.ask(texts)
        probabilities = _softmax(logits)
        scores, numbers = probabilities.max(axis=-1), probabilities.argmax(axis=-1)
        answered = []
        for row, (words, text) in enumerate(zip(rows, texts, strict=True)):
            tags: list[str | None] = ["O" if "O" in self.label_names else None] * len(words)
            told: list[float | None] = [None] * len(words)
            for word, token in _first_tokens(text, encodings[row]).items():
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


def _load_pyfunc(data_path: str) -> Student:
    """Called by `mlflow.pyfunc.load_model` with the model's folder."""
    return load_student(data_path)


def load_student(data_path: str) -> Student:
    """The student in a folder: as transformers wrote it, or exported."""
    settings = json.loads((Path(data_path) / SETTINGS_FILE).read_text(encoding="utf-8"))
    return Tagger(data_path) if settings.get("kind") == "token_labels" else Student(data_path)
