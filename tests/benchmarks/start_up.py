"""How soon a run trains: `python tests/benchmarks/start_up.py [--repeats 5] [settings ...]`.

Sets two fresh processes side by side, in wall and in CPU seconds (medians):

- the limit: what any such run must import and open, which is torch, transformers' Trainer, one model class, and a
  client of an MLflow store that is there already;
- `python -m kdexp` with everything cached but the student, up to the first optimizer step.

On a machine that does something else meanwhile, believe the CPU seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = """
from torch import nn
from transformers import BertForSequenceClassification, Trainer
from mlflow import MlflowClient

MlflowClient("sqlite:///mlflow.db").search_experiments(max_results=1)
"""

# Hooked before the command line starts: torch is imported sooner than a run would, but once either way.
FIRST_STEP = """
import os, runpy, sys
from torch.optim.optimizer import register_optimizer_step_pre_hook

def report(*_):
    tell()
    os._exit(0)

register_optimizer_step_pre_hook(report)
sys.argv[0] = "kdexp"
runpy.run_module("kdexp", run_name="__main__")
"""

TELL = """
import json, time
started = time.perf_counter()

def tell():
    seconds = [time.perf_counter() - started, time.process_time()]
    with open("seconds.json", "w") as file:
        json.dump(seconds, file)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    arguments, settings = parser.parse_known_args()
    # Several threads that wait for each other would be counted as work.
    settings += ["train.epochs=1", "hardware.num_threads=1"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _process(folder, "-m", "kdexp", *settings)  # fills the cache and creates the store
        limits, first_steps = [], []
        for _ in range(arguments.repeats):  # in turns, so that both see the same weather
            limits.append(_measure(folder, TELL + LIMIT + "tell()"))
            first_steps.append(_measure(folder, TELL + FIRST_STEP, *settings, "resume=false"))
    limit, first_step = _medians(limits), _medians(first_steps)
    beyond = [late - early for late, early in zip(first_step, limit, strict=True)]
    for name, (wall, cpu) in (("the limit", limit), ("first step", first_step), ("beyond it", beyond)):
        sys.stdout.write(f"{name:<12} {wall:6.2f} s, CPU {cpu:6.2f} s\n")


def _medians(times: list[tuple[float, float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*times, strict=True)]


def _measure(folder: Path, code: str, *arguments: str) -> tuple[float, float]:
    """Wall and CPU seconds from the start of a fresh interpreter until `tell` is called."""
    _process(folder, "-c", code, *arguments)
    wall, cpu = json.loads((folder / "seconds.json").read_text())
    return wall, cpu


def _process(folder: Path, *arguments: str) -> None:
    environment = os.environ | {"KDEXP_CACHE_DIR": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


if __name__ == "__main__":
    main()
