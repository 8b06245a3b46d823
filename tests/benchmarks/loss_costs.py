"""What each loss costs: seconds per optimizer step of the default student, and beside plain cross-entropy.

    python tests/benchmarks/loss_costs.py [steps]

The losses take turns, so that what else the machine does falls on all of them. The teacher is trained once; what it
answers and shows comes from the cache before the student's training is timed.
"""

import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from kdexp import compose, distil
from kdexp.cli.conf_dir import CONF_DIR

REPETITIONS = 5


def main(num_steps: int) -> None:
    losses = sorted(path.stem for path in (CONF_DIR / "loss").glob("*.yaml"))
    seconds: dict[str, list[float]] = {loss: [] for loss in losses}
    with TemporaryDirectory() as folder:
        for seed in range(REPETITIONS):
            for loss in losses:
                seconds[loss].append(_train(loss, num_steps, seed, Path(folder)))
    base = statistics.median(seconds["ce"])
    for loss in sorted(losses, key=lambda name: statistics.median(seconds[name])):
        median = statistics.median(seconds[loss])
        sys.stdout.write(f"{loss:<12} {1000 * median / num_steps:6.2f} ms a step  {median / base:5.2f} x ce\n")


def _train(loss: str, num_steps: int, seed: int, folder: Path) -> float:
    record = distil(
        compose(
            *(f"loss={loss}", f"seed={seed}", f"train.max_steps={num_steps}", "baseline=false", "tracking=none"),
            *("hardware=cpu", "hardware.num_threads=1", "task.validation_size=50", "task.test_size=50"),
            f"cache_dir={folder}",
        )
    )
    return record.costs["student_train_seconds"]


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
