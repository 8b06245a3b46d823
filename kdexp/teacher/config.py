"""What can be set of a teacher, by what it is made of."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar
from urllib.parse import urlsplit

from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.model.config import ModelConfig
from kdexp.ranges import Checked, NaturalNumber, Positive, PositiveInt, Range, Seed, Weight, later
from kdexp.tracking.secrets import redact
from kdexp.training.config import Tokenization, TrainConfig

if TYPE_CHECKING:
    from kdexp.task.kinds.base import TaskKind

__all__ = [
    "TEACHERS",
    "CausalTeacherConfig",
    "ChatMethod",
    "ChatTeacherConfig",
    "EncoderTeacherConfig",
    "PredictionsTeacherConfig",
    "TeacherConfig",
    "Tokenization",
    "Values",
]

Floor = Annotated[float, Range("a number above 0, at most 0.01", low=0, high=0.01, open_low=True)]


class TeacherRows(StrEnum):
    """Whose gold labels a teacher is fine-tuned on."""

    train = "train"
    all = "all"


@dataclass(kw_only=True)
class TeacherConfig(Checked):
    """What every teacher has.

    Attributes:
        chance_check: It has to be better than the trivial answer before it may teach.
        weight: Share in what several teachers answer together, relative to the others'.
        label_map: Where its classes are not the task's: the task's class by the teacher's, None to leave one out.
        outputs: What its outputs say, where a head's own config does not: one of several classes (softmax), or yes or
            no for each label (sigmoid).
    """

    name: str
    chance_check: bool = True
    weight: Positive = 1.0
    label_map: Any = later(None)
    outputs: Outputs | None = later(None)

    incidental: ClassVar[tuple[str, ...]] = ()
    """Settings that change nothing of what it answers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        label_map = self.label_map
        if label_map is not None and not (isinstance(label_map, dict) and label_map):
            raise UserError(
                "label_map", f"got {label_map}", "expected {teacher's class: task's class}, null to leave out"
            )
        if self.outputs == Outputs.number:
            raise UserError("outputs", "got number", "expected classes or yes_no")

    def refuse_kind(self, role: str, kind: "TaskKind") -> None:
        """Refuse a task that a teacher of this kind cannot answer.

        Raises:
            UserError: Under `role`.
        """

    @property
    def origin(self) -> str:
        """What it answers from, as the log says it; the names of runs have the end of it."""
        return self.name

    def inputs(self) -> Mapping[str, str | None]:
        """Settings that may name files or folders of this machine, whose content then decides what it answers."""
        return {}


@dataclass(kw_only=True)
class EncoderTeacherConfig(ModelConfig, TeacherConfig):
    """A teacher that is an encoder, and how it is fine-tuned where it still has to be.

    Attributes:
        learns_from: `train`, the rows whose labels the student has too; `all`, also those that are text without labels
            to the student (`task.transfer=rest`): a teacher that knows more than a student could.
        cache_hidden: GB of disk for what representation terms compare; where that is not enough, or None, the
            teacher is forwarded at each step of the student's training.
    """

    finetune: bool | None = None
    learns_from: TeacherRows = later(TeacherRows.train)
    cache_hidden: Weight | None = 1.0
    seed: Seed = 0
    train: TrainConfig = field(default_factory=TrainConfig)


class Values(StrEnum):
    """What the numbers of a file of answers are."""

    auto = "auto"
    logits = "logits"
    probabilities = "probabilities"
    log_probabilities = "log_probabilities"


@dataclass(kw_only=True)
class PredictionsTeacherConfig(TeacherConfig):
    """A teacher that is a file of answers.

    Attributes:
        text: The file's column of the text, or columns of pairs; None: as kdexp's own files call them.
        id: In place of the text, the column that names each row, as `task.id` does.
        columns: What stands before each class's name in the names of the columns, or `{class: column}`; None: they are
            looked for.
        label, confidence: In place of a column per class: the column of a label, and the column of its probability, or
            one probability for all.
        floor: Smallest probability of a class.
    """

    path: str
    text: Any = None
    id: str | None = None
    columns: Any = None
    values: Values = Values.auto
    label: str | None = None
    confidence: Any = None
    floor: Floor = 1e-6

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.id is not None and self.text is not None:
            raise UserError("id", f"got {self.id}, but text is set too", "join by one of them")
        if self.label is None:
            if self.confidence is not None:
                raise UserError("confidence", f"got {self.confidence}, but no label", "name the label's column too")
            return
        if self.columns is not None or self.values != Values.auto:
            name = "values" if self.columns is None else "columns"
            raise UserError(name, "is of a column per class, but label names one column", "remove one of both")
        if self.confidence is None:
            problem = "is not set: a label alone is no distribution, and the gold labels are such labels already"
            raise UserError("confidence", problem, "name a column, or give one probability for all, such as 0.9")
        if not isinstance(self.confidence, str) and not 0 < float(self.confidence) < 1:
            raise UserError("confidence", f"got {self.confidence}", "expected a column, or a number between 0 and 1")

    def refuse_kind(self, role: str, kind: "TaskKind") -> None:
        if kind.has_units:
            problem = f"a file has one answer for each row, but this task asks for labels of words ({kind.name})"
            raise UserError(role, problem, "choose an encoder as the teacher")

    @property
    def origin(self) -> str:
        return self.path

    def inputs(self) -> Mapping[str, str | None]:
        return {"path": self.path}


