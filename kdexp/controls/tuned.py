"""Student and baseline at their best: each chooses among the same schedules on validation, with the run's seed."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from kdexp.controls.config import Control, Tuned
from kdexp.results import wording
from kdexp.results.record import Choice
from kdexp.results.roles import TUNED, TUNED_BASELINE, Role
from kdexp.student.train import TrainedStudent
from kdexp.training.config import StudentTrainConfig
from kdexp.training.course import Course
from kdexp.training.loop import DivergedError

logger = logging.getLogger(__name__)


def train_best(
    control: Tuned, course: Course, name: str, train: Callable[[Course, str], TrainedStudent]
) -> TrainedStudent:
    """Train with every schedule, and choose on validation; of equally good ones the first, which is the cheapest.

    Args:
        name: Of whom is trained.
        train: With the schedule of a course.

    Raises:
        UserError: Every schedule diverges.
    """
    schedules = control.schedules(course.schedule)
    trained: list[TrainedStudent] = []
    for schedule in schedules:
        label = told(schedule)
        try:
            trained.append(train(replace(course, schedule=schedule), f"{name}, {label}"))
        except DivergedError as error:
            logger.warning("%s, %s: not chosen, since %s", name, label, error.problem)
            if not trained and schedule is schedules[-1]:
                raise

    def score(item: TrainedStudent) -> float:
        kind, labels = course.task.kind, course.task.labels("validation")
        answers = item.answers["validation"]
        return kind.metrics(kind.decided(answers, answers, labels), labels)[kind.primary_metric]

    best = max(trained, key=score)
    equal = sum(score(item) == score(best) for item in trained) - 1
    logger.info(
        "%s: chosen on validation among %d schedules: %s (%s)%s",
        name,
        len(schedules),
        told(best.schedule),
        wording.score(score(best), course.task.primary_metric),
        f"; {equal} equally good, with more steps or a higher rate" if equal else "",
    )
    if edge := control.edge(best.schedule):
        logger.warning("%s: this is %s of the grid, and a better schedule may lie beyond", name, edge)
    return best


def choices(controls: Mapping[str, Control], trained: Mapping[Role, TrainedStudent]) -> dict[Role, Choice]:
    """The schedules that were chosen, by role."""
    control = controls.get("tuned")
    if not isinstance(control, Tuned):
        return {}
    schedules = {role: trained[role].schedule for role in (TUNED, TUNED_BASELINE)}
    return {
        role: Choice(schedule.learning_rate or 0.0, trained[role].num_steps, bool(control.edge(schedule)))
        for role, schedule in schedules.items()
    }


def told(schedule: StudentTrainConfig) -> str:
    """`learning rate 0.003, 8 epochs`"""
    unit, length = ("epoch", schedule.epochs) if schedule.max_steps is None else ("step", schedule.max_steps)
    return f"learning rate {schedule.learning_rate:g}, {length} {unit}{'' if length == 1 else 's'}"
