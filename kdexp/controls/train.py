"""Every control of a run, one after the other."""

from collections.abc import Mapping

from kdexp.controls.config import Control, PseudoLabels
from kdexp.controls.pseudo_labels import pseudo_labels
from kdexp.fingerprint import plain
from kdexp.loss.base import Loss
from kdexp.results.record import PSEUDO_LABELS, Role
from kdexp.student.train import TrainedStudent, train_student
from kdexp.teacher.base import TeacherAnswers
from kdexp.teacher.features import TeacherFeatures
from kdexp.training.course import Course


def train_controls(
    controls: Mapping[str, Control],
    course: Course,
    loss: Loss,
    answers: Mapping[str, TeacherAnswers],
    features: TeacherFeatures | None,
) -> dict[Role, TrainedStudent]:
    """Train what the controls ask for, or take what earlier runs trained.

    Args:
        loss, answers, features: What the distilled student is taught with.
    """
    trained: dict[Role, TrainedStudent] = {}
    for control in controls.values():
        match control:
            case PseudoLabels():
                temperature = plain(loss).get("temperature", 1.0)
                hard = {
                    name: pseudo_labels(item, course.task.kind.outputs, temperature) for name, item in answers.items()
                }
                trained[PSEUDO_LABELS] = train_student(course, "student of pseudo-labels", loss, hard, features)
    return trained
