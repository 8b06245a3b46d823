"""What every loss is: what can be set of it, what it may be used for, and how it is called."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from kdexp.loss.terms import FeatureTerm, ramp
from kdexp.ranges import Checked, Range

if TYPE_CHECKING:
    from torch import Tensor

IGNORED_LABEL = -100
"""Label of a row without a gold label (torch's own convention)."""

Alpha = Annotated[float, Range("a number from 0 (teacher only) to 1 (gold labels only)", low=0, high=1)]


class Outputs(StrEnum):
    """What a row of logits says."""

    classes = "classes"  # one of several classes
    yes_no = "yes_no"  # for each of several labels
    number = "number"

    @property
    def in_words(self) -> str:
        match self:
            case Outputs.classes:
                return "classes of which one is right"
            case Outputs.yes_no:
                return "a yes or no for each label"
            case Outputs.number:
                return "a number"


@dataclass(kw_only=True)
class Loss(Checked):
    """loss = alpha * hard + (1 - alpha) * soft + sum of weight * term.

    Attributes:
        name: What it is called in run names; a preset is called after its paper.
        terms: Feature terms by name.

    Raises:
        UserError: A setting is out of range.
    """

    name: str
    terms: dict[str, FeatureTerm] = field(default_factory=dict)

    outputs: ClassVar[frozenset[Outputs]] = frozenset(Outputs)
    """Kinds of logits for which it is meant."""
    min_classes: ClassVar[int] = 2
    """With fewer it says nothing, or something else than meant."""
    degenerate: ClassVar[str] = ""
    """Why, with fewer."""

    @property
    def uses_logits(self) -> bool:
        """Whether the student is compared with the teacher's logits at any step."""
        return False

    @property
    def uses_teacher(self) -> bool:
        """Whether anything of the teacher enters the loss; where nothing does, its other settings have no effect."""
        return bool(self.terms) or self.uses_logits

    @property
    def relates_rows(self) -> bool:
        """Whether it relates the rows of a batch to each other, terms aside."""
        return False

    def alpha_at(self, progress: float) -> float:
        """Weight of the gold labels when `progress`, from 0 to 1, of the training is done."""
        return 1.0

    def parts(self) -> dict[str, Any]:
        """What of the loss decides the student, as JSON values, for keys and hashes.

        Settings and formulas; without a teacher all losses are one.
        """
        if not self.uses_teacher:
            return {"formula": CrossEntropy.__name__}
        terms = {name: {"formula": type(term).__name__} | asdict(term) for name, term in self.terms.items()}
        return {"formula": type(self).__name__} | asdict(self) | {"terms": terms}


@dataclass(kw_only=True)
class CrossEntropy(Loss):
    """Gold labels only (alpha = 1): without `terms`, no teacher."""

    name: str = "ce"


@dataclass(kw_only=True)
class LogitLoss(Loss):
    """A loss that compares the student's logits with the teacher's.

    Where each label is a question of its own (`Outputs.yes_no`), a loss that compares distributions compares those of
    "yes" and "no", which are a sigmoid's: two classes with the logits z and 0. It is then the mean over the labels, as
    the hard loss is; at temperature T, sigmoid(z / T).

    Attributes:
        alpha: Weight of the gold labels at the first step: 1 = no teacher, 0 = teacher only.
        alpha_end: At the last step, with a linear ramp between; None keeps `alpha`.
    """

    alpha: Alpha = 0.5
    alpha_end: Alpha | None = None

    outputs: ClassVar[frozenset[Outputs]] = frozenset({Outputs.classes, Outputs.yes_no})
    compares_outputs: ClassVar[bool] = False
    """It compares the outputs themselves, and not a distribution that they stand for."""
    degenerate: ClassVar[str] = "one class leaves nothing to compare"
    reads_others: ClassVar[bool] = False
    """Whether a term of its own compares the classes beside the target with each other."""

    @property
    def reads_level(self) -> bool:
        """Whether a constant that is added to a row of the teacher's logits changes it."""
        return False

    @property
    def uses_logits(self) -> bool:
        return self.alpha < 1 or self.alpha_end not in (None, 1)

    @property
    def one_hot_problem(self) -> str:
        """Why it makes no sense of a teacher whose answers are one-hot; "" where it does."""
        if self.compares_outputs:
            return (
                f"{self.name} compares the outputs, and a one-hot answer has none: each choice would be another loss"
            )
        return ""

    def alpha_at(self, progress: float) -> float:
        return ramp(self.alpha, self.alpha_end, progress)

    def __call__(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor,
        *,
        num_examples: Tensor | int | None = None,
        outputs: Outputs = Outputs.classes,
    ) -> Tensor:
        """The soft loss: mean over rows, a scalar.

        Args:
            student_logits, teacher_logits: [batch, outputs]
            labels: [batch], gold classes, -100 where there is none: the teacher's class then takes its place. Of other
                outputs no loss reads them.
            outputs: What the logits say.
        """
        student, teacher = precise(student_logits), precise(teacher_logits.detach())
        num_rows, num_outputs = student.shape
        if outputs == Outputs.yes_no and not self.compares_outputs:
            total = self.total(_yes_or_no(student), _yes_or_no(teacher), labels) / num_outputs
        else:
            total = self.total(student, teacher, labels)
        return total / (num_rows if num_examples is None else num_examples)

    def total(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        """Sum over rows: all that a loss has to write.

        Args:
            student, teacher: [batch, classes], logits in float32 or float64; the teacher's are detached.
            labels: [batch], -100 for none; see `targets`.
        """
        raise NotImplementedError


def targets(labels: Tensor, teacher: Tensor) -> Tensor:
    """[batch, 1]: the gold class, or the teacher's where there is none."""
    return labels.where(labels != IGNORED_LABEL, teacher.argmax(-1)).unsqueeze(-1)


def _yes_or_no(logits: Tensor) -> Tensor:
    """[batch * labels, 2] of [batch, labels]: softmax of the two is the sigmoid of the one, and its complement."""
    pairs = logits.reshape(-1, 1).expand(-1, 2)
    return pairs.where(logits.new_tensor([1.0, 0.0]).bool(), 0.0)


def precise(logits: Tensor) -> Tensor:
    """In float32, or in float64 where they are."""
    return logits if logits.dtype.itemsize == 8 else logits.float()
