"""An exported file in use: ONNX Runtime and NumPy, without torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL_FILE = "model.onnx"


def open_session(file: Path, *, num_threads: int, spin: bool = True) -> "InferenceSession":
    """Load an ONNX file for the CPU.

    Args:
        spin: Threads that have nothing to do wait busily: faster alone, and in the way of whatever else is measured.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not spin:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def logits_of_session(session: "InferenceSession", inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """[rows, outputs], or [rows, tokens, outputs]; float32. Inputs that the graph does not read are left out."""
    named = {item.name: np.ascontiguousarray(inputs[item.name], dtype=np.int64) for item in session.get_inputs()}
    return session.run(None, named)[0]
