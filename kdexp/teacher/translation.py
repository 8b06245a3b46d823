"""Label sets that differ: how a teacher's outputs become the task's.

Probabilities are what is merged, dropped and converted, because logits of different heads have no common zero:

- several classes for one: their probabilities are added; several labels for one (sigmoid): that at least one of them
  holds, as if they were independent;
- a class that is dropped: the others are divided by their sum; a label that is dropped: nothing else changes;
- sigmoid to softmax: the labels' probabilities are divided by their sum;
- softmax to sigmoid: the probability of a class is that of its label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.task.kinds.base import TaskKind
from kdexp.task.kinds.labels import label_key
from kdexp.task.tables.table import shorten
from kdexp.teacher.config import TeacherConfig


@dataclass(frozen=True)
class Translation:
    """From a teacher's outputs to the task's.

    Attributes:
        groups: For each of the task's outputs, in order, the teacher's that mean it.
        names: Of the teacher's outputs.
        task_names: Of the task's.
        source, target: What the outputs say.
    """

    groups: Sequence[Sequence[int]]
    names: Sequence[str]
    task_names: Sequence[str]
    source: Outputs
    target: Outputs

    @classmethod
    def open(cls, names: Sequence[str], task_names: Sequence[str]) -> "Translation":
        """Of as many classes, of which nobody knows yet which is which."""
        return cls([], list(names), list(task_names), Outputs.classes, Outputs.classes)

    @property
    def is_open(self) -> bool:
        return not self.groups

    @property
    def dropped(self) -> list[str]:
        kept = {index for group in self.groups for index in group}
        return [name for index, name in enumerate(self.names) if index not in kept]

    @property
    def is_reordering(self) -> bool:
        """Whether the teacher's logits themselves are the task's, in another order."""
        return self.source == self.target and all(len(group) == 1 for group in self.groups) and not self.dropped

    @property
    def notices(self) -> list[str]:
        """What it does, in one line each."""
        found = []
        if renamed := self._renamed():
            found.append(f"its classes stand for the task's: {renamed}")
        if self.dropped:
            rest = ", the others divided by their sum" if self.target == Outputs.classes else ""
            found.append(f"left out of its classes: {', '.join(self.dropped)}{rest}")
        if self.source != self.target:
            ways = {
                Outputs.classes: "it answers each label by itself (sigmoid), the task asks for one class (softmax): "
                "its probabilities are divided by their sum",
                Outputs.yes_no: "it answers one class (softmax), the task asks for each label (sigmoid): the "
                "probability of a class is taken for its label's",
            }
            found.append(ways[self.target])
        return found

    @property
    def tags(self) -> dict[str, str]:
        """The same for MLflow."""
        found = {}
        if label_map := self._renamed():
            found["label_map"] = label_map + (f"; left out: {', '.join(self.dropped)}" if self.dropped else "")
        elif self.dropped:
            found["label_map"] = f"left out: {', '.join(self.dropped)}"
        if self.source != self.target:
            activation = {Outputs.classes: "softmax", Outputs.yes_no: "sigmoid"}
            found["conversion"] = f"{activation[self.source]}-to-{activation[self.target]}"
        return found

    def _renamed(self) -> str:
        shown = [
            f"{' + '.join(self.names[index] for index in group)} -> {name}"
            for group, name in zip(self.groups, self.task_names, strict=True)
            if [self.names[index] for index in group] != [name]
        ]
        return "; ".join(shown)

    def __call__(self, values: Tensor) -> Tensor:
        """Logits or log-probabilities of the teacher's outputs to those of the task's.

        Args:
            values: [units, teacher's outputs]

        Returns:
            [units, outputs]: log-probabilities of classes, logits of labels.
        """
        if self.is_reordering:
            return values[:, [group[0] for group in self.groups]]
        values = values.double()
        if self.source == Outputs.classes:
            logs = log_softmax(values, dim=-1)
            merged = torch.stack([logs[:, list(group)].logsumexp(dim=-1) for group in self.groups], dim=-1)
        else:
            none_holds = torch.stack(
                [logsigmoid(-values[:, list(group)]).sum(dim=-1) for group in self.groups], dim=-1
            )
            merged = _log_complement(none_holds)
        if self.target == Outputs.classes:
            return log_softmax(merged, dim=-1).float()
        return (merged - _log_complement(merged)).float()


def _log_complement(logs: Tensor) -> Tensor:
    """log(1 - exp(x)), finite: what is certain is held to be so up to one in 10^12."""
    return torch.log(-torch.expm1(logs.clamp(max=-1e-12)).clamp(max=-1e-300))


def translation_of(
    role: str, settings: TeacherConfig, names: Sequence[str], source: Outputs, kind: TaskKind
) -> Translation | None:
    """How a teacher's outputs become the task's; None where they are the task's, in whatever order.

    Args:
        names: Of its outputs.
        source: What they say.

    Raises:
        UserError: They cannot become the task's.
    """
    if settings.label_map is None and source == kind.outputs:
        return None
    if Outputs.number in (source, kind.outputs):
        problem = f"answers {source.replace('_', '/')}, and the task asks for {kind.outputs.replace('_', '/')}"
        raise UserError(role, problem, "choose a teacher that answers the same question")
    groups = grouped(role, names, kind.label_names, settings.label_map or {})
    return Translation(groups, list(names), list(kind.label_names), source, kind.outputs)


def source_names(label_map: Mapping[str, str | None] | None, task_names: Sequence[str]) -> list[str]:
    """The classes of a teacher that says none by itself: those that the map names, and the task's that nothing else is
    mapped to."""
    if label_map is None:
        return list(task_names)
    named = list(label_map)
    return named + [name for name in task_names if name not in named and name not in label_map.values()]


def grouped(
    role: str, names: Sequence[str], task_names: Sequence[str], label_map: Mapping[str, str | None]
) -> list[list[int]]:
    """For each of the task's outputs, the teacher's that mean it.

    A class that the map does not name is the task's of the same name.

    Args:
        role: What the teacher's settings begin with, for errors.

    Raises:
        UserError: The map names what is not there, or leaves a class of either side without one of the other.
    """
    setting = f"{role}.label_map"
    for given, known, whose in (
        (label_map, names, "teacher"),
        ([name for name in label_map.values() if name is not None], task_names, "task"),
    ):
        unknown = [name for name in given if name not in known]
        if unknown:
            raise UserError(setting, f"the {whose} has no class '{unknown[0]}'", f"it has: {shorten(known)}")
    places = {label_key(name): place for place, name in enumerate(task_names)}
    groups: list[list[int]] = [[] for _ in task_names]
    for index, name in enumerate(names):
        meant = label_map.get(name, name)
        if meant is None:
            continue
        place = task_names.index(meant) if name in label_map else places.get(label_key(name))
        if place is None:
            problem = f"says nothing of the teacher's class '{name}', and the task has none of that name"
            raise UserError(setting, problem, f"map it to one of {shorten(task_names)}, or to null to leave it out")
        groups[place].append(index)
    empty = [name for name, group in zip(task_names, groups, strict=True) if not group]
    if empty:
        problem = f"leaves the task's class '{empty[0]}' without any of the teacher's"
        raise UserError(setting, problem, f"the teacher has: {shorten(names)}")
    return groups
