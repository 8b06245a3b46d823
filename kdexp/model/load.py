"""Models as their settings describe them: built compact, or loaded from a checkpoint."""

from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoTokenizer

from kdexp.cache import Cache
from kdexp.errors import under
from kdexp.model import families
from kdexp.model.checkpoints import load_checkpoint
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import Encoder, model_class
from kdexp.model.legibility import measure_legibility, refuse_illegible
from kdexp.model.transplanted import transplanted
from kdexp.task.kinds.base import TaskKind
from kdexp.task.load import Task


def load_encoder(
    role: str,
    config: ModelConfig,
    task: Task,
    cache: Cache,
    *,
    seed: int,
    new_head: bool = True,
    foreign_head: bool = False,
) -> Encoder:
    """Build a compact model, or load a checkpoint, transplanted where that is asked for.

    Args:
        role: `teacher` or `student`: names the settings in errors.
        seed: Of newly made weights.
        new_head: Give a checkpoint a new head even if it has one.
        foreign_head: The head may choose one of several classes where the task asks for each label, or the reverse.

    Raises:
        UserError: The checkpoint is not there, not readable, or not fit for the task; or the model cannot read the
            task's text.
    """
    config = transplanted(role, config, cache)
    torch.manual_seed(seed)
    if config.checkpoint is None:
        encoder = _build_compact(role, config, task)
    else:
        encoder = load_checkpoint(role, config, task.kind, new_head=new_head, foreign_head=foreign_head)
    found = measure_legibility(role, encoder.tokenizer, task.train, encoder.max_length, task.kind)
    refuse_illegible(found, config)
    return replace(encoder, legibility=found)


def load_finished(folder: Path, kind: TaskKind, max_length: int) -> Encoder:
    """Load what `Encoder.save` wrote of a model that answers the task."""
    model = model_class(kind).from_pretrained(folder, dtype=torch.float32)
    return Encoder(model, AutoTokenizer.from_pretrained(folder), max_length, answers_task=True)


def _build_compact(role: str, config: ModelConfig, task: Task) -> Encoder:
    assert config.num_layers is not None
    assert config.hidden_size is not None
    assert config.num_heads is not None
    assert config.vocab_size is not None
    tokenizer = families.train_tokenizer(
        config.family, task.known_text.texts, vocab_size=config.vocab_size, max_length=config.max_length
    )
    with under(role):
        model_config = families.compact_config(
            config.family,
            tokenizer,
            num_layers=config.num_layers,
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            max_length=config.max_length,
            head=task.kind.head_config(),
        )
    model = model_class(task.kind).from_config(model_config, dtype=torch.float32)
    return Encoder(model, tokenizer, config.max_length, answers_task=False)
