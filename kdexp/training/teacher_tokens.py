"""The teacher's own tokens of a data set's text, beside the student's."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.loss.features import FeatureTerms
from kdexp.loss.terms import Alignment
from kdexp.model.alignment import align
from kdexp.training.collate import TEACHER_PREFIX, WORDS, first_row


def with_teacher_tokens(
    dataset: Any,
    tokenizer: PreTrainedTokenizerBase,
    student_tokenizer: PreTrainedTokenizerBase | None,
    text_columns: Sequence[str],
    max_length: int | None,
    terms: FeatureTerms | None,
) -> Any:
    """Add the teacher's own tokens of the text to a dataset; where tokens are compared, the words of both models' too.

    Args:
        dataset: A `datasets.Dataset`, or a streaming one, which is tokenized as it is read.
    """
    if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
        raise ValueError(
            f"teacher_processing_class needs train_dataset to be a datasets.Dataset, got {type(dataset).__name__}; "
            "or tokenize for the teacher yourself, to columns teacher_input_ids and teacher_attention_mask"
        )
    columns = first_row(dataset)
    missing = [name for name in text_columns if name not in columns]
    if missing:
        raise ValueError(
            f"teacher_processing_class needs the text itself, but train_dataset has no column "
            f"{', '.join(missing)} (it has {', '.join(columns)}); "
            "set text_columns in the training arguments"
        )
    method = terms.alignment if terms is not None and terms.needs_words else None
    if method and student_tokenizer is None:
        raise ValueError("feature_terms compare tokens: pass processing_class=<the student's tokenizer>")
    if method is None and student_tokenizer is not None and _labels_tokens(columns):
        method = Alignment.words

    def tokenize(batch: dict[str, list[Any]]) -> dict[str, Any]:
        texts = [[_joined(value) for value in batch[name]] for name in text_columns]
        tokens = tokenizer(*texts, truncation=True, max_length=max_length)
        columns = {TEACHER_PREFIX + name: value for name, value in tokens.items()}
        if method:
            lengths = [len(row) for row in batch["input_ids"]]
            alignment = align(
                student_tokenizer,
                tokenizer,
                *texts,
                # Where texts were cut, that is where; where none was, nothing is cut here either.
                student_max_length=max(lengths),
                teacher_max_length=max_length,
                method=method,
            )
            if [len(words) for words in alignment.student_words] != lengths:
                raise ValueError(
                    "the input_ids of train_dataset are not what processing_class makes of its text, unpadded"
                )
            columns |= {WORDS: alignment.student_words, TEACHER_PREFIX + WORDS: alignment.teacher_words}
        return columns

    description = {"desc": "the teacher's tokens"} if isinstance(dataset, datasets.Dataset) else {}
    return dataset.map(tokenize, batched=True, **description)


def _labels_tokens(row: Mapping[str, Any]) -> bool:
    """Whether a row has a label for each of the student's tokens."""
    labels, tokens = row.get("labels"), row.get("input_ids")
    return isinstance(labels, list) and isinstance(tokens, list) and len(labels) == len(tokens)


def _joined(text: str | Sequence[str]) -> str:
    """A text; of words what their tokenizers make of them, with spaces between."""
    return text if isinstance(text, str) else " ".join(text)
