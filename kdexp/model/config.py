"""What can be set of a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from kdexp.errors import UserError
from kdexp.ranges import Checked, PositiveInt, Range

# Below this a byte-level vocabulary cannot hold its 256 bytes and the special tokens.
_VocabSize = Annotated[int, Range("a whole number of at least 300", low=300)]
_MaxLength = Annotated[int, Range("a whole number of at least 8", low=8)]


@dataclass(kw_only=True)
class ModelConfig(Checked):
    """A model by family (compact, from scratch) or by checkpoint (hub id or folder).

    Attributes:
        transplant: Another tokenizer (hub id or folder): the checkpoint's encoder is then made to read its
            tokens, in its family's architecture and with a new head (kdexp/model/transplant.py).
        num_layers: Of a compact model; of a checkpoint, how many of its first layers are kept.
        hidden_size, num_heads, vocab_size: Of a compact model only.
        max_length: In tokens; what is longer is cut.
        labels: The classes of a published head, where its own names say nothing (LABEL_0, ...).
    """

    name: str
    family: str
    checkpoint: str | None = None
    transplant: str | None = None
    revision: str | None = None
    num_layers: PositiveInt | None = None
    hidden_size: PositiveInt | None = None
    num_heads: PositiveInt | None = None
    vocab_size: _VocabSize | None = None
    max_length: _MaxLength = 128
    labels: list[str] | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint is None:
            self._refuse_compact()
        else:
            self._refuse_checkpoint()

    def inputs(self) -> Mapping[str, str | None]:
        """Settings that may name files or folders of this machine, whose content then decides what the model is."""
        return {"checkpoint": self.checkpoint, "transplant": self.transplant}

    def _refuse_compact(self) -> None:
        if self.transplant is not None:
            raise UserError(
                "transplant",
                f"got {self.transplant}, but a compact model has no pretrained encoder to transplant",
                "choose a checkpoint (a hub id or folder) too",
            )
        if self.labels is not None:
            raise UserError(
                "labels",
                "names the classes of a published head, but this model is compact",
                "remove it, or choose a checkpoint (a hub id or folder)",
            )

    def _refuse_checkpoint(self) -> None:
        for name in ("hidden_size", "num_heads", "vocab_size"):
            if getattr(self, name) is not None:
                raise UserError(
                    name,
                    f"cannot be set for the checkpoint {self.checkpoint}, which decides it itself",
                    "remove it, or remove the checkpoint for a compact model",
                )
        if self.transplant is not None and self.labels is not None:
            raise UserError(
                "labels",
                "names the classes of a published head, but with a transplant the head is made anew",
                "remove it",
            )
