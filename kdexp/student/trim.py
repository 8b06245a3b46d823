"""`student.vocab=trim`: only the tokens of the training text, and what that costs on other text."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from kdexp.cache import Cache
from kdexp.errors import under
from kdexp.fingerprint import library_versions
from kdexp.model.encoder import Encoder, predict
from kdexp.model.load import load_finished
from kdexp.model.tokens import tokenize, tokenized, tokenizer_fingerprint
from kdexp.model.vocabulary import kept_tokens, trimmed, untrimmed
from kdexp.results.measure import ModelAnswers
from kdexp.student.train import TrainedStudent
from kdexp.task.kinds.base import TaskKind
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.training.course import Course

_WHOLE = 10**9
"""Tokens at which no text is cut: a pair's length decides where it is."""


def trim(encoder: Encoder, task: Task, splits: Sequence[Split], cache: Cache) -> Encoder:
    """Leave an encoder the tokens of what it is trained on.

    Args:
        splits: Of the training text.

    Raises:
        UserError: Its tokenizer is none that can be trimmed.
    """

    def compute(_: object) -> dict[str, torch.Tensor]:
        return {"kept": torch.tensor(kept_tokens(encoder.tokenizer, _used(encoder, task.kind, splits)))}

    parts = {
        "tokenizer": tokenizer_fingerprint(encoder.tokenizer),
        "text": [split.text_digest for split in splits],
        "units": task.kind.has_units,
        "versions": library_versions(),
    }
    with under("student"):
        kept = cache.tensors("kept_tokens", parts, compute).tensors["kept"].tolist()
        small = trimmed(encoder, kept)
    assert small.trimming is not None
    changed = {name: _changed_rate(small, encoder, getattr(task, name), task.kind) for name in ("validation", "test")}
    before, after = encoder.num_parameters, small.num_parameters
    note = (
        f"student: {len(small.tokenizer):,} of {len(encoder.tokenizer):,} tokens kept, {after:,} of {before:,} "
        f"parameters ({1 - after / before:.0%} fewer); other tokens than with all of them in "
        f"{changed['validation']:.1%} of the validation texts"
    )
    trimming = replace(small.trimming, changed_rates=changed)
    return replace(small, notes=(*encoder.notes, note), trimming=trimming)


def _used(encoder: Encoder, kind: TaskKind, splits: Sequence[Split]) -> list[int]:
    used: set[int] = set()
    for split in splits:
        for tokens in tokenized(encoder.tokenizer, split, _WHOLE, kind):
            used.update(*tokens["input_ids"])
    return sorted(used)


def _changed_rate(small: Encoder, full: Encoder, split: Split, kind: TaskKind) -> float:
    """Share of the rows that a trimmed vocabulary tokenizes otherwise."""
    assert small.trimming is not None
    kept = np.array(small.trimming.kept)
    num_changed = 0
    batches = zip(
        tokenized(small.tokenizer, split, small.max_length, kind),
        tokenized(full.tokenizer, split, full.max_length, kind),
        strict=True,
    )
    for rows, full_rows in batches:
        pairs = zip(rows["input_ids"], full_rows["input_ids"], strict=True)
        num_changed += sum(kept[row].tolist() != ids for row, ids in pairs)
    return num_changed / max(len(split), 1)


def full_vocab_answers(course: Course, trained: TrainedStudent) -> ModelAnswers | None:
    """What the trained student answers with all tokens of its vocabulary; None where it was not trimmed.

    Training never reads the other tokens, so they are what they were: this is the student that would have been trained
    without trimming, but for what weight decay takes from tokens that are not read, and for the epoch, which
    validation chose as the trimmed student reads it.
    """
    trimming = course.encoder.trimming
    if trimming is None:
        return None
    small = load_finished(trained.folder, course.task.kind, course.encoder.max_length)
    full = untrimmed(small.model, trimming)
    answers = {
        name: predict(
            full.model,
            full.tokenizer,
            tokenize(full.tokenizer, split, full.max_length, course.task.kind, course.cache),
            course.hardware,
            batch_size=course.schedule.eval_batch_size,
            description=f"student, full vocabulary: {name}",
        )
        for name, split in course.evaluation_splits.items()
    }
    return ModelAnswers(answers, full.num_parameters)
