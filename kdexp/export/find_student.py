"""A student to ask: in a folder, or in MLflow; its ONNX file where there is one, so that torch is not loaded."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.errors import UserError

if TYPE_CHECKING:
    from kdexp.tracking.served.pyfunc import Student

_MODELS = ("student_onnx", "student_onnx_int8", "student")
"""Of a run, the first that is there."""


def find_student(named: str, uri: str | None) -> tuple["Student", Path]:
    """Load a student.

    Args:
        named: A folder, the id of a run, or an MLflow URI (`runs:/<run id>/student_onnx_int8`, `models:/<name>/1`).
        uri: MLflow's store; None is the one that runs go to.

    Returns:
        The student, and the folder that it lies in.

    Raises:
        UserError: There is none.
    """
    folder = Path(named).expanduser()
    if not folder.is_dir():
        folder = _download(named, uri)
    if not (folder / "student.json").exists():
        remedy = "name a folder that holds student.json: a logged model, or an exported one"
        raise UserError("predict", f"{folder} holds no student", remedy)
    settings = json.loads((folder / "student.json").read_text(encoding="utf-8"))
    if not (folder / "model.onnx").exists():
        from transformers.utils import logging

        logging.disable_progress_bar()  # of loading weights, in the middle of the answers
    if "architecture" in settings:  # a module of its own
        sys.path.append(str(folder / "code"))
    from kdexp.tracking.served.pyfunc import load_student

    return load_student(str(folder)), folder


def _download(named: str, uri: str | None) -> Path:
    from kdexp.tracking.fetch import fetch_model

    if re.fullmatch(r"[0-9a-f]{32}", named):
        for model in _MODELS:
            folder = fetch_model(f"runs:/{named}/{model}", uri)
            if folder is not None:
                if model == "student_onnx_int8":
                    sys.stderr.write("the int8 file answers: the run has no other ONNX file\n")
                return folder
        raise UserError("predict", f"the run {named} has no student", "name one that logged its model, in this store")
    if not re.match(r"(runs|models|m-|file|mlflow-artifacts|s3|https?):?", named):
        raise UserError("predict", f"no folder {named}", "name a folder, the id of a run, or an MLflow URI")
    found = fetch_model(named, uri)
    if found is None:
        raise UserError("predict", f"MLflow has no model {named}", "see the run's page, or name another --uri")
    return found
