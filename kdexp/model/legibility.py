"""Can a model read the text at all? Measured on a sample of the training text, before anything is trained."""

from dataclasses import dataclass

from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError
from kdexp.model.config import ModelConfig
from kdexp.model.tokens import count_truncated
from kdexp.task.kinds.base import TaskKind
from kdexp.task.split import Split

_NUM_ROWS = 1000
# A word of unknown letters is two tokens to XLM-R, its space and <unk>: the space says nothing.
_SPACES = "▁Ġ \t\n"
_MOST_UNKNOWN = 0.5
_NOTABLE_UNKNOWN = 0.05
_NOTABLE_TRUNCATED = 0.2


@dataclass(frozen=True)
class Legibility:
    """How much of a text reaches a model.

    Attributes:
        role: What the model's settings begin with.
        num_rows: How many rows were looked at.
        unknown_rate: Share of the tokens, special ones and spaces apart, that are the unknown token.
        truncation_rate: Share of the rows that are longer than `max_length` tokens.
    """

    role: str
    num_rows: int
    unknown_rate: float
    truncation_rate: float
    max_length: int

    @property
    def notices(self) -> list[str]:
        """What a person should know before trusting the scores."""
        notices = []
        if self.unknown_rate > _NOTABLE_UNKNOWN:
            notices.append(f"{self.role}: {self.unknown_rate:.1%} of the training text's tokens are unknown to it")
        if self.truncation_rate > _NOTABLE_TRUNCATED:
            notices.append(
                f"{self.role}: {self.truncation_rate:.1%} of the training texts are longer than the {self.max_length} "
                f"tokens that it reads ({self.role}.max_length): their ends are cut off"
            )
        return notices


def measure_legibility(
    role: str, tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int, kind: TaskKind
) -> Legibility:
    """Tokenize rows from all over a split, as the model will read them."""
    first, second = split.sample(_NUM_ROWS)
    tokens = kind.tokenize(tokenizer, first, second, max_length)
    num_tokens = num_unknown = 0
    for encoding in tokens.encodings or ():
        told = zip(encoding.ids, encoding.tokens, encoding.special_tokens_mask, strict=True)
        own = [number for number, token, special in told if not special and token.strip(_SPACES)]
        num_tokens += len(own)
        num_unknown += own.count(tokenizer.unk_token_id)
    return Legibility(
        role=role,
        num_rows=len(first),
        unknown_rate=num_unknown / max(num_tokens, 1),
        truncation_rate=count_truncated(tokens) / max(len(first), 1),
        max_length=max_length,
    )


def refuse_illegible(found: Legibility, config: ModelConfig) -> None:
    """Refuse a model to which most of the text is unknown: its scores would say nothing of what it can do.

    Raises:
        UserError: More than half of the tokens are the unknown token.
    """
    if found.unknown_rate <= _MOST_UNKNOWN:
        return
    problem = f"{found.unknown_rate:.0%} of the training text's tokens are unknown to"
    if config.checkpoint is None:
        raise UserError(
            f"{found.role}.vocab_size",
            f"got {config.vocab_size}: {problem} its tokenizer",
            f"use a larger one, or a family that reads bytes, such as {found.role}=roberta",
        )
    raise UserError(
        f"{found.role}.checkpoint",
        f"{problem} the tokenizer of {config.checkpoint}",
        "was it made for another language or script? choose a checkpoint that reads this text",
    )
