"""What computes a student's logits: transformers and torch; or of an exported student, ONNX Runtime and tokenizers."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

ONNX_FILE = "model.onnx"
BATCH_SIZE = 32


class TorchModel:
    """A student as transformers loads it, with its own tokenizer."""

    rows_at_once = BATCH_SIZE

    def __init__(self, folder: str, settings: Mapping[str, Any]) -> None:
        import torch
        import transformers

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if "architecture" in settings:  # of kdexp's own: a module beside this one, which tells transformers of it
            importlib.import_module(settings["architecture"])
        head = "TokenClassification" if settings.get("kind") == "token_labels" else "SequenceClassification"
        model_class = getattr(transformers, f"AutoModelFor{head}")
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = model_class.from_pretrained(folder, local_files_only=True).to(self._device).eval()
        self._options = {"truncation": True, "max_length": settings["max_length"], "padding": True}
        # Numbers are answered standardised.
        self.mean: float = getattr(self._model.config, "label_mean", 0.0)
        self.scale: float = getattr(self._model.config, "label_scale", 1.0)

    def ask(self, first: list[str], second: list[str] | None = None) -> tuple[np.ndarray, Sequence[Any]]:
        """Logits, [rows, outputs] or [rows, tokens, outputs], float32; and tokenizers' encoding of each row."""
        batch = self._tokenizer(first, second, return_tensors="pt", **self._options).to(self._device)
        with self._torch.inference_mode():
            return self._model(**batch).logits.float().cpu().numpy(), batch.encodings


class OnnxModel:
    """An exported student: ONNX Runtime and tokenizers, nothing else."""

    _COLUMNS: ClassVar = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}

    def __init__(self, folder: str, settings: Mapping[str, Any]) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))  # cuts and pads by itself
        self._session = onnxruntime.InferenceSession(str(Path(folder) / ONNX_FILE), providers=["CPUExecutionProvider"])
        self._inputs = [item.name for item in self._session.get_inputs()]
        # One, where the numbers of a row would depend on its neighbours (dynamic quantization).
        self.rows_at_once: int = settings.get("rows_at_once", BATCH_SIZE)
        self.mean: float = settings.get("label_mean", 0.0)
        self.scale: float = settings.get("label_scale", 1.0)

    def ask(self, first: list[str], second: list[str] | None = None) -> tuple[np.ndarray, Sequence[Any]]:
        """As `TorchModel.ask`."""
        rows = first if second is None else list(zip(first, second, strict=True))
        encodings = self._tokenizer.encode_batch(rows)
        columns = {name: [getattr(row, self._COLUMNS[name]) for row in encodings] for name in self._inputs}
        inputs = {name: np.array(column, dtype=np.int64) for name, column in columns.items()}
        return self._session.run(None, inputs)[0], encodings
