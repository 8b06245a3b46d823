"""The settings of a `DistillationTrainer`."""

import json
import math
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from transformers import TrainingArguments

from kdexp.errors import UserError, under
from kdexp.loss.base import LogitLoss, Outputs
from kdexp.loss.logit import KD, LOSSES, MSE
from kdexp.training.config import Tokenization


@dataclass
class DistillationTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` plus the distillation's own, which `to_dict()` records too.

    Args:
        alpha: Weight of the gold labels, 0 to 1: 1 trains without a teacher, 0 on the teacher alone.
        alpha_end: Where alpha gets to, linearly, at the last step; None keeps it.
        temperature: T, above 0; softens both distributions. Of Hinton's loss: a `soft_loss` has its own. Of several
            labels each one's sigmoid is softened; a student of numbers has none, and learns by the squared difference.
        soft_loss: Another soft loss than Hinton's, by name with its settings, as in conf/loss:
            `{"name": "dkd", "temperature": 4.0, "target_weight": 1.0, "nontarget_weight": 8.0}`, or that as JSON.
        tokenization: `own`, each model reads its own tokens; `student_ids`, the teacher is fed the
            student's ids though its vocabulary is another one (an ablation: its answers are nonsense).
        text_columns: One or two dataset columns that hold the text, read by `teacher_processing_class`.
        transfer_weight: Weight of the soft loss of a row without a gold label (-100), relative to that of a labelled
            row.
        transfer_ratio: Share of each batch that are rows without a gold label; None leaves them as they come.
        teacher_max_length: The teacher's texts are cut after so many of its tokens; by default its
            tokenizer's own limit.
    """

    alpha: float = 0.5
    alpha_end: float | None = None
    temperature: float = 4.0
    # With `str`, HfArgumentParser takes JSON from a command line.
    soft_loss: dict[str, Any] | str | None = None
    tokenization: str = "own"
    transfer_weight: float = 1.0
    transfer_ratio: float | None = None
    text_columns: list[str] = field(default_factory=lambda: ["text"])
    teacher_max_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self)

    def logit_loss(self) -> LogitLoss:
        """`logit_loss` of these arguments."""
        return logit_loss(self)


def distillation_arguments(args: TrainingArguments | None) -> DistillationTrainingArguments:
    """Arguments that say all that a distillation asks for.

    Args:
        args: Plain ones, or those of a class of one's own, get the settings that they lack, at their defaults.
    """
    if args is None:
        return DistillationTrainingArguments(output_dir="tmp_trainer")  # the Trainer's own default
    if not isinstance(args, DistillationTrainingArguments):
        plain = {item.name for item in fields(TrainingArguments)}
        for item in fields(DistillationTrainingArguments):
            if item.name not in plain and not hasattr(args, item.name):
                setattr(args, item.name, item.default if item.default_factory is MISSING else item.default_factory())
        _check(args)
    return args


def _check(args: Any) -> None:
    if isinstance(args.soft_loss, str) and args.soft_loss.startswith("{"):
        try:
            args.soft_loss = json.loads(args.soft_loss)
        except json.JSONDecodeError as error:
            raise UserError("soft_loss", f"got {args.soft_loss!r}", f"expected JSON: {error}") from None
    logit_loss(args)
    if args.tokenization not in set(Tokenization):
        raise UserError("tokenization", f"got {args.tokenization!r}", f"expected one of {', '.join(Tokenization)}")
    if not (args.transfer_weight > 0 and math.isfinite(args.transfer_weight)):
        raise UserError("transfer_weight", f"got {args.transfer_weight}", "expected a finite number above 0")
    if args.transfer_ratio is not None and not 0 < args.transfer_ratio < 1:
        raise UserError("transfer_ratio", f"got {args.transfer_ratio}", "expected a number between 0 and 1")
    # A search gives each trial's value the type of the value before: 0.3 would become 0.
    args.alpha, args.temperature = float(args.alpha), float(args.temperature)


def logit_loss(args: Any, outputs: Outputs = Outputs.classes) -> LogitLoss:
    """The loss that the settings describe as they are now.

    Args:
        outputs: What the student says: Hinton's loss compares probabilities, and numbers have none, so that their
            squared difference takes its place.

    Raises:
        UserError: A `ValueError`: `soft_loss` names none, or a setting is not legal.
    """
    hinton = KD(alpha=args.alpha, alpha_end=args.alpha_end, temperature=args.temperature)
    if not args.soft_loss:
        is_number = outputs == Outputs.number
        return MSE(alpha=args.alpha, alpha_end=args.alpha_end, centered=False) if is_number else hinton
    if not isinstance(args.soft_loss, dict):
        raise UserError("soft_loss", f"got {args.soft_loss!r}", 'expected {"name": ...} with its settings')
    settings = dict(args.soft_loss)
    with under("soft_loss"):
        return _named_loss(settings.pop("name", None), settings, alpha=args.alpha, alpha_end=args.alpha_end)


def _named_loss(name: object, settings: dict[str, Any], *, alpha: float, alpha_end: float | None) -> LogitLoss:
    """The loss of that name.

    Raises:
        UserError: There is none of that name, a setting is unknown, missing, of a wrong type or out of range.
    """
    kinds = {known: kind for known, kind in LOSSES.items() if issubclass(kind, LogitLoss)}
    kind = kinds.get(str(name))
    if kind is None:
        raise UserError("name", f"got {name!r}", f"expected one of {', '.join(kinds)}")
    shared = {item.name for item in fields(LogitLoss)}
    legal = [item.name for item in fields(kind) if item.name not in shared]
    remedy = f"{name} takes {', '.join(legal) or 'no settings'}"
    for setting in settings:
        if setting not in legal:
            raise UserError(str(setting), "no such setting", remedy)
    for setting in legal:
        if setting not in settings:
            raise UserError(setting, "is not set", remedy)
    return kind(alpha=alpha, alpha_end=alpha_end, **settings)


def soft_loss_settings(loss: LogitLoss) -> dict[str, Any]:
    """`soft_loss` for a loss: the name of its formula, whatever a preset calls it, and its settings."""
    shared = {item.name for item in fields(LogitLoss)}
    own = {item.name: getattr(loss, item.name) for item in fields(loss) if item.name not in shared}
    return {"name": next(name for name, kind in LOSSES.items() if kind is type(loss))} | own
