"""What each loss costs per step: `python tests/benchmarks/loss_costs.py [number of steps]`.

One optimizer step of the default compact student (batch 32) with every loss, on text that the teacher has answered
beforehand, as kdexp trains. Reported as a ratio to cross-entropy measured in the same process: the median of five
repetitions, in turns.
"""

import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from hydra import compose, initialize_config_dir

from kdexp.cache import Cache
from kdexp.cli.composition import resolve
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.sweeper import register
from kdexp.hardware import prepare_hardware
from kdexp.model.encoder import load_model
from kdexp.run import _look_inside
from kdexp.student.train import encode_task, train_student
from kdexp.task.load import load_task
from kdexp.teacher.encoder import Teacher, load_teacher, teacher_logits

REPETITIONS = 5


def main(num_steps: int) -> None:
    register()
    losses = sorted(path.stem for path in (CONF_DIR / "loss").glob("*.yaml"))
    seconds: dict[str, list[float]] = {loss: [] for loss in losses}
    with TemporaryDirectory() as folder, initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for repetition in range(REPETITIONS):
            for loss in losses:
                seconds[loss].append(_train(loss, num_steps, repetition, Path(folder)))
    base = statistics.median(seconds["ce"])
    for loss in sorted(losses, key=lambda each: statistics.median(seconds[each])):
        median = statistics.median(seconds[loss])
        sys.stdout.write(f"{loss:<12} {1000 * median / num_steps:6.2f} ms a step  {median / base:5.2f} x ce\n")


def _train(loss: str, num_steps: int, seed: int, folder: Path) -> float:
    settings = [f"loss={loss}", f"train.max_steps={num_steps}", "hardware=cpu", "hardware.num_threads=1"]
    config = resolve(compose("config", [*settings, "task.validation_size=50", "task.test_size=50", f"seed={seed}"]))
    hardware, cache = prepare_hardware(config.hardware), Cache(folder)
    task = load_task(config.task, cache)
    loaded = load_teacher(config.teacher, task)
    teacher = Teacher(loaded, "", list(range(len(task.label_names))), 0.0, True)
    student = load_model("student", config.student, task, seed=seed, new_head=True)
    data = encode_task(student, task, cache, use_transfer=False)
    answers = {
        name: teacher_logits(
            teacher, getattr(task, name), name, student, config.tokenization, cache, hardware, batch_size=128
        )
        for name in ("train", "validation", "test")
    }
    targets = _look_inside(teacher, student, data, config, cache, hardware)
    torch.manual_seed(seed)
    started = time.perf_counter()
    train_student(
        student,
        data,
        config.loss,
        answers,
        config.train,
        cache,
        hardware,
        seed=seed,
        resume=True,
        description=loss,
        targets=targets,
    )
    return time.perf_counter() - started


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
