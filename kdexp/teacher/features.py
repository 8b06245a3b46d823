"""What the teacher shows of its inside, beyond its logits: aligned with the student's tokens, and kept where it fits.

The teacher is in the loop either way. Within a stated budget of disk it is run once over the training rows, and
what the loss compares is kept (`teacher.cache_hidden`); beyond it, it is forwarded beside the student at each step.
"""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PretrainedConfig

from kdexp.cache import Cache
from kdexp.fingerprint import library_versions, texts_fingerprint
from kdexp.hardware import Hardware
from kdexp.loss.base import Loss
from kdexp.loss.features import FeatureTerms, recorded
from kdexp.loss.terms import VectorTerm, WordTerm
from kdexp.model.alignment import AlignedWords, align, pad_words
from kdexp.model.encoder import Encoded, LoadedModel, encode, tokenizer_fingerprint
from kdexp.progress import progress
from kdexp.task.load import Split
from kdexp.teacher.encoder import Teacher
from kdexp.training import checks as guards
from kdexp.training.collate import TARGETS, TEACHER_PREFIX, WORDS

logger = logging.getLogger(__name__)

_BYTES_PER_VALUE = 4  # float32: what is kept is what would be forwarded
_BYTES_PER_GB = 10**9


@dataclass(frozen=True)
class TeacherTargets:
    """What the training rows carry for the representation terms.

    Attributes:
        columns: For each split, columns to add to its rows: the words of the student's tokens, and either the
            teacher's tokens, or what the teacher showed of them.
        parts: What decides their content, for cache keys.
        teacher_config: Of the teacher, whose sizes the terms need.
        teacher: To be forwarded at each step; None where all is kept.
        num_forwarded: Rows that this run forwarded to keep them.
    """

    columns: dict[str, dict[str, list[Any]]]
    parts: dict[str, object]
    teacher_config: PretrainedConfig
    teacher: LoadedModel | None
    num_forwarded: int
    seconds: float


def prepare_targets(
    teacher: Teacher,
    student: LoadedModel,
    splits: dict[str, Split],
    loss: Loss,
    budget_gb: float | None,
    cache: Cache,
    hardware: Hardware,
    batch_size: int,
) -> TeacherTargets:
    """Align the texts that the student trains on, and run the teacher over them where the budget allows.

    Args:
        splits: `train`, and `transfer` where it is used.
        budget_gb: Of disk, for all splits together, in units of 10^9 bytes; None keeps nothing.
    """
    started = time.perf_counter()
    terms = FeatureTerms(student.model.config, teacher.loaded.model.config, loss.terms)
    encoded = {
        name: encode(teacher.loaded.tokenizer, split, teacher.loaded.max_length) for name, split in splits.items()
    }
    aligned = {name: _align(student, teacher.loaded, split, terms) for name, split in splits.items()}
    num_bytes = _BYTES_PER_VALUE * sum(
        math.prod(shape) for words in aligned.values() for shapes in _shapes(terms, words) for shape in shapes.values()
    )
    num_rows = sum(len(split) for split in splits.values())
    is_kept = budget_gb is not None and num_bytes / _BYTES_PER_GB <= budget_gb
    columns: dict[str, dict[str, list[Any]]] = {name: {} for name in splits}
    num_forwarded = 0
    for name, split in splits.items():
        if terms.needs_words:
            columns[name][WORDS] = aligned[name].student_words
        if is_kept:
            targets, forwarded = _kept_targets(
                teacher, student, terms, split, name, encoded[name], aligned[name], cache, hardware, batch_size
            )
            columns[name][TEACHER_PREFIX + TARGETS] = targets
            num_forwarded += forwarded
        else:
            if terms.needs_words:
                columns[name][TEACHER_PREFIX + WORDS] = aligned[name].teacher_words
            for column in encoded[name].rows[0]:
                columns[name][TEACHER_PREFIX + column] = [row[column] for row in encoded[name].rows]
    if is_kept:
        logger.info(
            "teacher in the loop: what %s compare is kept, %.2f GB; %s of %s rows forwarded, the rest kept before",
            ", ".join(sorted(terms.terms)),
            num_bytes / _BYTES_PER_GB,
            f"{num_forwarded:,}",
            f"{num_rows:,}",
        )
    else:
        logger.info(
            "teacher in the loop: forwarded at each step, because what %s compare would take %.2f GB "
            "(teacher.cache_hidden=%s)",
            ", ".join(sorted(terms.terms)),
            num_bytes / _BYTES_PER_GB,
            "null" if budget_gb is None else f"{budget_gb:g}",
        )
    return TeacherTargets(
        columns=columns,
        parts={
            "teacher": teacher.loaded.fingerprint(),
            "max_length": teacher.loaded.max_length,
            "terms": loss.parts()["terms"],
            "kept": is_kept,
        },
        teacher_config=teacher.loaded.model.config,
        teacher=None if is_kept else teacher.loaded,
        num_forwarded=num_forwarded,
        seconds=time.perf_counter() - started,
    )


