"""How fast a student answers as a file, beside itself in torch and its teacher: in one run, taking turns.

Of one text after another (batch 1) and of batches of 32, with texts drawn from the test split, by one thread and by
all of them, after warm-up. What is timed is the model alone, from token ids to logits.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding

from kdexp.cache import Cache
from kdexp.export.files import BATCH_ROWS, ExportedFile
from kdexp.export.machine import cpu
from kdexp.export.probe import probe
from kdexp.export.session import MODEL_FILE, logits_of_session, open_session
from kdexp.fingerprint import library_versions
from kdexp.hardware import available_cores
from kdexp.model.encoder import Encoder
from kdexp.model.forward import accepted_inputs
from kdexp.task.kinds.base import NUM_UNITS, UNITS
from kdexp.task.load import Task

logger = logging.getLogger(__name__)

NUM_TEXTS = 200
NUM_BATCHES = 8
_WARM_UP = 5
_SECONDS = 20.0
"""Longer than this no round of measuring goes on, once every contender had `_FEWEST` turns."""
_FEWEST = 20

# Where a model came from, and what its outputs are called.
_NOT_ARCHITECTURE = (
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("use_cache", "id2label", "label2id", "problem_type"),
)

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Speed:
    """How fast a model answers.

    Attributes:
        p50_ms, p99_ms: Of one text alone, by one thread; `..._all_threads` by as many as there are cores.
        texts_per_second: In batches of 32.
        size_mb, load_ms, peak_memory_mb: Of a file: on disk; until it can be asked; most that a process holds which
            has nothing but ONNX Runtime and this file, and answers the longest batch. None of what is no file.
    """

    p50_ms: float
    p99_ms: float
    texts_per_second: float
    p50_ms_all_threads: float
    p99_ms_all_threads: float
    texts_per_second_all_threads: float
    size_mb: float | None = None
    load_ms: float | None = None
    peak_memory_mb: float | None = None

    def known(self) -> dict[str, float]:
        """What was measured, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Contender:
    """What takes its turn.

    Attributes:
        open: Makes ready, for so many threads, what answers a batch.
        reader: By whose tokenizer it reads.
    """

    open: Callable[[int], Callable[[Inputs], Any]]
    reader: Encoder


def measure_speed(
    task: Task, encoders: Mapping[str, Encoder], files: Mapping[str, ExportedFile], cache: Cache
) -> dict[str, Speed]:
    """Measure the models and files of a run, or take what an earlier run of the same architectures measured here.

    Args:
        encoders: `student`, and the teachers that can be shown.

    Returns:
        By format, `torch` (the student) and by the teachers' roles.
    """
    if not files:
        return {}
    parts: dict[str, object] = {
        "architectures": {role: _architecture(encoder) for role, encoder in encoders.items()},
        "files": {name: _description(file) for name, file in files.items()},
        "texts": task.test.text_digest,
        "machine": {**cpu(), "cores": available_cores()},
        "versions": library_versions(),
    }

    def build(target: Path, work: Path) -> None:
        found = _measure(task, encoders, files)
        (target / "speed.json").write_text(
            json.dumps({name: asdict(speed) for name, speed in found.items()}), encoding="utf-8"
        )

    started = time.perf_counter()
    entry, found = cache.loaded("speed", parts, build, _read)
    told = "measured by an earlier run" if entry.hit else f"measured in {time.perf_counter() - started:.0f} s"
    logger.info("speed of this architecture: %s on %s", told, cpu()["name"])
    return found


def _read(folder: Path) -> dict[str, Speed]:
    found = json.loads((folder / "speed.json").read_text(encoding="utf-8"))
    return {name: Speed(**values) for name, values in found.items()}


def _architecture(encoder: Encoder) -> dict[str, object]:
    """What of a model decides its speed: everything but its weights."""
    config = json.loads(json.dumps(encoder.model.config.to_dict(), default=str))
    for name in _NOT_ARCHITECTURE:
        config.pop(name, None)
    return {"config": config, "max_length": encoder.max_length, "parameters": encoder.num_parameters}


def _description(file: ExportedFile) -> dict[str, object]:
    parts = json.loads((file.folder.parents[1] / "parts.json").read_text(encoding="utf-8"))
    return {"file": parts["file"], "settings": parts["settings"], "versions": parts["versions"]}


