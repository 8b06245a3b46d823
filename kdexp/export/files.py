"""The files that a student ships as: written once, and proved on the whole test split before anybody uses them."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorWithPadding

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.export.config import ExportFormat, Onnx, OnnxInt8, Quantization
from kdexp.export.graph import num_calibration_rows, write_float32, write_int8
from kdexp.export.packages import PACKAGES
from kdexp.export.session import MODEL_FILE, logits_of_session, open_session
from kdexp.export.shipped import SETTINGS_FILE, write_tokenizer
from kdexp.fingerprint import library_versions, path_digest, plain
from kdexp.hardware import Hardware
from kdexp.loss.base import Outputs
from kdexp.model.answer_files import read_answers, write_answers
from kdexp.model.encoder import Encoder, answer_batches, predict
from kdexp.model.load import load_finished
from kdexp.model.tokens import Tokens
from kdexp.processes import Processes
from kdexp.task.kinds.base import UNITS, Answers
from kdexp.task.load import Task
from kdexp.tracking.student_model import StudentFiles
from kdexp.training.course import Course

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""The largest difference of a logit between torch and its float32 file."""
BATCH_ROWS = 32
SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Source:
    """A trained student, from which files are made.

    Attributes:
        folder: What `save_pretrained` of the model and of its tokenizer wrote.
        tokens: By split; `train`, `validation` and `test`.
        answers: What torch answers on validation and test.
    """

    folder: Path
    task: Task
    max_length: int
    tokens: Mapping[str, Tokens]
    answers: Mapping[str, Answers]
    hardware: Hardware

    @classmethod
    def of(cls, course: Course, folder: Path, answers: Mapping[str, Answers]) -> "Source":
        """A student that a course trained."""
        return cls(folder, course.task, course.encoder.max_length, course.tokens(), answers, course.hardware)


