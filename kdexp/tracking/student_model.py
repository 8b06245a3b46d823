"""A student as an MLflow model, which loads with transformers and with `mlflow.pyfunc`."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from kdexp.tracking.store import quiet


def write_student(
    folder: Path,
    target: Path,
    run_id: str,
    model_id: str,
    artifact_location: str,
    label_names: list[str],
    max_length: int,
    example_texts: list[Any],
) -> None:
    """Write a student as an MLflow model whose top folder is also a transformers checkpoint.

    The pyfunc flavor with a loader module: no pickle, and the model is not loaded to guess its requirements.
    (The transformers flavor asks the hub for a model card: 48 s without a network.)
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, DataType, Schema

    from kdexp.tracking.pyfunc import SETTINGS_FILE

    outputs = [ColSpec(DataType.string, "label"), ColSpec(DataType.float, "score")]
    outputs += [ColSpec(DataType.float, f"probability_{name}") for name in label_names]
    packages = ("mlflow", "torch", "transformers", "tokenizers", "safetensors", "pandas")
    code = Path(__file__).with_name("pyfunc.py")
    with tempfile.TemporaryDirectory() as scratch, quiet("mlflow.pyfunc"):
        # Named after its content: two students loaded into one process never get each other's code.
        loader = Path(scratch) / f"kdexp_student_{hashlib.sha256(code.read_bytes()).hexdigest()[:12]}.py"
        shutil.copyfile(code, loader)
        model = Model(artifact_path=artifact_location, run_id=run_id, model_id=model_id, model_uuid=model_id)
        mlflow.pyfunc.save_model(
            str(target),
            loader_module=loader.stem,
            data_path=str(folder),
            code_paths=[str(loader)],
            # No input schema: MLflow would allow only one of texts, pairs and tables.
            signature=ModelSignature(outputs=Schema(outputs)),
            pip_requirements=[f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in packages],
            input_example=example_texts or None,
            mlflow_model=model,
        )
    shutil.copytree(target / model.flavors["python_function"]["data"], target, dirs_exist_ok=True)
    shutil.rmtree(target / "data")
    settings = {"label_names": label_names, "max_length": max_length}
    (target / SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    model.flavors["python_function"]["data"] = "."
    model.save(str(target / "MLmodel"))
