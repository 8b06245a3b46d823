"""Where the wall time of a sweep goes: `python tests/benchmarks/sweep_breakdown.py`.

Runs 20 default jobs with an empty cache and sets the time spent in training steps and evaluation beside the wall time
of the whole command, imports included.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

JOBS = ("loss.alpha=0.1,0.3,0.5,0.7,0.9", "loss.temperature=1,4", "seed=0,1")


def main(settings: list[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "kdexp", "-m", *JOBS, *settings],
            cwd=folder,
            env=os.environ | {"KDEXP_CACHE_DIR": str(folder / "cache")},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - started
        parts = {kind: _trained_seconds(folder / "cache" / kind) for kind in ("teachers", "students")}
        num_jobs, logits = _logits_seconds(folder)
    parts["teacher logits"] = logits
    for name, seconds in parts.items():
        sys.stdout.write(f"{name:<16} {seconds:7.1f} s\n")
    useful = sum(parts.values())
    sys.stdout.write(f"{num_jobs} jobs, wall {wall:.1f} s, of it {useful / wall:.1%} training and evaluating\n")


def _trained_seconds(folder: Path) -> float:
    """What the trainings that are kept took: steps, evaluation after each epoch and at the end, checkpoints."""
    records = [json.loads(path.read_text()) for path in folder.glob("*/files/training.json")]
    return sum(record["seconds"] + record.get("evaluation_seconds", 0.0) for record in records)


def _logits_seconds(folder: Path) -> tuple[int, float]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("distillation")
    runs = client.search_runs([experiment.experiment_id])
    seconds = [run.data.metrics.get("cost/teacher_logits_seconds") for run in runs]
    return sum(each is not None for each in seconds), sum(each for each in seconds if each)


if __name__ == "__main__":
    main(sys.argv[1:])
