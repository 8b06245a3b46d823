"""Every control of a run, one after the other."""

from collections.abc import Mapping
from dataclasses import replace

from kdexp.controls.config import Control, PseudoLabels, Tuned
from kdexp.controls.pseudo_labels import pseudo_labels
from kdexp.controls.tuned import train_best
from kdexp.fingerprint import plain
from kdexp.loss.base import CrossEntropy, Loss
from kdexp.results.roles import GOLD, PSEUDO_LABELS, TUNED, TUNED_BASELINE, Role
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

    def train(course: Course, description: str) -> TrainedStudent:
        return train_student(course, description, loss, answers, features)

    def train_baseline(course: Course, description: str) -> TrainedStudent:
        return train_student(course, description, CrossEntropy())

    for control in controls.values():
        match control:
            case PseudoLabels():
                temperature = plain(loss).get("temperature", 1.0)
                hard = {
                    name: pseudo_labels(item, course.task.kind.outputs, temperature) for name, item in answers.items()
                }
                trained[PSEUDO_LABELS] = train_student(course, "student of pseudo-labels", loss, hard, features)
                if control.ceiling and "transfer" in course.training_splits and course.task.pool is not None:
                    task = replace(course.task, train=course.task.pool, transfer=None)
                    all_gold = replace(course, task=task)
                    trained[GOLD] = train_student(all_gold, "student of gold labels on all text", CrossEntropy())
            case Tuned():
                trained[TUNED_BASELINE] = train_best(control, course, "tuned baseline", train_baseline)
                trained[TUNED] = train_best(control, course, "tuned student", train)
    return trained
