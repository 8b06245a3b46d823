"""Open the teacher that the settings describe: one, or several that answer together."""

from collections.abc import Mapping

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.hardware import Hardware
from kdexp.model.encoder import Encoder
from kdexp.task.load import Task
from kdexp.teacher.base import Teacher
from kdexp.teacher.causal import load_causal
from kdexp.teacher.chat.teacher import load_chat
from kdexp.teacher.config import (
    CausalTeacherConfig,
    ChatTeacherConfig,
    EncoderTeacherConfig,
    PredictionsTeacherConfig,
    TeacherConfig,
    Tokenization,
)
from kdexp.teacher.encoder import StudentIds, load_encoder_teacher
from kdexp.teacher.logits import Cached, Ensemble
from kdexp.teacher.predictions.teacher import load_predictions
from kdexp.teacher.translated import translated


def open_teacher(
    settings: Mapping[str, TeacherConfig],
    tokenization: Tokenization,
    task: Task,
    student: Encoder | None,
    cache: Cache,
    hardware: Hardware,
) -> Teacher:
    """Open every teacher, with its answers kept; several answer as one.

    Args:
        settings: By what they begin with: `teacher`, `more_teachers.roberta`, ...
        student: Whose ids the teacher is fed with `tokenization=student_ids`; not needed otherwise.

    Raises:
        UserError: One cannot be loaded, or does not answer the task.
    """
    foreign = student if tokenization == Tokenization.student_ids else None
    members = {item.name: _open(role, item, task, foreign, cache, hardware) for role, item in settings.items()}
    if len(members) == 1:
        return next(iter(members.values()))
    return Ensemble(members, {item.name: item.weight for item in settings.values()}, task.kind.outputs)


def _open(
    role: str, settings: TeacherConfig, task: Task, foreign: Encoder | None, cache: Cache, hardware: Hardware
) -> Teacher:
    """Open one teacher, with what is expensive about it cached.

    Args:
        foreign: Whose token ids it is fed, where they are not its own.
    """
    match settings:
        case EncoderTeacherConfig():
            teacher = load_encoder_teacher(role, settings, task, cache, hardware)
            cached = Cached(teacher if foreign is None else StudentIds(teacher, foreign), cache)
            return translated(cached, teacher.translation, task)
    if foreign is not None:
        raise UserError(
            "tokenization",
            f"student_ids feeds token ids to an encoder, but {role} is {settings.name}",
            "use tokenization=own",
        )
    match settings:
        case PredictionsTeacherConfig():
            return translated(*load_predictions(role, settings, task, cache), task)
        case ChatTeacherConfig():
            return translated(*load_chat(role, settings, task, cache), task)
        case CausalTeacherConfig():
            causal, translation = load_causal(role, settings, task, hardware)
            return translated(Cached(causal, cache), translation, task)
        case _:
            raise TypeError(f"no teacher of {type(settings).__name__}")
