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
from kdexp.processes import Processes
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
        num_threads: Of this process.
        num_workers: Processes that load data.
        num_processes: That train one model together, each on its own GPU, or on its share of the CPU.
    """

    device: "torch.device"
    bfloat16: bool
    num_threads: int
    num_workers: int
    num_processes: int = 1

    @property
    def name(self) -> str:
        """One word for the device, as MLflow shows it: `cpu`, or the GPU's own name."""
        import torch

        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"

    @property
    def numerics(self) -> dict[str, object]:
        """What of the hardware can change a result: part of every cache key."""
        numerics: dict[str, object] = {"device": self.device.type, "bfloat16": self.bfloat16}
        # Dropout and the order of rows differ with their number.
        return numerics | ({"num_processes": self.num_processes} if self.num_processes > 1 else {})

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
    """Choose the device and number format, set torch's threads, and join the other processes of this training.

    Raises:
        UserError: A GPU is asked for and there is none, or not one per process, or it cannot compute in bfloat16.
    """
    import torch

    processes = Processes.current()
    device = _device(config.device, processes)
    on_gpu = device.type == "cuda"
    # sched_getaffinity sees what containers, taskset and SLURM leave to this process; cpu_count does not.
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = config.num_threads or max(1, available // processes.local_world_size)
    torch.set_num_threads(num_threads)
    if on_gpu:
        torch.cuda.set_device(device)
        # TF32 for what autocast leaves in float32.
        torch.set_float32_matmul_precision("high")
    bfloat16 = _uses_bfloat16(config.precision, on_gpu=on_gpu)
    if not processes.is_main:
        logging.getLogger("kdexp").setLevel(logging.WARNING)  # the main process tells what all of them do
    processes.connect("nccl" if on_gpu else "gloo")
    return Hardware(device, bfloat16, num_threads, config.num_workers, processes.world_size)


def _device(wanted: Device, processes: Processes) -> "torch.device":
    import torch

    if wanted == Device.gpu and not torch.cuda.is_available():
        raise UserError("hardware", "no CUDA GPU is visible to torch", "use hardware=auto or hardware=cpu")
    if wanted == Device.cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    if processes.world_size == 1:
        return torch.device("cuda", torch.cuda.current_device())
    if processes.local_world_size > torch.cuda.device_count():
        raise UserError(
            "hardware",
            f"{processes.local_world_size} processes were started, but there are {torch.cuda.device_count()} GPUs",
            "start one process per GPU, or use hardware=cpu",
        )
    return torch.device("cuda", processes.local_rank)


def _uses_bfloat16(precision: Precision, *, on_gpu: bool) -> bool:
    import torch

    if not on_gpu:
        if precision == Precision.bfloat16:
            logger.warning("bfloat16 on this CPU is emulated where the CPU lacks it, and then many times slower")
        return precision == Precision.bfloat16
    if precision == Precision.bfloat16 and not torch.cuda.is_bf16_supported():
        raise UserError(
            "hardware.precision",
            f"{torch.cuda.get_device_name()} has no bfloat16",
            "use hardware.precision=float32",
        )
    return precision != Precision.float32 and torch.cuda.is_bf16_supported()
