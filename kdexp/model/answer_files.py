"""Answers on disk: a tensor for each split."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from kdexp.task.kinds.base import Answers

_FILE = "answers.safetensors"
_LENGTHS = "_lengths"


def write_answers(answers: Mapping[str, Answers], folder: Path) -> None:
    """Write the answers on some splits into a folder."""
    tensors = {name: item.values.contiguous() for name, item in answers.items()}
    tensors |= {
        f"{name}{_LENGTHS}": torch.from_numpy(item.lengths)
        for name, item in answers.items()
        if item.lengths is not None
    }
    save_file(tensors, folder / _FILE)


def read_answers(folder: Path) -> dict[str, Answers]:
    """Read back what `write_answers` wrote."""
    tensors = load_file(folder / _FILE)
    lengths = {name: tensors.pop(f"{name}{_LENGTHS}", None) for name in ("validation", "test")}
    return {
        name: Answers(values, None if (length := lengths[name]) is None else length.numpy())
        for name, values in tensors.items()
    }