def _align(student: LoadedModel, teacher: LoadedModel, split: Split, terms: FeatureTerms) -> AlignedWords:
    if not terms.needs_words:
        return AlignedWords([[] for _ in range(len(split))], [[] for _ in range(len(split))])
    return align(
        student.tokenizer,
        teacher.tokenizer,
        split.first,
        split.second,
        student_max_length=student.max_length,
        teacher_max_length=teacher.max_length,
        method=terms.alignment,
    )


def _shapes(terms: FeatureTerms, aligned: AlignedWords) -> list[dict[str, tuple[int, ...]]]:
    """Of each row's targets."""
    return [terms.feature_shapes(_num_words(words)) for words in aligned.teacher_words]


def _num_words(words: Sequence[int]) -> int:
    return max(words, default=-1) + 1


def _kept_targets(
    teacher: Teacher,
    student: LoadedModel,
    terms: FeatureTerms,
    split: Split,
    split_name: str,
    encoded: Encoded,
    aligned: AlignedWords,
    cache: Cache,
    hardware: Hardware,
    batch_size: int,
) -> tuple[list[dict[str, Tensor]], int]:
    """The targets of each row of a split, and the rows that had to be forwarded for them."""
    parts = {
        "format": 1,
        "teacher": teacher.loaded.fingerprint(),
        "max_length": teacher.loaded.max_length,
        # Which words there are depends on the student's tokens too.
        "alignment": str(terms.alignment) if terms.needs_words else None,
        "student_tokenizer": tokenizer_fingerprint(student.tokenizer) if terms.needs_words else None,
        "student_max_length": student.max_length if terms.needs_words else None,
        "layers": {name: [layer for _, layer in pairs] for name, pairs in terms.pairs.items()},
        "reads": {name: str(term.reads) for name, term in terms.terms.items()},
        "pooling": {name: str(term.pooling) for name, term in terms.terms.items() if isinstance(term, VectorTerm)},
        "text": texts_fingerprint(split.first, split.second),
        "numerics": hardware.numerics,
        "versions": library_versions(),
    }
    shapes = _shapes(terms, aligned)

    def compute(work: Path) -> dict[str, Tensor]:
        return _forward_all(teacher.loaded, terms, encoded, aligned, shapes, hardware, batch_size, split_name)

    entry = cache.tensors("teacher_targets", parts, compute)
    # Views: nothing is copied until a batch is made of them.
    by_term = {
        name: [
            part.view(shape[name])
            for part, shape in zip(
                entry.tensors[name].split([math.prod(shape[name]) for shape in shapes]), shapes, strict=True
            )
        ]
        for name in terms.pairs
    }
    rows = [dict(zip(by_term, values, strict=True)) for values in zip(*by_term.values(), strict=True)]
    return rows, 0 if entry.hit else len(split)


def _forward_all(
    teacher: LoadedModel,
    terms: FeatureTerms,
    encoded: Encoded,
    aligned: AlignedWords,
    shapes: list[dict[str, tuple[int, ...]]],
    hardware: Hardware,
    batch_size: int,
    split_name: str,
) -> dict[str, Tensor]:
    """Each term's targets of all rows, one row after another in one flat tensor."""
    model, collate = teacher.model, DataCollatorWithPadding(teacher.tokenizer)
    found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(shapes) for name in terms.pairs}
    order = sorted(range(len(encoded.rows)), key=lambda index: -len(encoded.rows[index]["input_ids"]))
    model.to(hardware.device).eval()
    with (
        terms.with_eager_attention(model),
        progress(f"teacher: inside, on {split_name}", len(order)) as advance,
        torch.inference_mode(),
        hardware.autocast(),
    ):
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            inputs = collate([encoded.rows[index] for index in indices]).to(hardware.device)
            words = [aligned.teacher_words[index] for index in indices]
            num_words = max(map(_num_words, words))
            padded = pad_words(words, inputs["input_ids"].shape[1], teacher.tokenizer.padding_side)
            with recorded(model, terms.reads) as features:
                outputs = model(**guards.accepted_inputs(model, dict(inputs)), **features.flags)
            targets = terms.teacher_features(
                outputs, features, inputs["attention_mask"], padded.to(hardware.device), num_words
            )
            for name, batch in targets.items():
                on_cpu = batch.cpu()
                for row, index in enumerate(indices):
                    sizes = tuple(slice(size) for size in shapes[index][name])
                    found[name][index] = on_cpu[row][sizes].flatten()
            advance(len(indices))
    return {name: torch.cat(rows) for name, rows in found.items()}


def alignment_tag(loss: Loss) -> str:
    """`words` or `position`, as asked for; `none` where no term compares tokens."""
    alignments = {str(term.alignment) for term in loss.terms.values() if isinstance(term, WordTerm)}
    return alignments.pop() if alignments else "none"
