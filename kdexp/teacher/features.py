"""What a teacher shows beyond its answers: its features, aligned with the student's tokens, cached where they fit.

Within a stated budget of disk the teacher is run once over the training rows, and what the loss compares is cached
(`teacher.cache_hidden`); beyond it, the teacher is forwarded beside the student at each step.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PretrainedConfig

from kdexp.arrow import Column, Rows
from kdexp.errors import under
from kdexp.fingerprint import library_versions
from kdexp.loss.base import Loss
from kdexp.loss.features import FeatureTerms, recorded
from kdexp.loss.terms import FeatureTerm, VectorTerm, WordTerm
from kdexp.model.alignment import AlignedWords, align, pad_words, require_characters
from kdexp.model.encoder import Encoder
from kdexp.model.forward import accepted_inputs
from kdexp.model.tokens import Tokens, longest_first, tokenize, tokenizer_fingerprint
from kdexp.progress import progress
from kdexp.task.split import Split
from kdexp.teacher.base import Teacher, require_features
from kdexp.teacher.config import EncoderTeacherConfig, TeacherConfig
from kdexp.training.collate import FEATURES, TEACHER_PREFIX, WORDS
from kdexp.training.course import Course

logger = logging.getLogger(__name__)

_BYTES_PER_VALUE = 4  # float32: what is cached is what would be forwarded
_BYTES_PER_GB = 10**9


@dataclass(frozen=True)
class TeacherFeatures:
    """What the training rows carry for the feature terms.

    Attributes:
        columns: For each split, columns to add to its rows: the words of the student's tokens, and either the
            teacher's tokens, or its features of them.
        parts: What decides their content, for cache keys.
        teacher_config: Of the teacher, whose sizes the terms need.
        teacher: To be forwarded at each step; None where all is cached.
        num_forwarded: Rows that this run forwarded to cache them.
    """

    columns: dict[str, dict[str, Column]]
    parts: dict[str, object]
    teacher_config: PretrainedConfig
    teacher: Encoder | None
    num_forwarded: int
    seconds: float


def refuse_unfit_features(terms: Mapping[str, FeatureTerm], teacher: Teacher, student: Encoder) -> None:
    """Refuse, before anything is trained, feature terms that do not fit the models.

    Raises:
        UserError: With the reason.
    """
    if not terms:
        return
    encoder = require_features(teacher, "loss.terms")
    with under("loss"):
        needs_words = FeatureTerms(student.model.config, encoder.model.config, terms).needs_words
    if needs_words:
        require_characters("teacher", encoder.tokenizer)
        require_characters("student", student.tokenizer)


def teacher_features(teacher: Teacher, settings: TeacherConfig, course: Course, loss: Loss) -> TeacherFeatures | None:
    """Align the texts that the student trains on, and run the teacher over them where its budget allows.

    Args:
        settings: The teacher's, for its budget and its batches.

    Returns:
        None where the loss has no feature terms.
    """
    if not loss.terms:
        return None
    started = time.perf_counter()
    splits = course.training_splits
    encoder = require_features(teacher, "loss.terms")
    budget, batch_size = None, course.schedule.eval_batch_size
    if isinstance(settings, EncoderTeacherConfig):  # another that shows features is forwarded at each step
        budget, batch_size = settings.cache_hidden, settings.train.eval_batch_size
    terms = FeatureTerms(course.encoder.model.config, encoder.model.config, loss.terms)
    reader = _Reader(encoder, course, terms, batch_size)
    aligned = {name: reader.align(split) for name, split in splits.items()}
    num_gb = _BYTES_PER_VALUE * sum(reader.num_values(words) for words in aligned.values()) / _BYTES_PER_GB
    is_cached = budget is not None and num_gb <= budget
    columns, num_forwarded = {}, 0
    for name, split in splits.items():
        if is_cached:
            columns[name], forwarded = reader.cached(split, name, aligned[name])
            num_forwarded += forwarded
        else:
            columns[name] = reader.tokens(split, aligned[name])
    _announce(terms, budget, num_gb, is_cached, num_forwarded, sum(len(split) for split in splits.values()))
    encoder.model.to("cpu")  # its memory is the student's, until a step asks for it again
    return TeacherFeatures(
        columns=columns,
        parts={
            "teacher": encoder.fingerprint(),
            "max_length": encoder.max_length,
            "terms": loss.parts()["terms"],
            "cached": is_cached,
        },
        teacher_config=encoder.model.config,
        teacher=None if is_cached else encoder,
        num_forwarded=num_forwarded,
        seconds=time.perf_counter() - started,
    )


def _announce(
    terms: FeatureTerms,
    budget: float | None,
    num_gb: float,
    is_cached: bool,
    num_forwarded: int,
    num_rows: int,
) -> None:
    kinds = ", ".join(sorted(terms.terms))
    if is_cached:
        logger.info(
            "teacher in the loop: what %s compare is kept, %.2f GB; %s of %s rows forwarded, the rest kept before",
            kinds,
            num_gb,
            f"{num_forwarded:,}",
            f"{num_rows:,}",
        )
    else:
        logger.info(
            "teacher in the loop: forwarded at each step, because what %s compare would take %.2f GB "
            "(teacher.cache_hidden=%s)",
            kinds,
            num_gb,
            "null" if budget is None else f"{budget:g}",
        )


@dataclass(frozen=True)
class _Reader:
    """Reads one teacher's features for one student."""

    teacher: Encoder
    course: Course
    terms: FeatureTerms
    batch_size: int

    def align(self, split: Split) -> AlignedWords:
        if not self.terms.needs_words:
            return AlignedWords([[] for _ in range(len(split))], [[] for _ in range(len(split))])
        return align(
            self.course.encoder.tokenizer,
            self.teacher.tokenizer,
            list(split.first),
            None if split.second is None else list(split.second),
            student_max_length=self.course.encoder.max_length,
            teacher_max_length=self.teacher.max_length,
            method=self.terms.alignment,
        )

    def shapes(self, words: AlignedWords) -> list[dict[str, tuple[int, ...]]]:
        """Of each row's features, by term."""
        return [self.terms.feature_shapes(_num_words(row)) for row in words.teacher_words]

    def num_values(self, words: AlignedWords) -> int:
        return sum(math.prod(shape) for shapes in self.shapes(words) for shape in shapes.values())

    def tokens(self, split: Split, words: AlignedWords) -> dict[str, Column]:
        """The columns from which a step can forward the teacher."""
        tokens = self._tokenize(split)
        columns: dict[str, Column] = {TEACHER_PREFIX + name: values for name, values in tokens.inputs.items()}
        if self.terms.needs_words:
            columns |= {WORDS: words.student_words, TEACHER_PREFIX + WORDS: words.teacher_words}
        return columns

    def cached(self, split: Split, name: str, words: AlignedWords) -> tuple[dict[str, Column], int]:
        """The columns with the features themselves, and the rows that had to be forwarded for them."""
        shapes = self.shapes(words)

        def compute(work: Path) -> dict[str, Tensor]:
            return self._forward(self._tokenize(split), words, shapes, f"teacher: features of {name}")

        def fit(tensors: Mapping[str, Tensor]) -> bool:
            sizes = {term: sum(math.prod(shape[term]) for shape in shapes) for term in self.terms.pairs}
            return {term: values.numel() for term, values in tensors.items()} == sizes

        entry = self.course.cache.tensors("teacher_features", self._parts(split), compute, fit)
        # Views: nothing is copied until a batch is made of them.
        by_term = {
            term: [
                part.view(shape[term])
                for part, shape in zip(
                    entry.tensors[term].split([math.prod(shape[term]) for shape in shapes]), shapes, strict=True
                )
            ]
            for term in self.terms.pairs
        }
        rows = [dict(zip(by_term, values, strict=True)) for values in zip(*by_term.values(), strict=True)]
        columns: dict[str, Column] = {TEACHER_PREFIX + FEATURES: rows}
        if self.terms.needs_words:
            columns[WORDS] = words.student_words
        return columns, 0 if entry.hit else len(split)

    def _tokenize(self, split: Split) -> Tokens:
        teacher, course = self.teacher, self.course
        return tokenize(teacher.tokenizer, split, teacher.max_length, course.task.kind, course.cache)

    def _parts(self, split: Split) -> dict[str, object]:
        terms, student = self.terms, self.course.encoder
        return {
            "teacher": self.teacher.fingerprint(),
            "max_length": self.teacher.max_length,
            # Which words there are depends on the student's tokens too.
            "alignment": str(terms.alignment) if terms.needs_words else None,
            "student_tokenizer": tokenizer_fingerprint(student.tokenizer) if terms.needs_words else None,
            "student_max_length": student.max_length if terms.needs_words else None,
            "layers": {name: [layer for _, layer in pairs] for name, pairs in terms.pairs.items()},
            "reads": {name: str(term.reads) for name, term in terms.terms.items()},
            "pooling": {name: str(term.pooling) for name, term in terms.terms.items() if isinstance(term, VectorTerm)},
            "text": split.text_digest,
            "numerics": self.course.hardware.numerics,
            "versions": library_versions(),
        }

    def _forward(
        self,
        tokens: Tokens,
        words: AlignedWords,
        shapes: list[dict[str, tuple[int, ...]]],
        description: str,
    ) -> dict[str, Tensor]:
        """Each term's features of all rows, one row after another in one flat tensor."""
        found: dict[str, list[Tensor]] = {name: [torch.empty(0)] * len(shapes) for name in self.terms.pairs}
        rows = Rows(tokens.inputs)
        order = longest_first(rows).tolist()
        model = self.teacher.model.to(self.course.hardware.device).eval()
        with (
            self.course.hardware.threads_for(model),
            self.terms.with_eager_attention(model),
            progress(description, len(order)) as advance,
            torch.inference_mode(),
            self.course.hardware.autocast(),
        ):
            for start in range(0, len(order), self.batch_size):
                indices = order[start : start + self.batch_size]
                batch = self._forward_batch(
                    rows.__getitems__(indices), [words.teacher_words[index] for index in indices]
                )
                for name, values in batch.items():
                    for row, index in enumerate(indices):
                        sizes = tuple(slice(size) for size in shapes[index][name])
                        found[name][index] = values[row][sizes].flatten()
                advance(len(indices))
        return {name: torch.cat(rows) for name, rows in found.items()}

    def _forward_batch(self, rows: list[dict[str, list[int]]], words: list[Sequence[int]]) -> dict[str, Tensor]:
        model, device = self.teacher.model, self.course.hardware.device
        inputs = DataCollatorWithPadding(self.teacher.tokenizer)(rows).to(device)
        padded = pad_words(words, inputs["input_ids"].shape[1], self.teacher.tokenizer.padding_side)
        with recorded(model, self.terms.reads) as recording:
            outputs = model(**accepted_inputs(model, dict(inputs)), **recording.flags)
        features = self.terms.teacher_features(
            outputs, recording, inputs["attention_mask"], padded.to(device), max(map(_num_words, words))
        )
        return {name: values.cpu() for name, values in features.items()}


def _num_words(words: Sequence[int]) -> int:
    return max(words, default=-1) + 1


def alignment_tag(terms: Mapping[str, FeatureTerm]) -> str:
    """`words` or `position`, as asked for; `none` where no term compares tokens."""
    alignments = {str(term.alignment) for term in terms.values() if isinstance(term, WordTerm)}
    return alignments.pop() if alignments else "none"
