"""What else differs between models than what is asked about: how they read a split, how calibrated a teacher is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.special import entr, softmax

from kdexp.loss.base import Outputs

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

    from kdexp.model.encoder import Encoder
    from kdexp.task.kinds.base import Answers, TaskKind
    from kdexp.task.load import Task
    from kdexp.task.split import Split


@dataclass(frozen=True)
class TokenizerStatistics:
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
class Calibration:
    """How well a teacher's confidence matches its accuracy, and how much uncertainty its answers hold.

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


@dataclass(frozen=True)
class Diagnostics:
    """What a run says about its models beside their scores, on validation.

    Attributes:
        tokenizers: By role, of the models that have one.
        calibration: Of what the student is taught; None where answers are no distributions over classes.
    """

    tokenizers: Mapping[str, TokenizerStatistics] = field(default_factory=dict)
    calibration: Calibration | None = None


def diagnose(
    task: "Task", readers: Mapping[str, "Encoder"], answers: "Answers | None", temperature: float
) -> Diagnostics:
    """Measure how models read the validation split, and the teacher's answers about it.

    Args:
        readers: By role; a teacher that has no tokenizer is left out.
        answers: What the student is taught; None where that is not known of validation.
        temperature: At which it is taught.
    """
    tokenizers = {
        role: tokenizer_statistics(model.tokenizer, task.validation, model.max_length, task.kind)
        for role, model in readers.items()
    }
    is_distribution = task.kind.outputs == Outputs.classes
    if answers is None or not is_distribution:
        return Diagnostics(tokenizers)
    return Diagnostics(tokenizers, calibration(task, answers, temperature))


def tokenizer_statistics(
    tokenizer: "PreTrainedTokenizerBase", split: "Split", max_length: int, kind: "TaskKind"
) -> TokenizerStatistics:
    """Measure how a model with this tokenizer and length reads a split."""
    from kdexp.model.tokens import count_truncated, tokenized

    num_words = num_tokens = num_unknown = 0
    # The backend itself: it neither cuts nor warns of texts that are too long for the model.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    for texts in (texts for batch in split.text_batches() for texts in batch if texts is not None):
        num_words += sum(len(text.split()) for text in texts)
        encodings = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
        num_tokens += sum(len(encoding.ids) for encoding in encodings)
        num_unknown += sum(encoding.ids.count(tokenizer.unk_token_id) for encoding in encodings)
    num_truncated = sum(map(count_truncated, tokenized(tokenizer, split, max_length, kind)))
    normalizer = tokenizer.backend_tokenizer.normalizer
    return TokenizerStatistics(
        vocab_size=len(tokenizer),
        tokens_per_word=num_tokens / max(num_words, 1),
        truncation_rate=num_truncated / max(len(split), 1),
        unknown_rate=num_unknown / max(num_tokens, 1),
        is_cased=normalizer is None or "A" in normalizer.normalize_str("A"),
    )


def calibration(task: "Task", answers: "Answers", temperature: float) -> Calibration:
    """Measure a teacher's answers on validation.

    Args:
        temperature: At which it teaches.
    """
    rows, labels = answers.answered_rows, task.labels("validation")
    if len(rows) < answers.num_rows:
        answers, labels = answers.take(rows), labels.take(rows)
    logits, metrics = answers.values[answers.read], task.kind.metrics(answers, labels)
    return Calibration(
        accuracy=metrics.get("accuracy", math.nan),
        ece=metrics.get("ece", math.nan),
        mean_entropy=_mean_entropy(logits, 1.0),
        temperature=temperature,
        mean_soft_entropy=_mean_entropy(logits, temperature),
        max_entropy=math.log(logits.shape[1]),
    )


def tokenizer_table(statistics: Mapping[str, TokenizerStatistics]) -> "pd.DataFrame":
    """One row per family."""
    import pandas as pd

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
            for family, item in statistics.items()
        ]
    )


def calibration_table(calibrations: Mapping[str, Calibration]) -> "pd.DataFrame":
    """One row per teacher."""
    import pandas as pd

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
            for teacher, item in calibrations.items()
        ]
    )


def _mean_entropy(logits: "Tensor", temperature: float) -> float:
    probabilities = softmax(logits.float().numpy().astype(np.float64) / temperature, axis=-1)
    return float(entr(probabilities / probabilities.sum(axis=-1, keepdims=True)).sum(axis=-1).mean())
