"""From a torch student to an ONNX graph, and from that to int8."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdexp.export.config import DEFAULT_CALIBRATION_ROWS, OnnxInt8, Quantization
from kdexp.model.forward import accepted_inputs, logits_of

OUTPUT = "logits"

_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export", "torch.fx")


class _Logits(nn.Module):
    """A model whose inputs are positional and whose output is its logits alone."""

    def __init__(self, model: PreTrainedModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return logits_of(self.model(**dict(zip(self.names, inputs, strict=True))))


def write_float32(model: PreTrainedModel, example: Mapping[str, Tensor], target: Path) -> None:
    """Write a model as ONNX, for batches of any size and length.

    Args:
        example: A padded batch of at least two rows, as the model's tokenizer makes it. No tensor may stand in it
            twice: the exporter would take both inputs for one, and write a wrong graph without a word.
    """
    inputs = {name: value.clone() for name, value in accepted_inputs(model, example).items()}
    names = list(inputs)
    dynamic = torch.export.Dim.DYNAMIC
    with _quiet():
        program = torch.onnx.export(
            _Logits(model, names).eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=names,
            output_names=[OUTPUT],
            dynamic_shapes=[tuple({0: dynamic, 1: dynamic} for _ in names)],
        )
        assert program is not None
        program.save(target)


def write_int8(float32: Path, settings: OnnxInt8, calibration: Iterator[Mapping[str, Any]], target: Path) -> None:
    """Quantize the weights of a float32 graph, one scale per channel.

    Args:
        calibration: Batches of inputs, as NumPy arrays; read where activations have one scale for all batches.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static

    with _quiet():
        match settings.quantization:
            case Quantization.dynamic:
                quantize_dynamic(float32, target, per_channel=True, weight_type=QuantType.QInt8)
            case Quantization.static:
                quantize_static(
                    float32,
                    target,
                    _Calibration(calibration),
                    op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )


def num_calibration_rows(settings: OnnxInt8) -> int:
    """How many training rows tell the ranges of activations."""
    if settings.quantization == Quantization.dynamic:
        return 0
    return settings.calibration_rows or DEFAULT_CALIBRATION_ROWS


class _Calibration:
    """What ONNX Runtime's quantizer asks for batches."""

    def __init__(self, batches: Iterator[Mapping[str, Any]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave the console to the run: the exporter and the quantizer speak of their own inside."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    root.addFilter(_nothing)  # of what is logged to the root itself: other loggers do not pass its filters
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeFilter(_nothing)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _nothing(record: logging.LogRecord) -> bool:
    return False
