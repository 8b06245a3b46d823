"""What can be set of an export. Nothing here loads torch."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from kdexp.errors import UserError
from kdexp.ranges import Checked, Positive, Range

DEFAULT_CALIBRATION_ROWS = 128
_CalibrationRows = Annotated[int, Range("a whole number of at least 8", low=8)]


class Quantization(StrEnum):
    """How the scale of activations is found."""

    dynamic = "dynamic"  # anew for every batch
    static = "static"  # once, on rows of the training split


@dataclass(kw_only=True)
class ExportFormat(Checked):
    """A file that a student is written to."""


@dataclass(kw_only=True)
class Onnx(ExportFormat):
    """ONNX, float32."""


@dataclass(kw_only=True)
class OnnxInt8(ExportFormat):
    """ONNX with int8 weights, one scale per channel.

    Attributes:
        calibration_rows: Of `static`: rows of the training split by which the scales of activations are found; None
            is `DEFAULT_CALIBRATION_ROWS`.
    """

    quantization: Quantization = Quantization.dynamic
    calibration_rows: _CalibrationRows | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.quantization == Quantization.dynamic and self.calibration_rows is not None:
            raise UserError(
                "calibration_rows",
                f"got {self.calibration_rows}, but dynamic quantization is not calibrated",
                "remove it, or set quantization=static beside it",
            )


@dataclass(kw_only=True)
class BudgetConfig(Checked):
    """What a student may cost, in the study that chooses one.

    Attributes:
        latency_ms: Of one text on one thread, in the median.
        size_mb: Of the file on disk.
    """

    latency_ms: Positive | None = None
    size_mb: Positive | None = None


FORMATS: dict[str, type[ExportFormat]] = {"onnx": Onnx, "onnx_int8": OnnxInt8}
"""The formats by the name under which `export` holds them."""
