"""Open the teacher that the settings describe: one, or several that answer together."""

from collections.abc import Mapping

from kdexp.cache import Cache
from kdexp.hardware import Hardware
from kdexp.model.encoder import Encoder
from kdexp.task.load import Task
from kdexp.teacher.base import Teacher
from kdexp.teacher.config import TeacherConfig, Tokenization
from kdexp.teacher.encoder import EncoderTeacher, StudentIds, load_encoder_teacher
from kdexp.teacher.logits import Cached, Ensemble


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
    opened: dict[str, EncoderTeacher] = {
        role: load_encoder_teacher(role, item, task, cache, hardware) for role, item in settings.items()
    }
    if tokenization == Tokenization.student_ids:
        assert student is not None
        wrapped: dict[str, Teacher] = {role: StudentIds(teacher, student) for role, teacher in opened.items()}
    else:
        wrapped = dict(opened)
    members: dict[str, Teacher] = {teacher.name: Cached(teacher, cache) for teacher in wrapped.values()}
    if len(members) == 1:
        return next(iter(members.values()))
    return Ensemble(members, {item.name: item.weight for item in settings.values()})
