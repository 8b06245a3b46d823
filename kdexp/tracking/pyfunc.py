"""Load a distilled student that was logged to MLflow, and predict with it.

A copy of this file travels inside every logged student, next to the weights, and is what
`mlflow.pyfunc.load_model` runs. So it imports nothing from kdexp: it must load on a machine where kdexp is
not installed. The folder it reads holds only safetensors and JSON.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

SETTINGS_FILE = "student.json"
BATCH_SIZE = 32


class Student:
    """A student with its own tokenizer, its class names and the length it was trained at."""

    def __init__(self, folder: str) -> None:
        settings = json.loads((Path(folder) / SETTINGS_FILE).read_text(encoding="utf-8"))
        self.label_names: list[str] = settings["label_names"]
        self.max_length: int = settings["max_length"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(folder, local_files_only=True)
        self.model = model.to(self.device).eval()

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify texts.

        Args:
            model_input: One text, a list of texts, a list of (first, second) pairs, or a DataFrame with a
                column `text` and, for pairs, a column `text_pair`.
            params: Not used; MLflow passes it.

        Returns:
            One row per text: `label`, `score` (the probability of that label), and `probability_<class>` for
            every class.

        Raises:
            ValueError: The input is none of these.
        """
        first, second = _texts(model_input)
        probabilities = []
        for start in range(0, len(first), BATCH_SIZE):
            batch = self.tokenizer(
                first[start : start + BATCH_SIZE],
                second[start : start + BATCH_SIZE] if second else None,
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(self.device)
            with torch.inference_mode():
                logits = self.model(**batch).logits
            probabilities.append(logits.float().softmax(dim=-1).cpu())
        scores = torch.cat(probabilities) if probabilities else torch.zeros(0, len(self.label_names))
        rows = pd.DataFrame(scores.numpy(), columns=[f"probability_{name}" for name in self.label_names])
        rows.insert(0, "label", [self.label_names[index] for index in scores.argmax(dim=-1).tolist()])
        rows.insert(1, "score", scores.amax(dim=-1).numpy())
        return rows


def _texts(model_input: Any) -> tuple[list[str], list[str] | None]:
    """Split any accepted input into first texts and, for pairs, second texts."""
    if isinstance(model_input, pd.DataFrame):
        if "text" not in model_input.columns:
            raise ValueError(f"expected a column 'text' (and 'text_pair'), got {list(model_input.columns)}")
        second = model_input["text_pair"].tolist() if "text_pair" in model_input.columns else None
        return model_input["text"].tolist(), second
    if isinstance(model_input, str):
        return [model_input], None
    rows: list[Any] = list(model_input)
    if all(isinstance(row, str) for row in rows):
        return rows, None
    if all(isinstance(row, list | tuple) and len(row) == 2 for row in rows):
        return [first for first, _ in rows], [second for _, second in rows]
    raise ValueError("expected texts, (first, second) pairs, or a DataFrame with 'text' and 'text_pair'")


def _load_pyfunc(data_path: str) -> Student:
    """Called by `mlflow.pyfunc.load_model` with the model's folder."""
    return Student(data_path)