@dataclass(frozen=True)
class Parity:
    """How far a file answers the test split as torch does, in padded batches.

    Attributes:
        largest_logit_difference: Of any logit.
        changed_predictions: Share of the decisions that differ.
    """

    largest_logit_difference: float
    changed_predictions: float


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written and proved.

    Attributes:
        folder: All that ships: `model.onnx`, `tokenizer.json` (tokenizers' own) and `student.json`.
        answers: On validation and test, as it ships: see `rows_at_once`.
    """

    name: str
    folder: Path
    answers: Mapping[str, Answers]
    parity: Parity


def rows_at_once(settings: ExportFormat) -> int:
    """How many rows a file is asked together.

    Dynamic quantization scales the activations of a whole batch: a row's answer would depend on its neighbours, in a
    request as in a file of texts. So its rows are asked one by one.
    """
    is_dynamic = isinstance(settings, OnnxInt8) and settings.quantization == Quantization.dynamic
    return 1 if is_dynamic else BATCH_ROWS


def export_student(formats: Mapping[str, ExportFormat], source: Source, cache: Cache) -> dict[str, ExportedFile]:
    """Write a student in each of some formats, or take what an earlier run wrote of the same student.

    Raises:
        UserError: The float32 file does not answer as torch does.
    """
    if not formats:
        return {}
    # int8 is made from it: a wrong graph would make a wrong file.
    float32 = _export("onnx", Onnx(), source, None, cache)
    return {
        name: float32 if isinstance(settings, Onnx) else _export(name, settings, source, float32, cache)
        for name, settings in formats.items()
    }


def _export(
    name: str, settings: ExportFormat, source: Source, float32: ExportedFile | None, cache: Cache
) -> ExportedFile:
    def build(target: Path, work: Path) -> None:
        if Processes.current().is_main:  # what the others would write is not kept
            _build(name, settings, source, float32, target)

    parts = {
        "file": name,
        "settings": plain(settings),
        "model": path_digest(source.folder),
        "max_length": source.max_length,
        "data": source.task.fingerprint("train", "validation", "test"),
        "kind": source.task.kind.name,
        # How sure several labels are is counted otherwise than it was in files that are kept.
        **({"sureness": "of what is told"} if source.task.kind.outputs == Outputs.yes_no else {}),
        "versions": library_versions() | {package: version(package) for package in PACKAGES},
    }
    started = time.perf_counter()
    entry, (parity, answers) = cache.loaded("exports", parts, build, _read)
    if entry.hit:
        logger.info("export %s: kept from an earlier run of the same student", name)
    else:
        logger.info("export %s: written and checked in %.0f s", name, time.perf_counter() - started)
    return ExportedFile(name, entry.path / "model", answers, parity)


def _read(folder: Path) -> tuple[Parity, dict[str, Answers]]:
    parity = Parity(**json.loads((folder / "parity.json").read_text(encoding="utf-8")))
    return parity, read_answers(folder)


def _build(name: str, settings: ExportFormat, source: Source, float32: ExportedFile | None, target: Path) -> None:
    folder = target / "model"
    folder.mkdir()
    encoder = load_finished(source.folder, source.task.kind, source.max_length)
    if float32 is None:
        write_float32(encoder.model, _example(encoder, source.tokens["test"]), folder / MODEL_FILE)
    else:
        assert isinstance(settings, OnnxInt8)
        calibration = _calibration(encoder, source.tokens["train"], num_calibration_rows(settings))
        write_int8(float32.folder / MODEL_FILE, settings, calibration, folder / MODEL_FILE)
    parity = _parity(name, folder, encoder, source)
    if float32 is None and not parity.largest_logit_difference <= TOLERANCE:  # nan too
        raise UserError(
            "export",
            f"the ONNX file's logits differ from torch's by up to {parity.largest_logit_difference:.2g} on test "
            f"(at most {TOLERANCE:g} is rounding), so that it is another model",
            "export none, and report it with the student's settings",
        )
    at_once = rows_at_once(settings)
    answers = {split: _answer(name, folder, encoder, source, split, at_once) for split in SPLITS}
    write_answers(answers, target)
    write_tokenizer(encoder.tokenizer, source.max_length, folder)
    settings_of = StudentFiles.of(source.folder, source.task, source.max_length, answers["validation"]).settings()
    written = settings_of | {"rows_at_once": at_once} | _label_scale(encoder)
    (folder / SETTINGS_FILE).write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    (target / "parity.json").write_text(json.dumps(asdict(parity)), encoding="utf-8")


def _label_scale(encoder: Encoder) -> dict[str, float]:
    """In which unit a number is answered, where the student's config says so."""
    names = ("label_mean", "label_scale")
    return {name: getattr(encoder.model.config, name) for name in names if hasattr(encoder.model.config, name)}


def _example(encoder: Encoder, tokens: Tokens) -> Mapping[str, Tensor]:
    """A padded batch: the shortest row, and the longest."""
    lengths = tokens.rows().lengths
    rows = [int(lengths.argmin()), int(lengths.argmax())]
    return _collated(encoder, tokens, rows)


def _collated(encoder: Encoder, tokens: Tokens, rows: list[int]) -> Mapping[str, Tensor]:
    batch = tokens.rows().__getitems__(rows)
    for row in batch:
        row.pop(UNITS, None)
    return dict(DataCollatorWithPadding(encoder.tokenizer)(batch))


def _calibration(encoder: Encoder, tokens: Tokens, num_rows: int) -> Iterator[dict[str, np.ndarray]]:
    """Some rows of a split, the same ones for the same split, in padded batches of eight."""
    chosen = np.random.default_rng(0).permutation(len(tokens))[:num_rows].tolist()
    for start in range(0, len(chosen), 8):
        batch = _collated(encoder, tokens, chosen[start : start + 8])
        yield {name: value.numpy() for name, value in batch.items()}


def _parity(name: str, folder: Path, encoder: Encoder, source: Source) -> Parity:
    """Compare with torch, in batches that hold long rows and short ones together."""
    given = _answer(f"{name}, in batches", folder, encoder, source, "test", BATCH_ROWS)
    expected = _torch_answers(encoder, source)
    kind, labels = source.task.kind, source.task.labels("validation")
    given, expected = (kind.decided(item, source.answers["validation"], labels) for item in (given, expected))
    read = given.read & expected.read  # of words; -inf has no difference
    difference = (given.values[read] - expected.values[read]).abs().max()
    return Parity(float(difference), 1 - kind.agreement(given, expected))


def _torch_answers(encoder: Encoder, source: Source) -> Answers:
    """In float32: what a GPU or bfloat16 answered is rounded differently."""
    hardware = source.hardware
    if hardware.device.type == "cpu" and not hardware.bfloat16:
        return source.answers["test"]
    on_cpu = Hardware(torch.device("cpu"), False, hardware.num_threads, 0)
    return predict(
        encoder.model,
        encoder.tokenizer,
        source.tokens["test"],
        on_cpu,
        batch_size=BATCH_ROWS,
        description="export: torch on test",
    )


def _answer(name: str, folder: Path, encoder: Encoder, source: Source, split: str, at_once: int) -> Answers:
    threads = source.hardware.num_threads_for(encoder.model)
    session = open_session(folder / MODEL_FILE, num_threads=threads)

    def forward(inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.from_numpy(logits_of_session(session, {key: value.numpy() for key, value in inputs.items()}))

    ask = partial(answer_batches, forward, encoder.tokenizer, source.tokens[split], source.task.kind.num_outputs)
    return ask(at_once, f"export {name}: {split}", by_length=False)
