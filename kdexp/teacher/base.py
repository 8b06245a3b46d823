"""What a teacher is: anything that answers a split.

Nothing else in kdexp knows what a teacher is made of. What only some teachers can do (show what they compute inside)
is a capability of its own, asked for by the code that needs it and refused in one line where it is missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, runtime_checkable

from kdexp.errors import UserError
from kdexp.loss.base import LogitLoss, Loss
from kdexp.loss.logit import LOSSES
from kdexp.model.encoder import Encoder
from kdexp.task.kinds.base import Answers
from kdexp.task.split import Split


class Scale(StrEnum):
    """What the numbers of an answer are."""

    logits = "logits"
    log_probabilities = "log_probabilities"  # logits up to a constant of each row
    top_class = "top_class"  # log-probabilities of which only the likeliest class's is known, the others' are alike


@dataclass(frozen=True)
class Cost:
    """What it cost to ask about some rows, when they were asked, by this run or an earlier one.

    Attributes:
        seconds: Of computing, or of waiting for each request, summed over requests that went in parallel.
        requests: 0 where nothing is asked over a network.
        tokens: Read and written.
    """

    rows: int
    seconds: float
    requests: int
    tokens: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.rows + other.rows,
            self.seconds + other.seconds,
            self.requests + other.requests,
            self.tokens + other.tokens,
        )

    def per_1000_rows(self) -> dict[str, float]:
        """By name, without what is nothing."""
        values = {"seconds": self.seconds, "requests": self.requests, "tokens": self.tokens}
        return {f"{name}_per_1000_rows": 1000 * value / self.rows for name, value in values.items() if value}


@dataclass(frozen=True)
class TeacherAnswers:
    """A teacher's answers on one split.

    Attributes:
        answers: Outputs in the task's order.
        key: Names their content: equal keys, equal answers.
        num_forwarded: Rows that this run had to ask about; 0 where the answers come from the cache.
        is_given: They were read from a person's file, and nobody was ever asked.
        members: Each one's, of several teachers; empty where there is one.
        notices: What a person should know of them.
    """

    answers: Answers
    key: str
    num_forwarded: int
    seconds: float
    members: Mapping[str, "TeacherAnswers"] = field(default_factory=dict)
    cost: Cost | None = None
    notices: Sequence[str] = ()
    is_given: bool = False


@dataclass(frozen=True)
class Preparation:
    """What it cost to make a teacher ready.

    Attributes:
        seconds: Of the fine-tuning, when it was done; 0 where none was needed.
        from_cache: An earlier run did it.
        history: (step, metrics) of the fine-tuning as it went: `train/...` and `validation/...`.
        notices: What a person should know of how it was made ready.
    """

    seconds: float = 0.0
    from_cache: bool = False
    history: Sequence[tuple[int, Mapping[str, float]]] = ()
    notices: Sequence[str] = ()


class Teacher(Protocol):
    """Anything that answers a split.

    Attributes:
        name: As metrics and logs call it.
        role: What its settings begin with, for errors.
        num_parameters: 0 where it has none that are known.
        digest: SHA-256 of what it answers by (of an encoder, its weights), once it is prepared.
        preparation: What preparing it cost, once it is prepared.
        checks_chance: It has to be better than the trivial answer before it may teach.
        members: Of several teachers in one, by name; empty where it is one.
    """

    name: str
    role: str
    scale: Scale
    num_parameters: int
    digest: str
    preparation: Preparation
    checks_chance: bool
    members: Mapping[str, "Teacher"]

    def prepare(self) -> None:
        """Make it ready to answer, where it is not: fine-tune it once, freeze it."""

    def fingerprint(self) -> str:
        """Name everything that decides its answers, the text apart."""

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        """Answer every row of a split.

        Args:
            name: Of the split, for progress bars.
        """

    def verify(self) -> None:
        """Prove that it did not change while it taught.

        Raises:
            RuntimeError: It did.
        """


@runtime_checkable
class ShowsFeatures(Protocol):
    """A teacher whose hidden states, attention and the like can be seen: there is an encoder inside."""

    encoder: Encoder


@runtime_checkable
class MayAbstain(Protocol):
    """A teacher that has no answer about some rows: their values are nan throughout."""

    may_abstain: bool


def may_abstain(teacher: Teacher) -> bool:
    """Whether some rows may have no answer of it."""
    return isinstance(teacher, MayAbstain) and teacher.may_abstain


def notices_of(teacher: Teacher) -> list[str]:
    """What a teacher, or each of several, has found out and every run should say, in one line each."""
    members = teacher.members or {teacher.name: teacher}
    return [
        f"teacher {name}: {line}"
        for name, item in members.items()
        for line in (*item.preparation.notices, *getattr(item, "notices", ()))
    ]


def refuse_unfit_answers(loss: Loss, teacher: Teacher) -> None:
    """Refuse a loss that needs more of a teacher's answers than there is in them.

    Raises:
        UserError: With the losses that need no more.
    """
    if not isinstance(loss, LogitLoss) or not loss.uses_logits:
        return
    if loss.reads_level and teacher.scale != Scale.logits:
        raise UserError(
            "loss.centered",
            f"is false, so {loss.name} compares logits themselves, but {teacher.name} answers "
            "log-probabilities, which are logits up to a constant of each row",
            "set loss.centered=true",
        )
    if loss.reads_others and teacher.scale == Scale.top_class:
        fitting = [name for name, kind in LOSSES.items() if not getattr(kind, "reads_others", False)]
        raise UserError(
            "loss",
            f"{loss.name} compares the classes beside the likeliest with each other, of which {teacher.name} says "
            "nothing: it gives a label with a confidence",
            f"expected one of {', '.join(fitting)}",
        )


def require_features(teacher: Teacher, setting: str) -> Encoder:
    """The encoder whose features can be seen.

    Args:
        setting: What needs them, for the error.

    Raises:
        UserError: The teacher answers, and shows nothing else.
    """
    if isinstance(teacher, ShowsFeatures):
        return teacher.encoder
    raise UserError(
        setting,
        f"compares with what a teacher computes inside, but {teacher.name} shows only its answers",
        "choose a loss without terms, or one teacher that is an encoder",
    )


def shown_encoders(teacher: Teacher) -> dict[str, Encoder]:
    """The encoders inside of a teacher, as far as it shows them: `teacher`, or `teacher_<name>` of several."""
    teachers = {f"teacher_{name}": member for name, member in teacher.members.items()} or {"teacher": teacher}
    return {role: item.encoder for role, item in teachers.items() if isinstance(item, ShowsFeatures)}


def cost_of(answers: Iterable[TeacherAnswers]) -> Cost | None:
    """What several splits cost together; None where that is not known of any."""
    known = [item.cost for item in answers if item.cost is not None]
    return sum(known[1:], known[0]) if known else None
