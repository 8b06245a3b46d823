"""What a row costs, in time and memory: `python tests/benchmarks/million_rows.py [number of rows]`.

A CSV of so many rows (1,000,000 unless said otherwise) of 20 words goes through reading, tokenizers, tokenizing, a
compact teacher's pass over all rows and some hundred steps of a compact student; before it, one of 10,000 rows does,
each in a process of its own. Reported are, for each stage, seconds of one core's time (what else runs on the machine
does not count), what that is for each row or step, and the most anonymous memory (RssAnon: what is mapped from files
does not count). The aim: 500 MB more than with 10,000 rows, and a cost per row that stays the same. Linux only.
"""

import contextlib
import csv
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

FEW_ROWS = 10_000
STEPS = {"fine-tuning": 20, "steps": 300}
"""Stages that do not go through all rows."""
WORDS_PER_ROW = 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
SETTINGS = (
    *("task=file", "task.text=text", "task.label=label", "task.validation_size=1000", "task.test_size=1000"),
    *("hardware=cpu", "hardware.num_threads=1", f"train.max_steps={STEPS['steps']}"),
    *(f"teacher.train.max_steps={STEPS['fine-tuning']}", "teacher.chance_check=false"),
    *(
        f"{role}.{size}"
        for role in ("teacher", "student")
        for size in ("num_layers=1", "hidden_size=32", "num_heads=2")
    ),
)


def main(num_rows: int) -> None:
    results = []
    with TemporaryDirectory() as folder:
        for count in (FEW_ROWS, num_rows):
            path = Path(folder, f"{count}.csv")
            write_rows(path, count)
            command = [sys.executable, __file__, "--measure", str(path)]
            done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, check=True)
            results.append(json.loads(done.stdout))
    few, many = results
    sys.stdout.write(f"{'':<16}{FEW_ROWS:>12,} rows{num_rows:>27,} rows\n")
    for stage in few["seconds"]:
        cells = []
        for result, count in ((few, FEW_ROWS), (many, num_rows)):
            seconds = result["seconds"][stage]
            each = f"{1e6 * seconds / count:8.2f} us/row "
            if stage in STEPS:
                each = f"{1e3 * seconds / STEPS[stage]:8.2f} ms/step"
            cells.append(f"{seconds:8.2f} s {each}{result['peak_mb'][stage]:6.0f} MB")
        sys.stdout.write(f"{stage:<12}{'  '.join(cells)}\n")
    peaks = [max(result["peak_mb"].values()) for result in results]
    sys.stdout.write(f"peak RssAnon {peaks[0]:.0f} MB and {peaks[1]:.0f} MB: {peaks[1] - peaks[0]:.0f} MB more\n")


def write_rows(path: Path, num_rows: int) -> None:
    """Words as frequent as in a language (Zipf), of which some tell the class."""
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlucmfwypvbg", k=draw.randint(2, 9))) for _ in range(20_000)]
    weights = [1 / rank for rank in range(10, 20_010)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for start in range(0, num_rows, 1000):
            drawn = draw.choices(words, weights, k=1000 * WORDS_PER_ROW)
            for row in range(min(1000, num_rows - start)):
                text = " ".join(drawn[row * WORDS_PER_ROW : (row + 1) * WORDS_PER_ROW])
                writer.writerow([f"{text}.", "abc"[text.count("et") % 3]])


@dataclass
class Meter:
    """CPU time and peak RssAnon of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        peak, done = [anonymous_mb()], threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                peak.append(max(peak.pop(), anonymous_mb()))

        thread = threading.Thread(target=watch)
        thread.start()
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = time.process_time() - started
            done.set()
            thread.join()
            self.peak_mb[name] = peak[0]


def anonymous_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("RssAnon:")[1].split()[0]) / 1024


def measure(path: Path) -> Meter:
    """All stages in this process; imports are not counted."""
    from kdexp import compose
    from kdexp.cache import Cache
    from kdexp.hardware import prepare_hardware
    from kdexp.model.load import load_encoder
    from kdexp.model.tokens import tokenize
    from kdexp.student.train import Course, train_student
    from kdexp.task.load import load_task
    from kdexp.teacher.config import EncoderTeacherConfig
    from kdexp.teacher.encoder import load_encoder_teacher
    from kdexp.teacher.logits import Cached, teacher_answers

    config = compose(*SETTINGS, f"task.train={path}")
    hardware, cache, meter = prepare_hardware(config.hardware), Cache(path.with_suffix(".cache")), Meter()
    assert isinstance(config.teacher, EncoderTeacherConfig)
    with meter.stage("reading"):
        task = load_task(config.task, cache)
    with meter.stage("tokenizers"):
        teacher = Cached(load_encoder_teacher("teacher", config.teacher, task, cache, hardware), cache)
        student = load_encoder("student", config.student, task, cache, seed=0)
    course = Course(student, task, config.train, cache, hardware, seed=0, resume=True)
    with meter.stage("tokenizing"):
        course.tokens()
        tokenize(teacher.encoder.tokenizer, task.train, teacher.encoder.max_length, task.kind, cache)
    with meter.stage("fine-tuning"):
        teacher.prepare()
    with meter.stage("teacher"):
        answers = teacher_answers(teacher, course)
    with meter.stage("steps"):
        train_student(course, "student", config.loss, answers)
    return meter


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        meter = measure(Path(sys.argv[2]))
        sys.stdout.write(json.dumps({"seconds": meter.seconds, "peak_mb": meter.peak_mb}))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