def _measure(task: Task, encoders: Mapping[str, Encoder], files: Mapping[str, ExportedFile]) -> dict[str, Speed]:
    student = encoders["student"]
    contenders = {
        "torch" if role == "student" else role: Contender(_torch_opener(encoder), encoder)
        for role, encoder in encoders.items()
    }
    contenders |= {name: Contender(_file_opener(file), student) for name, file in files.items()}
    singles = {id(item.reader): _inputs(item.reader, task, 1) for item in contenders.values()}
    batches = {id(item.reader): _inputs(item.reader, task, BATCH_ROWS) for item in contenders.values()}
    one, every = (_timings(contenders, singles, batches, num_threads) for num_threads in (1, available_cores()))
    found = {}
    for name in contenders:
        values = one[name] | {f"{key}_all_threads": value for key, value in every[name].items()}
        if name in files:
            longest = max(batches[id(student)], key=lambda item: item["input_ids"].shape[1])
            values |= probe(files[name].folder / MODEL_FILE, *longest["input_ids"].shape)
        found[name] = Speed(**values)
    return found


def _inputs(reader: Encoder, task: Task, rows: int) -> list[Inputs]:
    """Padded batches of so many test rows, as one model reads them; the same rows for every reader."""
    first, second = task.test.sample(NUM_TEXTS if rows == 1 else NUM_BATCHES * rows)
    encoded = task.kind.tokenize(reader.tokenizer, first, second, reader.max_length)
    names = [name for name in encoded if name not in (UNITS, NUM_UNITS)]
    collate = DataCollatorWithPadding(reader.tokenizer)
    found: list[Inputs] = []
    for start in range(0, len(first), rows):
        places = [place % len(first) for place in range(start, start + rows)]
        found.append(dict(collate([{name: encoded[name][place] for name in names} for place in places])))
    return found


def _torch_opener(encoder: Encoder) -> Callable[[int], Callable[[Inputs], Any]]:
    def open_model(num_threads: int) -> Callable[[Inputs], Any]:
        model = encoder.model.to("cpu").eval()

        def forward(inputs: Inputs) -> Any:
            with torch.inference_mode():
                return model(**accepted_inputs(model, inputs)).logits

        return forward

    return open_model


def _file_opener(file: ExportedFile) -> Callable[[int], Callable[[Inputs], Any]]:
    def open_file(num_threads: int) -> Callable[[Inputs], Any]:
        # Busy waiting would take the cores from whoever has the next turn.
        session = open_session(file.folder / MODEL_FILE, num_threads=num_threads, spin=num_threads == 1)

        def forward(inputs: Inputs) -> Any:
            return logits_of_session(session, {name: value.numpy() for name, value in inputs.items()})

        return forward

    return open_file


def _timings(
    contenders: Mapping[str, Contender],
    singles: Mapping[int, list[Inputs]],
    batches: Mapping[int, list[Inputs]],
    num_threads: int,
) -> dict[str, dict[str, float]]:
    with _torch_threads(num_threads):
        ready = {name: item.open(num_threads) for name, item in contenders.items()}
        by_single = _take_turns(ready, {name: singles[id(item.reader)] for name, item in contenders.items()})
        by_batch = _take_turns(ready, {name: batches[id(item.reader)] for name, item in contenders.items()})
    return {
        name: {
            "p50_ms": float(np.percentile(by_single[name], 50)) * 1e3,
            "p99_ms": float(np.percentile(by_single[name], 99)) * 1e3,
            "texts_per_second": BATCH_ROWS / float(np.median(by_batch[name])),
        }
        for name in contenders
    }


def _take_turns(
    ready: Mapping[str, Callable[[Inputs], Any]], inputs: Mapping[str, list[Inputs]]
) -> dict[str, list[float]]:
    """Seconds of every call. All contenders answer a text before the next one comes: what slows the machine slows all.

    Who begins changes with every text, so that nobody always follows the one that fills the caches.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for name, forward in ready.items():
        for item in inputs[name][:_WARM_UP]:
            forward(item)
    order = list(ready)
    deadline = time.perf_counter() + _SECONDS
    for place in range(len(next(iter(inputs.values())))):
        order.append(order.pop(0))
        for name in order:
            started = time.perf_counter()
            ready[name](inputs[name][place])
            seconds[name].append(time.perf_counter() - started)
        if place + 1 >= _FEWEST and time.perf_counter() > deadline:
            break
    return seconds


@contextmanager
def _torch_threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
