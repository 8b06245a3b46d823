"""The parts of the loss as they were realised, for the log."""

import torch
from accelerate import Accelerator
from torch import Tensor


class RealisedLosses:
    """Adds up the parts of the loss from one log to the next, on the device: reading them would stall a GPU."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget what was added up: a training begins."""
        self._sums: dict[str, Tensor] = {}
        self._num_steps = 0

    def begin_step(self) -> None:
        """An optimizer step begins."""
        self._num_steps += 1

    def add(self, **losses: Tensor) -> None:
        """Each a share of the optimizer step's loss."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach()

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """Means per optimizer step since the last call, over all processes, which call this together."""
        if not self._sums:
            return {}
        sums = torch.stack([value.mean() for value in self._sums.values()]) / max(self._num_steps, 1)
        means = accelerator.reduce(sums, "mean").tolist()
        names = list(self._sums)
        self.clear()
        return dict(zip(names, means, strict=True))
