"""Where a run computes, and in which number format.

The settings stand here too, and loading them must not load torch: it is imported where it is used.
"""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from kdexp.errors import UserError
from kdexp.processes import Processes
from kdexp.ranges import Checked, NaturalNumber, PositiveInt

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LARGE_MODEL = 250_000
"""Weights, outside of embeddings, from which on more than one thread is clearly faster.

Below, an operation is so short that threads mostly wait for each other: on a busy machine many times longer than one
of them would take.
"""


class Device(StrEnum):
    """Where it is computed; `auto` takes a GPU where there is one."""

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
        num_threads: None means by the model: one for a compact one, for others this run's share of the cores.
        num_parallel: Runs side by side on this machine, which share its cores; parallel launchers set it.
        num_workers: Processes that load data.
    """

    device: Device = Device.auto
    precision: Precision = Precision.auto
    num_threads: PositiveInt | None = None
    num_parallel: PositiveInt = 1
    num_workers: NaturalNumber = 0


@dataclass(frozen=True)
class Hardware:
    """What was found and chosen.

    Attributes:
        bfloat16: Forward and backward run under bfloat16 autocast; weights and losses stay float32.
        num_threads: For a large model.
        num_threads_compact: For one below `LARGE_MODEL`.
        num_workers: Processes that load data.
        num_processes: That train one model together, each on its own GPU, or on its share of the CPU.
    """

    device: "torch.device"
    bfloat16: bool
    num_threads: int
    num_workers: int
    num_processes: int = 1
    num_threads_compact: int = 1

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

    def num_threads_for(self, *models: "torch.nn.Module") -> int:
        """Decided by the largest model alone, so that the same command computes the same whatever else runs."""
        largest = max(map(_num_weights, models))
        return self.num_threads if largest >= LARGE_MODEL else self.num_threads_compact

    @contextmanager
    def threads_for(self, *models: "torch.nn.Module") -> Iterator[None]:
        """Compute with as many threads as these models, which are forwarded together, are worth."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.num_threads_for(*models))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def peak_memory_bytes(self) -> int:
        """Most memory that was in use: of the GPU, or of this process."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self.device)
        return _peak_process_bytes()


def _num_weights(model: "torch.nn.Module") -> int:
    """Those that every token is multiplied with: of an embedding only a row is looked up."""
    from torch.nn import Embedding

    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, Embedding)}
    return sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in looked_up)


def available_cores() -> int:
    """Cores that taskset, SLURM and a container's quota leave to this process."""
    # sched_getaffinity sees taskset, SLURM and cpusets; a quota of time (`docker run --cpus`) only its cgroup knows.
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(seen, _quota())))


def _quota(system: Path = Path("/sys/fs/cgroup"), process: Path = Path("/proc/self/cgroup")) -> float:
    """Cores' worth of time that the cgroups of this process leave to it, of version 1 and 2; infinite without."""
    try:
        lines = [line.split(":", 2) for line in process.read_text(encoding="utf-8").splitlines()]
    except OSError:  # not Linux
        return float("inf")
    quotas = [float("inf")]
    for _, controllers, place in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        for root in (system / controllers, system / "cpu", system / "unified", system):
            folder = root / place.lstrip("/")
            # Seen from inside a container the path may be the host's; the limit then stands at the root.
            while folder.is_relative_to(root):
                quotas.append(_quota_of(folder))
                folder = folder.parent
    return min(quotas)


def _quota_of(folder: Path) -> float:
    try:
        if (folder / "cpu.max").exists():
            allowed, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            allowed, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return float(allowed) / float(period) if float(allowed) > 0 else float("inf")
    except (OSError, ValueError):  # no such limit, or "max"
        return float("inf")


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
    num_sharing = processes.local_world_size * config.num_parallel
    num_threads = config.num_threads or max(1, available_cores() // num_sharing)
    torch.set_num_threads(num_threads)
    if on_gpu:
        torch.cuda.set_device(device)
        # TF32 for what autocast leaves in float32.
        torch.set_float32_matmul_precision("high")
    bfloat16 = _uses_bfloat16(config.precision, on_gpu=on_gpu)
    if not processes.is_main:
        logging.getLogger("kdexp").setLevel(logging.WARNING)  # the main process tells what all of them do
    processes.connect("nccl" if on_gpu else "gloo")
    num_compact = config.num_threads or 1
    return Hardware(device, bfloat16, num_threads, config.num_workers, processes.world_size, num_compact)


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
