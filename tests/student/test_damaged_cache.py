"""Entries of the cache that are whole but hold something else: files that were changed, and sealed again."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from kdexp import compose
from kdexp.files import seal
from kdexp.run import run

SMALL = (
    *("task.train_size=100", "task.validation_size=60", "task.test_size=60", "teacher.train.max_steps=2"),
    *("train.max_steps=2", "teacher.chance_check=false", "hardware=cpu", "hardware.num_threads=1", "tracking=none"),
)


def lose_numbers(path):
    found = {
        name: value * torch.nan if value.is_floating_point() else value for name, value in load_file(path).items()
    }
    save_file(found, path, {"format": "pt"})


def lose_a_row(path):
    save_file({name: value[:-1].clone() for name, value in load_file(path).items() if value.ndim}, path)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def say_nothing(path):
    path.write_text("{}")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Scores, and the cache that they came from."""
    folder = tmp_path_factory.mktemp("first")
    return run(compose(*SMALL, f"cache_dir={folder}")).scores, folder


@pytest.mark.parametrize(
    "changes",
    [
        {
            "students": ("answers.safetensors", lose_a_row),
            "teachers": ("config.json", say_nothing),
            "tokens": ("facts.json", say_nothing),
            "tasks": ("train.arrow", cut),
        },
        {
            "students": ("model/model.safetensors", lose_numbers),
            "teachers": ("model.safetensors", lose_numbers),
            "teacher_logits": ("tensors.safetensors", lose_numbers),
            "tokens": ("tokens.arrow", cut),
            "tasks": ("task.json", say_nothing),
        },
        {
            "students": ("training.json", say_nothing),
            "teachers": ("training.json", say_nothing),
            "teacher_logits": ("tensors.safetensors", lose_a_row),
        },
    ],
)
def test_what_was_changed_and_sealed_again_is_made_anew(first, tmp_path, changes, caplog):
    scores, filled = first
    cache = shutil.copytree(filled, tmp_path / "cache")
    for kind, (name, change) in changes.items():
        for folder in (cache / kind).iterdir():
            if folder.is_dir():
                change(folder / "files" / name)
                seal(folder, json.loads((folder / "parts.json").read_text()))
    assert run(compose(*SMALL, f"cache_dir={cache}")).scores == scores
    told = {message.split("/")[-2] for message in caplog.messages if "does not hold what it should" in message}
    assert told == set(changes)