class ChatMethod(StrEnum):
    """How a chat endpoint says how sure it is."""

    auto = "auto"
    logprobs = "logprobs"
    sampling = "sampling"


@dataclass(kw_only=True)
class PromptedTeacherConfig(TeacherConfig):
    """A teacher that is asked in words.

    Attributes:
        prompt: What it is asked: `{text}`, of pairs also `{text_pair}`, and `{classes}` are filled in.
        verbalizers: The word that means each class, `{class: word}`; None takes the classes' names.
    """

    prompt: str
    verbalizers: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verbalizers is not None and not isinstance(self.verbalizers, dict):
            raise UserError("verbalizers", f"got {self.verbalizers}", "expected {class: word}")

    def refuse_kind(self, role: str, kind: "TaskKind") -> None:
        if kind.has_units or kind.outputs == Outputs.number:
            problem = f"chooses one of several classes for a text, but the task is of kind {kind.name}"
            raise UserError(role, problem, "choose an encoder as the teacher")


@dataclass(kw_only=True)
class ChatTeacherConfig(PromptedTeacherConfig):
    """A teacher behind an OpenAI-compatible chat endpoint.

    Attributes:
        url: Of the endpoint; a server alone has it under /v1.
        model: As the endpoint calls it.
        system: Message before each prompt.
        method: `logprobs`, one request a text; `sampling`, `num_samples` of them; `auto` asks once to find out.
        top_logprobs: How many of the likeliest first tokens are asked for.
        smoothing: Added to the count of each class among sampled answers (Lidstone).
        max_tokens: Of a sampled answer.
        floor: Smallest probability of a class.
        num_parallel: Requests on their way at the same time.
        requests_per_minute: At most; None for no limit.
        timeout: Seconds that an answer may take.
        retries, total_retries: How often a request, and all of a run together, are tried again.
        key_variable: The environment variable that holds the key, where there is one.
    """

    url: str
    model: str
    system: str | None = None
    method: ChatMethod = ChatMethod.auto
    top_logprobs: Annotated[int, Range("a whole number from 1 to 20", low=1, high=20)] = 20
    num_samples: PositiveInt = 10
    sampling_temperature: Positive = 1.0
    smoothing: Positive = 0.5
    max_tokens: PositiveInt = 8
    floor: Floor = 1e-6
    num_parallel: PositiveInt = 4
    requests_per_minute: Positive | None = None
    timeout: Positive = 60.0
    retries: NaturalNumber = 6
    total_retries: NaturalNumber = 200
    key_variable: str = "OPENAI_API_KEY"

    incidental = ("url", "num_parallel", "requests_per_minute", "timeout", "retries", "total_retries", "key_variable")

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("url", f"got {redact(self.url)}", "expected an address such as http://127.0.0.1:8000/v1")
        if redact(self.url) != self.url or parts.username or "***" in self.url:
            raise UserError(
                "url",
                f"{redact(self.url)} holds a secret, which would be logged",
                "put it into the variable key_variable",
            )
        if not re.fullmatch(r"[A-Za-z_]\w*", self.key_variable):
            # What is there may be the key itself, and is not repeated.
            raise UserError(
                "key_variable", "is no name of a variable", "name one, such as OPENAI_API_KEY, not the key"
            )

    @property
    def origin(self) -> str:
        return self.model


@dataclass(kw_only=True)
class CausalTeacherConfig(PromptedTeacherConfig):
    """A causal language model on this machine, which scores a word for each class.

    Attributes:
        verbalizers: As they follow the prompt, a space before them where one belongs there.
        normalise: By the tokens of the word.
        calibrate: Divide by what is answered where there is no text.
        max_length: In tokens; None for what the model reads.
    """

    checkpoint: str
    revision: str | None = None
    normalise: bool = True
    calibrate: bool = False
    batch_size: PositiveInt = 16
    max_length: PositiveInt | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @property
    def origin(self) -> str:
        return self.checkpoint

    def inputs(self) -> Mapping[str, str | None]:
        return {"checkpoint": self.checkpoint}


TEACHERS: dict[str, type[TeacherConfig]] = {
    "encoder": EncoderTeacherConfig,
    "predictions": PredictionsTeacherConfig,
    "openai_compatible": ChatTeacherConfig,
    "causal_lm": CausalTeacherConfig,
}
"""What a teacher may be made of, by the name of its schema."""
