"""kdexp: an experiment bench for distilling transformer text classifiers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdexp.cli.api import compose, conf_dir, distil, resolve
    from kdexp.training.trainer import DistillationTrainer, DistillationTrainingArguments

    __version__: str

_MODULES = {
    "DistillationTrainer": "kdexp.training.trainer",
    "DistillationTrainingArguments": "kdexp.training.trainer",
    "compose": "kdexp.cli.api",
    "conf_dir": "kdexp.cli.api",
    "distil": "kdexp.cli.api",
    "resolve": "kdexp.cli.api",
}

__all__ = [
    "DistillationTrainer",
    "DistillationTrainingArguments",
    "__version__",
    "compose",
    "conf_dir",
    "distil",
    "resolve",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: `import kdexp` alone costs neither torch nor Hydra."""
    if name == "__version__":
        from kdexp.fingerprint import own_version

        return own_version()
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'kdexp' has no attribute {name!r}")
