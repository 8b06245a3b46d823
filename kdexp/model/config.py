"""What can be set of a model."""

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class ModelConfig:
    """A model by family (compact, from scratch) or by checkpoint (hub id or folder).

    `transplant` names another tokenizer (hub id or folder): the checkpoint's encoder is then made to read
    its tokens, in its family's architecture and with a new head (kdexp/transplant.py).
    """

    name: str = MISSING
    family: str = MISSING
    checkpoint: str | None = None
    transplant: str | None = None
    revision: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    vocab_size: int | None = None
    max_length: int = 128
    labels: list[str] | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
