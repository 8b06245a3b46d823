"""What else differs between families than their embeddings: how they read a split, how sure their teachers are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.model.tokens import count_truncated, tokenized
from kdexp.task.evaluate import classification_metrics
from kdexp.task.split import Split


@dataclass(frozen=True)
class ReadingHabits:
    """How one tokenizer reads one split.

    Attributes:
        tokens_per_word: Without special tokens, before anything is cut; words are what white space separates.
        truncation_rate: Share of rows that are longer than the model reads.
        unknown_rate: Share of tokens that are the unknown token.
        is_cased: Upper and lower case are told apart.
    """

    vocab_size: int
    tokens_per_word: float
    truncation_rate: float
    unknown_rate: float
    is_cased: bool


@dataclass(frozen=True)
class Confidence:
    """How sure a teacher is, and how rightly.

    Attributes:
        ece: Expected calibration error at temperature 1.
        mean_entropy: Of its answers at temperature 1, in nats.
        mean_soft_entropy: Of its answers at the temperature at which it teaches, in nats: what the student sees.
        max_entropy: Of answers that know nothing, in nats.
    """

    accuracy: float
    ece: float
    mean_entropy: float
    temperature: float
    mean_soft_entropy: float
    max_entropy: float


def reading_habits(tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int) -> ReadingHabits:
    """Measure how a model with this tokenizer and length reads a split."""
    num_words = num_tokens = num_unknown = 0
    # The backend itself: it neither cuts nor warns of texts that are too long for the model.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for texts in (texts for batch in split.text_batches() for texts in batch if texts is not None):
        num_words += sum(len(text.split()) for text in texts)
        encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        num_tokens += sum(len(encoding.ids) for encoding in encodings)
        num_unknown += sum(encoding.ids.count(tokenizer.unk_token_id) for encoding in encodings)
    num_truncated = sum(map(count_truncated, tokenized(tokenizer, split, max_length)))
    normalizer = tokenizer.backend_tokenizer.normalizer
    return ReadingHabits(
        vocab_size=len(tokenizer),
        tokens_per_word=num_tokens / max(num_words, 1),
        truncation_rate=num_truncated / max(len(split), 1),
        unknown_rate=num_unknown / max(num_tokens, 1),
        is_cased=normalizer is None or "A" in normalizer.normalize_str("A"),
    )


def confidence(logits: Tensor, labels: Sequence[int], temperature: float) -> Confidence:
    """Measure a teacher's answers.

    Args:
        logits: [rows, classes]
        labels: [rows], class indices
        temperature: At which it teaches.
    """
    metrics = classification_metrics(logits, labels)
    return Confidence(
        accuracy=metrics["accuracy"],
        ece=metrics["ece"],
        mean_entropy=_mean_entropy(logits, 1.0),
        temperature=temperature,
        mean_soft_entropy=_mean_entropy(logits, temperature),
        max_entropy=math.log(logits.shape[1]),
    )


def reading_table(habits: Mapping[str, ReadingHabits]) -> pd.DataFrame:
    """One row per family."""
    return pd.DataFrame(
        [
            {
                "family": family,
                "vocabulary": item.vocab_size,
                "tokens per word": f"{item.tokens_per_word:.2f}",
                "rows cut": f"{item.truncation_rate:.1%}",
                "unknown tokens": f"{item.unknown_rate:.2%}",
                "case": "cased" if item.is_cased else "uncased",
            }
            for family, item in habits.items()
        ]
    )


def confidence_table(confidences: Mapping[str, Confidence]) -> pd.DataFrame:
    """One row per teacher."""
    return pd.DataFrame(
        [
            {
                "teacher": teacher,
                "accuracy": f"{item.accuracy:.2%}",
                "ECE": f"{item.ece:.3f}",
                "mean entropy (nats)": f"{item.mean_entropy:.3f}",
                "teaches at temperature": f"{item.temperature:g}",
                "mean entropy there": f"{item.mean_soft_entropy:.3f} of {item.max_entropy:.3f}",
            }
            for teacher, item in confidences.items()
        ]
    )


def _mean_entropy(logits: Tensor, temperature: float) -> float:
    probabilities = softmax(logits.float().numpy().astype(np.float64) / temperature, axis=-1)
    return float(entropy(probabilities, axis=-1).mean())
