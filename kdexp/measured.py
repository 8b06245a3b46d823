"""What a run found of its models, as its record has it."""

from collections.abc import Mapping

from kdexp.fingerprint import plain
from kdexp.hardware import Hardware
from kdexp.loss.base import Loss
from kdexp.model.encoder import Encoder
from kdexp.results.diagnostics import Diagnostics, diagnose
from kdexp.results.measure import ModelAnswers
from kdexp.results.metric_names import SPLITS
from kdexp.results.roles import FULL_VOCAB, Role
from kdexp.student.train import TrainedStudent
from kdexp.student.trim import full_vocab_answers
from kdexp.task.load import Task
from kdexp.teacher.base import Teacher, TeacherAnswers, cost_of, notices_of
from kdexp.teacher.features import TeacherFeatures
from kdexp.training.course import Course


def notices(teacher: Teacher, answers: Mapping[str, TeacherAnswers]) -> list[str]:
    """What is known of a teacher before anything else is measured."""
    return [*notices_of(teacher), *(notice for given in answers.values() for notice in given.notices)]


def model_answers(
    teacher: Teacher,
    answers: Mapping[str, TeacherAnswers],
    course: Course,
    trained: Mapping[Role, TrainedStudent],
) -> dict[Role, ModelAnswers]:
    """What every model answers on validation and test, by role."""
    evaluated = {name: answers[name] for name in SPLITS if name in answers}
    models = {
        "teacher": ModelAnswers({name: item.answers for name, item in evaluated.items()}, teacher.num_parameters)
    }
    models |= {role: ModelAnswers(item.answers, course.encoder.num_parameters) for role, item in trained.items()}
    if (full := full_vocab_answers(course, trained["student"])) is not None:
        models[FULL_VOCAB] = full
    return models | {
        f"teacher_{name}": ModelAnswers(
            {split: item.members[name].answers for split, item in evaluated.items()}, member.num_parameters
        )
        for name, member in teacher.members.items()
    }


def diagnosis(
    task: Task, readers: Mapping[Role, Encoder], answers: Mapping[str, TeacherAnswers], loss: Loss
) -> Diagnostics:
    """How the models read the text, and how sure the teacher is of what it teaches.

    Args:
        readers: Teachers that can be shown, and the student.
    """
    given = answers["validation"].answers if "validation" in answers else None
    return diagnose(task, readers, given, plain(loss).get("temperature", 1.0))


def costs(
    teacher: Teacher,
    answers: Mapping[str, TeacherAnswers],
    features: TeacherFeatures | None,
    trained: Mapping[Role, TrainedStudent],
    hardware: Hardware,
) -> dict[str, float]:
    """Seconds by stage, rows forwarded, cache hits, memory.

    Args:
        answers: By split.
        trained: The student and, where they are trained, its baseline and controls.
    """
    teachers = list(teacher.members.values()) or [teacher]
    student = trained["student"]
    found: dict[str, float] = {
        "teacher_train_seconds": teacher.preparation.seconds,
        "teacher_logits_seconds": sum(item.seconds for item in answers.values()),
        "teacher_rows_forwarded": sum(item.num_forwarded for item in answers.values())
        + student.num_teacher_rows
        + (features.num_forwarded if features else 0),
        "student_steps": student.num_steps,
        "cache_hits": sum(
            [item.from_cache for item in trained.values()]
            + [item.preparation.from_cache for item in teachers]
            + [
                given.num_forwarded == 0 and not given.is_given
                for item in answers.values()
                for given in item.members.values() or [item]
            ]
        ),
        "peak_memory_mb": hardware.peak_memory_bytes() / 2**20,
    }
    found |= {f"{role.replace('/', '_')}_train_seconds": item.train_seconds for role, item in trained.items()}
    members = teacher.members or {teacher.name: teacher}
    for name in members:
        cost = cost_of(item.members.get(name, item) for item in answers.values())
        role = f"teacher_{name}" if teacher.members else "teacher"
        found |= {f"{role}_{what}": value for what, value in (cost.per_1000_rows() if cost else {}).items()}
    if features:
        found["teacher_inside_seconds"] = features.seconds
    return found
