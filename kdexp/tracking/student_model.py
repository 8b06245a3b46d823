"""A student as an MLflow model, which loads with transformers and with `mlflow.pyfunc`."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.tracking.adapter import quiet
from kdexp.tracking.secrets import redact

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

    from kdexp.task.kinds.base import Answers
    from kdexp.task.load import Task

SERVED_KINDS = ("single_label", "multi_label", "regression", "token_labels")
"""Kinds of task that the pyfunc model can answer."""

SETTINGS_FILE, ONNX_FILE, CARD_FILE = "student.json", "model.onnx", "README.md"

_PACKAGES = ("mlflow", "torch", "transformers", "tokenizers", "safetensors", "pandas")
_ONNX_PACKAGES = ("mlflow", "onnxruntime", "tokenizers", "numpy", "pandas")


@dataclass(frozen=True)
class StudentFiles:
    """What a student is logged from.

    Attributes:
        folder: What `save_pretrained` of the model and of its tokenizer wrote; or of an exported file, all that ships.
        label_names: Names of the classes, in the order of the logits.
        max_length: Tokens at which the student's inputs are truncated.
        example_texts: Some inputs (texts or pairs), shown by MLflow beside the model.
        kind: Of the task.
        decided: What the kind needs beside names to tell what the run told, such as thresholds.
        is_pair: Whether it was trained on pairs; None where that is not known, and both are answered.
        sureness: How often it was right on validation by how sure it was (`kdexp/task/kinds/sureness.py`).
        name: By which `runs:/<run id>/<name>` finds it.
        card: Its README.md.
    """

    folder: Path
    label_names: Sequence[str]
    max_length: int
    example_texts: Sequence[Any] = ()
    kind: str = SERVED_KINDS[0]
    decided: Mapping[str, Any] = field(default_factory=dict)
    is_pair: bool | None = None
    sureness: Mapping[str, Sequence[int]] | None = None
    name: str = "student"
    card: str = ""

    @classmethod
    def of(
        cls, folder: Path, task: "Task", max_length: int, validation: "Answers", *, with_text: bool = True
    ) -> "StudentFiles":
        """Of a student that was trained on a task.

        Args:
            validation: What it answers there.
            with_text: Show some training texts as examples, else made-up ones.
        """
        from kdexp.task.kinds.sureness import sureness_table  # it loads torch

        made_up = [("a text", "another text")] if task.train.is_pair else ["a text"]
        examples = task.train.head(3) if with_text else made_up
        kind, labels = task.kind, task.labels("validation")
        answers = kind.decided(validation, validation, labels)
        return cls(
            folder,
            task.label_names,
            max_length,
            examples,
            kind.name,
            kind.served(answers),
            task.train.is_pair,
            sureness_table(kind, answers, labels),
        )

    def settings(self) -> dict[str, object]:
        """What has to be known to use it, beside model and tokenizer."""
        return {
            "kind": self.kind,
            "is_pair": self.is_pair,
            "label_names": list(self.label_names),
            "max_length": self.max_length,
            "sureness": self.sureness,
            **self.decided,
        }


def write_student(student: StudentFiles, logged: "LoggedModel", target: Path) -> None:
    """Write a student as an MLflow model whose top folder is also a transformers checkpoint, or what was exported.

    The pyfunc flavor with a loader module: no pickle, and the model is not loaded to guess its requirements.
    (The transformers flavor asks the hub for a model card: 48 s without a network.)
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    with tempfile.TemporaryDirectory() as scratch, quiet("mlflow.pyfunc"):
        code = _copy_package(Path(scratch))
        architecture = _architecture(student.folder)
        own = _copy_code(architecture, "kdexp_architecture", Path(scratch)) if architecture else None
        model = Model(
            artifact_path=logged.artifact_location,
            run_id=logged.source_run_id,
            model_id=logged.model_id,
            model_uuid=logged.model_id,
        )
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=f"{code.name}.pyfunc",
            data_path=str(student.folder),
            code_paths=[str(path) for path in (code, own) if path],
            signature=_signature(student.kind, student.label_names),
            pip_requirements=[f"{name}=={_version(name)}" for name in _packages(student.folder)],
            input_example=_example(student.example_texts),
            mlflow_model=model,
        )
    shutil.copytree(target / model.flavors["python_function"]["data"], target, dirs_exist_ok=True)
    shutil.rmtree(target / "data")
    if not (target / SETTINGS_FILE).exists():  # an exported student brings its own
        settings = student.settings() | ({"architecture": own.stem} if own else {})
        (target / SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    if student.card:
        (target / CARD_FILE).write_text(redact(student.card), encoding="utf-8")
    model.flavors["python_function"]["data"] = "."
    model.save(str(target / "MLmodel"))


_ARCHITECTURES = {"kdexp_static": Path(__file__).parents[1] / "model" / "static.py"}
"""Files of the models that transformers does not have, by their type; they import nothing of kdexp."""


def _architecture(folder: Path) -> Path | None:
    if not (folder / "config.json").exists():
        return None
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return _ARCHITECTURES.get(config.get("model_type"))


def _packages(folder: Path) -> tuple[str, ...]:
    return _ONNX_PACKAGES if (folder / ONNX_FILE).exists() else _PACKAGES


def _version(package: str) -> str:
    return importlib.metadata.version(package).split("+")[0]


def _copy_package(folder: Path) -> Path:
    """Copy the code that uses a student, named after its content (see `_copy_code`)."""
    source = Path(__file__).with_name("served")
    files = sorted(source.glob("*.py"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]
    copy = folder / f"kdexp_student_{digest}"
    copy.mkdir()
    for file in files:
        shutil.copyfile(file, copy / file.name)
    return copy


def _copy_code(file: Path, name: str, folder: Path) -> Path:
    """Copy a module, named after its content: two students loaded into one process never get each other's code."""
    copy = folder / f"{name}_{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}.py"
    shutil.copyfile(file, copy)
    return copy


def _example(texts: Sequence[Any]) -> "pd.DataFrame | None":
    """A table, whose columns say what they are, in Python and as `serving_input_example.json`."""
    import pandas as pd

    if not texts:
        return None
    rows = [(row,) if isinstance(row, str) else row for row in texts]
    return pd.DataFrame(rows, columns=["text", "text_pair"][: len(rows[0])])


def _signature(kind: str, label_names: Sequence[str]) -> "ModelSignature":
    """The outputs alone, so that every form of a request reaches the model, which checks it (tried with MLflow 3.17).

    Under a schema of columns MLflow refuses texts and lists before the model sees them, and in Python makes one row of
    a dictionary of columns; under one of type hints its server refuses every form but `inputs`.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import Array

    match kind:
        case "regression":
            return ModelSignature(outputs=Schema([ColSpec(DataType.double, "value")]))
        case "token_labels":
            types = {"words": DataType.string, "tags": DataType.string, "scores": DataType.double}
            return ModelSignature(outputs=Schema([ColSpec(Array(item), name) for name, item in types.items()]))
        case "multi_label":
            columns = [ColSpec(Array(DataType.string), "labels")]
        case _:
            columns = [ColSpec(DataType.string, "label"), ColSpec(DataType.float, "score")]
    columns += [ColSpec(DataType.float, f"probability_{name}") for name in label_names]
    return ModelSignature(outputs=Schema(columns))
