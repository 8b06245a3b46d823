"""Where a run computes, and in which number format.

The settings stand here too, and loading them must not load torch: it is imported where it is used.
"""

import logging
import os
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from kdexp.errors import UserError
from kdexp.ranges import Checked, NaturalNumber, PositiveInt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Precision(StrEnum):
    """Number format of the forward and backward pass; weights and losses are always float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True)
class HardwareConfig(Checked):
    """Where to compute.

    Attributes:
        num_threads: None means every core that this process may use.
        num_workers: Processes that load data.
    """

    device: Device = Device.auto
    precision: Precision = Precision.auto
    num_threads: PositiveInt | None = None
    num_workers: NaturalNumber = 0


@dataclass(frozen=True)
class Hardware:
    """What was found and chosen.

    Attributes:
        bfloat16: Forward and backward run under bfloat16 autocast; weights and losses stay float32.
        num_workers: Processes that load data.
    """

    device: "torch.device"
    bfloat16: bool
    num_threads: int
    num_workers: int

    @property
    def name(self) -> str:
        """One word for the device, as MLflow shows it: `cpu`, or the GPU's own name."""
        import torch

        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def numerics(self) -> dict[str, object]:
        """What of the hardware can change a result: part of every cache key."""
        return {"device": self.device.type, "bfloat16": self.bfloat16}

    def autocast(self) -> "torch.autocast":
        """The number format of a forward pass outside of the Trainer."""
        import torch

        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def peak_memory_bytes(self) -> int:
        """Most memory that was in use: of the GPU, or of this process."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        return _peak_process_bytes()


def _peak_process_bytes() -> int:
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def prepare_hardware(config: HardwareConfig) -> Hardware:
    """Choose the device and number format, and set torch's threads.

    Raises:
        UserError: A GPU is asked for and there is none, or it cannot compute in bfloat16.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if config.device == Device.gpu and not has_gpu:
        raise UserError("hardware", "no CUDA GPU is visible to torch", "use hardware=auto or hardware=cpu")
    on_gpu = has_gpu and config.device != Device.cpu
    bfloat16 = config.precision == Precision.bfloat16 or (
        config.precision == Precision.auto and on_gpu and torch.cuda.is_bf16_supported()
    )
    if bfloat16 and on_gpu and not torch.cuda.is_bf16_supported():
        raise UserError(
            "hardware.precision",
            f"{torch.cuda.get_device_name()} has no bfloat16",
            "use hardware.precision=float32",
        )
    if bfloat16 and not on_gpu:
        logger.warning("bfloat16 on this CPU is emulated where the CPU lacks it, and then many times slower")
    # sched_getaffinity sees what containers, taskset and SLURM leave to this process; cpu_count does not.
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = config.num_threads or available
    torch.set_num_threads(num_threads)
    if on_gpu:
        # TF32 for what autocast leaves in float32.
        torch.set_float32_matmul_precision("high")
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    return Hardware(device, bfloat16, num_threads, config.num_workers)
