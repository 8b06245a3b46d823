"""kdexp: an experiment bench for distilling transformer text classifiers."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdexp.training.trainer import DistillationTrainer, DistillationTrainingArguments

try:
    __version__ = version("kdexp")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0.1.0"

__all__ = ["DistillationTrainer", "DistillationTrainingArguments", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the trainer only when it is used: `import kdexp` alone costs no torch."""
    if name in ("DistillationTrainer", "DistillationTrainingArguments"):
        from kdexp.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module 'kdexp' has no attribute {name!r}")
