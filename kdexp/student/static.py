"""A static student: its tokens, and what its embeddings begin with."""

import copy

import torch
from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError
from kdexp.model.encoder import Encoder
from kdexp.model.families import train_tokenizer
from kdexp.model.static import StaticConfig, StaticForSequenceClassification
from kdexp.student.config import StaticStudentConfig
from kdexp.task.load import Task

_FAMILY = "bert"
"""Whose kind of tokenizer it has where none is given: WordPiece, uncased."""
_VOCAB_SIZE = 8000


def static_student(
    config: StaticStudentConfig, task: Task, source: tuple[PreTrainedTokenizerBase, Tensor] | None, *, seed: int
) -> Encoder:
    """Make a static student.

    Args:
        source: Whose tokens and embeddings, [tokens, width], it begins with; None for tokens of its own and random
            embeddings.
        seed: Of all that begins at random.

    Raises:
        UserError: It cannot answer what the task asks, or has no token that tells the texts of a pair apart.
    """
    config.refuse_kind(task.kind)
    assert config.hidden_size is not None
    if source is None:
        vocab_size = config.vocab_size or _VOCAB_SIZE
        tokenizer: PreTrainedTokenizerBase = train_tokenizer(
            _FAMILY, task.train.texts, vocab_size=vocab_size, max_length=config.max_length
        )
        note = f"student: random embeddings of {len(tokenizer):,} tokens made from the training text"
    else:
        tokenizer, table = source
    tokenizer = _without_token_types(tokenizer)
    separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if task.train.is_pair and separator is None:
        raise UserError("student", "got static, but the tokenizer puts no token between two texts", "use student=bert")
    torch.manual_seed(seed)
    model = StaticForSequenceClassification(
        StaticConfig(
            vocab_size=max(tokenizer.get_vocab().values()) + 1 if source is None else len(table),
            hidden_size=config.hidden_size,
            is_pair=task.train.is_pair,
            separator_token_id=separator,
            pad_token_id=tokenizer.pad_token_id,
            dropout=config.dropout,
            **task.kind.head_config(),
        )
    )
    if source is not None:
        kept, share = main_directions(table, config.hidden_size)
        with torch.no_grad():
            model.embeddings.weight[:, : kept.shape[1]] = kept
        note = (
            f"student: {len(table):,} embeddings of {table.shape[1]} on their {kept.shape[1]} main directions "
            f"({share:.0%} of their variance)"
        )
    return Encoder(model, tokenizer, config.max_length, answers_task=False, notes=(note,))


def _without_token_types(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy that gives the model what it reads, wherever it is loaded."""
    own = copy.deepcopy(tokenizer)
    own.model_input_names = ["input_ids", "attention_mask"]
    own.init_kwargs["model_input_names"] = own.model_input_names
    return own


def main_directions(table: Tensor, width: int) -> tuple[Tensor, float]:
    """Embeddings by their principal components, the greatest first, scaled to a mean square of 1 for each token.

    Args:
        table: [tokens, hidden]

    Returns:
        [tokens, min(width, hidden)], and the share of the variance that is kept.
    """
    centered = (table - table.mean(dim=0)).double()
    values, directions = torch.linalg.eigh(centered.T @ centered)
    values, directions = values.flip(0).clamp(min=0), directions.flip(1)[:, :width]
    # An eigenvector's sign is arbitrary: the largest entry is positive, whatever library computes it.
    directions = directions * directions.gather(0, directions.abs().argmax(dim=0, keepdim=True)).sign()
    kept = centered @ directions
    scale = kept.square().sum(dim=1).mean().sqrt().clamp(min=1e-12)
    share = float(values[:width].sum() / values.sum().clamp(min=1e-12))
    return (kept / scale).float(), share
