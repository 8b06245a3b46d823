"""What can be set of a student."""

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from kdexp.errors import UserError
from kdexp.model.config import ModelConfig
from kdexp.ranges import Checked, PositiveInt, Share, later

if TYPE_CHECKING:
    from kdexp.task.kinds.base import TaskKind


class Init(StrEnum):
    """What a student begins with."""

    own = "own"  # random weights, or its checkpoint's
    teacher_layers = "teacher_layers"  # of the teacher as it teaches: fine-tuned
    pretrained_layers = "pretrained_layers"  # of the teacher's checkpoint, before it was fine-tuned


class Vocab(StrEnum):
    """Which tokens a student keeps."""

    full = "full"
    trim = "trim"  # those of the training text


class LayerChoice(StrEnum):
    """Layers by rule, where they are not listed."""

    uniform = "uniform"  # spread evenly, the first and the last among them
    first = "first"
    last = "last"


@dataclass(kw_only=True)
class StudentConfig(ModelConfig):
    """A student.

    Attributes:
        init: Whose weights it begins with; its baseline begins with the same.
        layers: Which layers are taken, of the teacher or of the student's checkpoint: a rule, or their numbers, from
            0, in rising order. None is `uniform` of a teacher, `first` of a checkpoint.
        vocab: `trim` keeps the tokens of the training text, the special ones, and what other text is spelled with.
    """

    init: Init = later(Init.own)
    # Any: a rule or a list.
    layers: Any = later(None)
    vocab: Vocab = later(Vocab.full)

    def refuse_kind(self, kind: "TaskKind") -> None:
        """Refuse a task that a student of this kind cannot answer.

        Raises:
            UserError: Under `student`.
        """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.init, self.vocab = Init(self.init), Vocab(self.vocab)
        self._refuse_layers()
        if self.follows_teacher:
            self._refuse_own()
        elif self.checkpoint is None:
            self._refuse_without_source()

    @property
    def follows_teacher(self) -> bool:
        """Whether it is made of the teacher, which must be there first."""
        return self.init != Init.own

    @property
    def follows_fine_tuning(self) -> bool:
        """Whether it is made of what the teacher's fine-tuning ends with."""
        return self.init == Init.teacher_layers

    def _refuse_layers(self) -> None:
        if self.layers is None:
            return
        if isinstance(self.layers, list):
            _refuse_numbers(self.layers)
            if self.num_layers not in (None, len(self.layers)):
                raise UserError(
                    "num_layers", f"is {self.num_layers}, but layers lists {len(self.layers)}", "set one of the two"
                )
        elif self.layers not in set(LayerChoice):
            raise UserError("layers", f"got {self.layers}", f"expected {_LEGAL_LAYERS}")
        elif self.num_layers is None and (self.follows_teacher or self.checkpoint is not None):
            raise UserError("num_layers", f"is not set, and layers={self.layers} needs it", "add num_layers=3, say")

    def _refuse_own(self) -> None:
        """What the teacher decides cannot be set."""
        for name in ("checkpoint", "transplant", "hidden_size", "num_heads", "vocab_size", "labels"):
            if getattr(self, name) is not None:
                raise UserError(
                    name,
                    f"cannot be set with init={self.init}: the teacher decides it",
                    f"remove it, or remove init={self.init}",
                )
        if self.layers is None and self.num_layers is None:
            raise UserError(
                "num_layers",
                f"is not set, and init={self.init} needs it",
                "say how many layers of the teacher are kept, num_layers=3, or which, layers=[0,2,5]",
            )

    def _refuse_without_source(self) -> None:
        if self.layers is not None:
            raise UserError(
                "layers",
                f"got {self.layers}, but a compact student has layers of its own",
                "add init=teacher_layers, or choose a checkpoint (a hub id or folder)",
            )
        if self.vocab == Vocab.trim:
            raise UserError(
                "vocab",
                "is trim, but the vocabulary of a compact student is made from the training text already",
                "remove it, set vocab_size, or choose a checkpoint (a hub id or folder)",
            )


_LEGAL_LAYERS = f"{', '.join(LayerChoice)}, or numbers from 0 in rising order, such as [0,2,5]"


def _refuse_numbers(layers: list[Any]) -> None:
    are_numbers = bool(layers) and all(type(layer) is int and layer >= 0 for layer in layers)
    if not are_numbers or sorted(set(layers)) != layers:
        raise UserError("layers", f"got {layers}", f"expected {_LEGAL_LAYERS}")


STATIC = "static"


@dataclass(kw_only=True)
class StaticStudentConfig(StudentConfig):
    """A student without layers: a bag of embeddings with a small head (kdexp/model/static.py).

    Its tokens and first embeddings are the teacher's, or those of `checkpoint`; with `vocab_size` it has tokens of its
    own, made from the training text, and random embeddings.

    Attributes:
        hidden_size: Width of its embeddings: the main directions of those that they are made of.
        dropout: Of what is pooled.
    """

    hidden_size: PositiveInt | None = 256
    dropout: Share = 0.1

    def __post_init__(self) -> None:
        Checked.__post_init__(self)
        for name in ("num_layers", "num_heads", "layers", "transplant", "labels"):
            if getattr(self, name) is not None:
                raise UserError(name, f"got {getattr(self, name)}, but a static student has no layers", "remove it")
        if self.init != Init.own:
            raise UserError("init", f"got {self.init}, but a static student has no layers", "remove it")
        if self.checkpoint is not None and self.vocab_size is not None:
            raise UserError("vocab_size", f"cannot be set for the checkpoint {self.checkpoint}", "set one of the two")
        if self.vocab == Vocab.trim and self.vocab_size is not None:
            raise UserError("vocab", "is trim, but vocab_size asks for tokens of its own", "set one of the two")

    def refuse_kind(self, kind: "TaskKind") -> None:
        if kind.has_units:
            problem = "got static, which sees a text as a bag of tokens and labels no single one"
            raise UserError("student", problem, "use student=bert")

    @property
    def follows_teacher(self) -> bool:
        return self.checkpoint is None and self.vocab_size is None

    @property
    def follows_fine_tuning(self) -> bool:
        return self.follows_teacher


STUDENTS: dict[str, type[StudentConfig]] = {STATIC: StaticStudentConfig}
"""Students that have settings of their own, by the name of their schema."""
