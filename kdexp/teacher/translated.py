"""Teachers whose labels are not the task's: wrappers that translate what they answer."""

import logging
from collections.abc import Mapping
from dataclasses import replace

from kdexp.loss.base import Outputs
from kdexp.task.kinds.base import Answers
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Preparation, Scale, ShowsFeatures, Teacher, TeacherAnswers, may_abstain
from kdexp.teacher.matching import match_classes
from kdexp.teacher.translation import Translation

logger = logging.getLogger(__name__)


class Translated:
    """A teacher that answers in its own labels, and is heard in the task's."""

    def __init__(self, teacher: Teacher, translation: Translation) -> None:
        self.teacher, self.translation = teacher, translation
        self.name, self.role, self.checks_chance = teacher.name, teacher.role, teacher.checks_chance
        self.num_parameters, self.members = teacher.num_parameters, teacher.members
        self.may_abstain = may_abstain(teacher)
        self.digest, self.preparation = "", Preparation()
        self.scale = self._scale()
        self._look()

    def _look(self) -> None:
        """Be what the teacher inside is by now: preparing it may change it."""
        self.digest, self.preparation = self.teacher.digest, self.teacher.preparation
        if isinstance(self.teacher, ShowsFeatures):
            self.encoder = self.teacher.encoder

    def _scale(self) -> Scale:
        plan, own = self.translation, self.teacher.scale
        if plan.target == Outputs.yes_no:
            return Scale.logits
        if plan.is_open or plan.is_reordering or own == Scale.top_class:
            return own
        return Scale.log_probabilities

    @property
    def notices(self) -> list[str]:
        return [*getattr(self.teacher, "notices", ()), *self.translation.notices]

    @property
    def tags(self) -> Mapping[str, str]:
        return getattr(self.teacher, "tags", {}) | self.translation.tags

    def prepare(self) -> None:
        self.teacher.prepare()
        self._look()
        for notice in self.translation.notices:
            logger.info("teacher %s: %s", self.name, notice)

    def fingerprint(self) -> str:
        parts = (self.translation.groups, self.translation.source.value, self.translation.target.value)
        return f"{parts} of {self.teacher.fingerprint()}"

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        given = self.teacher.answer(split, name)
        values = self.translation(given.answers.values)
        key = f"{self.translation.groups} {self.translation.source}-{self.translation.target} of {given.key}"
        return replace(given, answers=Answers(values, given.answers.lengths), key=key)

    def verify(self) -> None:
        self.teacher.verify()


class Matched(Translated):
    """A teacher whose head only numbers its classes: which is which is measured on validation."""

    def __init__(self, teacher: Teacher, translation: Translation, task: Task) -> None:
        super().__init__(teacher, translation)
        self.task = task
        self._found: list[str] = []

    @property
    def notices(self) -> list[str]:
        return [*getattr(self.teacher, "notices", ()), *self._found]

    @property
    def tags(self) -> Mapping[str, str]:
        return getattr(self.teacher, "tags", {}) | {"label_map": f"measured: {self._shown()}"}

    def prepare(self) -> None:
        """
        Raises:
            UserError: Validation does not tell which of its outputs is which class.
        """
        self.teacher.prepare()
        self._look()
        plan, split = self.translation, "validation"
        answers = self.teacher.answer(getattr(self.task, split), split).answers
        found = match_classes(answers, self.task.labels(split), plan.names, plan.task_names, self.role)
        self.translation = replace(plan, groups=[[index] for index in found.order])
        self._found = [
            f"its classes have no names; matched by their agreement with the labels of validation: {self._shown()} "
            f"({found.agreement:.1%} right so, {found.runner_up:.1%} by the next best matching)"
        ]
        logger.info("teacher %s: %s", self.name, self._found[0])

    def _shown(self) -> str:
        plan = self.translation
        return ", ".join(
            f"{plan.names[group[0]]} = {name}" for group, name in zip(plan.groups, plan.task_names, strict=True)
        )


def translated(teacher: Teacher, translation: Translation | None, task: Task) -> Teacher:
    """The teacher as the task hears it; None where it answers the task's own classes."""
    if translation is None:
        return teacher
    return Matched(teacher, translation, task) if translation.is_open else Translated(teacher, translation)
