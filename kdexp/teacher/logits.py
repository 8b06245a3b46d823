"""Answers kept and mixed: wrappers around teachers, and what is asked of one in a run."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, logsigmoid

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.task.kinds.answers import UNREAD
from kdexp.task.kinds.base import Answers
from kdexp.task.load import Task
from kdexp.task.split import Split, rows_within
from kdexp.teacher.base import Cost, Preparation, Scale, ShowsFeatures, Teacher, TeacherAnswers, cost_of, may_abstain
from kdexp.training.course import Course

logger = logging.getLogger(__name__)


class Cached:
    """A teacher that is asked about a text once: its answers are kept in the cache.

    The key is made of all that decides them (`Teacher.fingerprint`) and of the text itself, so a changed input never
    finds an old answer.
    """

    def __init__(self, teacher: Teacher, cache: Cache) -> None:
        self.teacher, self.cache = teacher, cache
        self.name, self.role, self.scale = teacher.name, teacher.role, teacher.scale
        self.num_parameters, self.checks_chance, self.members = (
            teacher.num_parameters,
            teacher.checks_chance,
            teacher.members,
        )
        self._look()

    def _look(self) -> None:
        """Be what the teacher inside is by now: preparing it may change it."""
        self.digest, self.preparation = self.teacher.digest, self.teacher.preparation
        if isinstance(self.teacher, ShowsFeatures):
            self.encoder = self.teacher.encoder

    def prepare(self) -> None:
        self.teacher.prepare()
        self._look()

    def fingerprint(self) -> str:
        return self.teacher.fingerprint()

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        started = time.perf_counter()

        def compute(work: Path) -> dict[str, Tensor]:
            given = self.teacher.answer(split, name)
            lengths = {} if (found := given.answers.lengths) is None else {"lengths": torch.from_numpy(found)}
            cost = {} if given.cost is None else {"cost": torch.tensor(astuple(given.cost), dtype=torch.float64)}
            return {"values": given.answers.values} | lengths | cost

        parts = {"teacher": self.fingerprint(), "text": split.text_digest}

        def fit(tensors: Mapping[str, Tensor]) -> bool:
            values, lengths = tensors.get("values"), tensors.get("lengths", torch.ones(len(split), dtype=torch.int64))
            if values is None or values.ndim != 2:
                return False
            if values.isnan().any() and not may_abstain(self.teacher):
                return False
            return (len(lengths), len(values)) == (len(split), int(lengths.sum()))

        entry = self.cache.tensors("teacher_logits", parts, compute, fit)
        lengths = entry.tensors.get("lengths")
        return TeacherAnswers(
            answers=Answers(entry.tensors["values"], None if lengths is None else lengths.numpy()),
            key=entry.key,
            num_forwarded=0 if entry.hit else len(split),
            seconds=time.perf_counter() - started,
            cost=_cost(entry.tensors.get("cost")),
        )

    def verify(self) -> None:
        self.teacher.verify()


def _cost(stored: Tensor | None) -> Cost | None:
    """Entries of earlier versions have none."""
    if stored is None:
        return None
    rows, seconds, requests, tokens = stored.tolist()
    return Cost(int(rows), seconds, int(requests), int(tokens))


class Ensemble:
    """Several teachers that answer together: log(sum_k w_k softmax(z_k)), with weights that sum to one.

    The mean is one of probabilities, because logits of different models have no common scale or zero. A
    temperature is applied to what comes out: softmax(log m / T) softens the mixture m as it would one
    teacher's answer, which is not the mixture of the softened answers. The mixture is a log-probability:
    a loss on logits themselves (`mse`) should be centered, since each row's mean is the normaliser's.

    Where each label is a question of its own, the mean is of each one's probability, told as a logit; of numbers it
    is their mean.

    Args:
        weights: Above 0, one for each teacher, in any unit.
    """

    role, checks_chance = "teacher", False

    def __init__(
        self, members: Mapping[str, Teacher], weights: Mapping[str, float], outputs: Outputs = Outputs.classes
    ) -> None:
        self.scale = Scale.log_probabilities if outputs == Outputs.classes else Scale.logits
        self._outputs = outputs
        total = sum(weights.values())
        self.members = members
        self.shares = {name: weights[name] / total for name in members}
        self.name = "+".join(members)
        self.num_parameters = sum(teacher.num_parameters for teacher in members.values())
        self.digest, self.preparation = "", Preparation()
        self.may_abstain = any(map(may_abstain, members.values()))

    def prepare(self) -> None:
        for teacher in self.members.values():
            teacher.prepare()
        self.digest = next(iter(self.members.values())).digest
        preparations = [teacher.preparation for teacher in self.members.values()]
        self.preparation = Preparation(
            sum(item.seconds for item in preparations), all(item.from_cache for item in preparations)
        )
        shares = " + ".join(f"{share:.2f} {name}" for name, share in self.shares.items())
        logger.info("teachers together: %s, in probability space", shares)

    def fingerprint(self) -> str:
        return " + ".join(f"{self.shares[name]!r} {teacher.fingerprint()}" for name, teacher in self.members.items())

    def answer(self, split: Split, name: str) -> TeacherAnswers:
        answers = {member: teacher.answer(split, name) for member, teacher in self.members.items()}
        values = {member: answer.answers.values for member, answer in answers.items()}
        return TeacherAnswers(
            answers=Answers(self._mixed(values), next(iter(answers.values())).answers.lengths),
            key=" + ".join(f"{self.shares[member]!r} {answer.key}" for member, answer in answers.items()),
            num_forwarded=sum(answer.num_forwarded for answer in answers.values()),
            seconds=sum(answer.seconds for answer in answers.values()),
            members=answers,
        )

    def _mixed(self, values: Mapping[str, Tensor]) -> Tensor:
        """[units, outputs] of each member's."""

        def mean(of: Callable[[Tensor], Tensor]) -> Tensor:
            """Log of the mean, of logs."""
            logs = torch.stack([of(each) + math.log(self.shares[name]) for name, each in values.items()])
            # What a member did not read is nan by now too.
            is_partial = self.may_abstain or bool(logs.isnan().any())
            return self._without_silent(logs) if is_partial else logs.logsumexp(dim=0)

        match self._outputs:
            case Outputs.classes:
                return mean(partial(log_softmax, dim=-1))
            case Outputs.yes_no:
                return mean(logsigmoid) - mean(lambda each: logsigmoid(-each))
            case Outputs.number:
                return self._mean_number(torch.stack(list(values.values())))

    def _mean_number(self, values: Tensor) -> Tensor:
        """Of those that answer; nan where none does.

        Args:
            values: [teachers, units, outputs]
        """
        shares = torch.tensor(list(self.shares.values()))[:, None, None].where(~values.isnan(), 0.0)
        return (shares * values.nan_to_num()).sum(dim=0) / shares.sum(dim=0)

    def _without_silent(self, weighted: Tensor) -> Tensor:
        """The mixture of those that answer a unit, their weights summing to one; nan (or `UNREAD`) where none does.

        Args:
            weighted: [teachers, units, outputs], log of share times probability.
        """
        silent = weighted.isnan().all(dim=-1)
        shares = torch.tensor(list(self.shares.values()))[:, None].where(~silent, 0.0).sum(dim=0)
        mixture = weighted.masked_fill(silent[..., None], -math.inf).logsumexp(dim=0) - shares.log()[:, None]
        return mixture.masked_fill(silent.all(dim=0)[:, None], math.nan if self.may_abstain else UNREAD)

    def verify(self) -> None:
        for teacher in self.members.values():
            teacher.verify()


def teacher_answers(teacher: Teacher, course: Course) -> dict[str, TeacherAnswers]:
    """The teacher's answers by split, validation first: a teacher near chance goes no further.

    A teacher that has no answer about any row of a split that is not trained on is left out there, and checked on
    train.

    Raises:
        UserError: It is not better than the trivial answer, or answers what is no number.
    """
    splits = course.evaluation_splits | course.training_splits
    answers, unchecked = {}, dict(teacher.members or {teacher.name: teacher})
    for name, split in splits.items():
        given = _answer(teacher, course.task, split, name, has_transfer="transfer" in splits)
        _refuse_nan(teacher, given, name)
        if name in ("validation", "train"):
            given = replace(given, notices=_check(unchecked, given, course.task, name))
        is_answered = len(given.answers.answered_rows) > 0
        if name == "transfer" and not is_answered:
            problem = f"is true, but {teacher.name} has no answer about any of the {len(split):,} rows of transfer"
            raise UserError("train.use_transfer", problem, "remove it, or give answers about these texts too")
        if name in course.training_splits or is_answered:
            answers[name] = given
    for name, member in (teacher.members or {teacher.name: teacher}).items():
        cost = cost_of(answer.members.get(name, answer) for answer in answers.values())
        if cost is not None and cost.requests:
            told = ", ".join(f"{value:,.0f} {what.split('_')[0]}" for what, value in cost.per_1000_rows().items())
            logger.info("teacher %s: %s for 1,000 rows", member.name, told)
    _tell_how_many(answers)
    return answers


def _tell_how_many(answers: Mapping[str, TeacherAnswers]) -> None:
    """Of how many rows the answers were computed now, earlier, or given."""
    found = [member for answer in answers.values() for member in answer.members.values() or [answer]]
    asked, given = ([answer for answer in found if answer.is_given == is_given] for is_given in (False, True))
    if asked:
        logger.info(
            "teacher logits: %s of %s rows forwarded, the rest kept from earlier runs",
            f"{sum(answer.num_forwarded for answer in asked):,}",
            f"{sum(answer.answers.num_rows for answer in asked):,}",
        )
    if given:
        logger.info(
            "teacher answers: the file has those about %s of %s rows",
            f"{sum(len(answer.answers.answered_rows) for answer in given):,}",
            f"{sum(answer.answers.num_rows for answer in given):,}",
        )


def _answer(teacher: Teacher, task: Task, split: Split, name: str, *, has_transfer: bool) -> TeacherAnswers:
    """Rows that are drawn from a pool are asked about once, all together, whichever of them are labelled."""
    if task.pool is None or not has_transfer or name not in ("train", "transfer"):
        return teacher.answer(split, name)
    return _rows_of(teacher.answer(task.pool, "all text"), rows_within(split, task.pool), split.text_digest)


def _rows_of(answers: TeacherAnswers, rows: np.ndarray, text: str) -> TeacherAnswers:
    """The answers about some rows.

    Args:
        text: Digest of their text.
    """
    return replace(
        answers,
        answers=answers.answers.take(rows),
        key=f"{answers.key} of {text}",
        members={name: _rows_of(member, rows, text) for name, member in answers.members.items()},
    )


def _refuse_nan(teacher: Teacher, answers: TeacherAnswers, split: str) -> None:
    """Refuse answers that cannot be learned from; -inf, a class that is ruled out, is a log-probability."""
    for name, member in (teacher.members or {teacher.name: teacher}).items():
        values = answers.members.get(name, answers).answers.values
        lost = values.isnan() | (values == math.inf)
        if may_abstain(member):
            lost &= ~values.isnan().all(dim=-1, keepdim=True)
        if lost.any():
            raise UserError(
                member.role,
                f"answers nan or infinity on {int(lost.any(dim=-1).sum()):,} of {len(values):,} units of {split}",
                "its weights may be damaged; or try hardware.precision=float32",
            )


def _check(unchecked: dict[str, Teacher], answers: TeacherAnswers, task: Task, split: str) -> list[str]:
    """Say how good each teacher is on the rows that it answers, and refuse one that knows nothing.

    Args:
        unchecked: By name; those that answer are taken out.

    Returns:
        Notices of those of which that cannot be told.
    """
    notices = []
    for name, member in list(unchecked.items()):
        given, labels = answers.members.get(name, answers).answers, task.labels(split)
        rows = given.answered_rows
        if not len(rows):
            continue
        if len(rows) < given.num_rows:
            given, labels = given.take(rows), labels.take(rows)
        del unchecked[name]
        score = task.kind.metrics(task.kind.decided(given, given, labels), labels)[task.primary_metric]
        told = f"{100 * score:.1f} %" if task.primary_metric == "accuracy" else f"{task.primary_metric} {score:.3f}"
        logger.info("teacher %s: %s on %s", name, told, split)
        if not member.checks_chance:
            continue
        try:
            notice = task.kind.refuse_chance(given, labels, member.role)
        except UserError as error:
            role = f"teacher_{name}" if answers.members else "teacher"
            raise UserError(member.role, f"on {split} it {error.problem}", _advice(member, role)) from None
        if notice:
            notices.append(f"{member.role}: on {split} it {notice}")
            logger.warning("%s", notices[-1])
    return notices


def _advice(member: Teacher, role: str) -> str:
    """What may help a teacher that knows nothing, by how it was made.

    Args:
        role: Under which its learning curve is logged.
    """
    if member.preparation.history:
        advice = (
            f"its learning curve is {role}/train/loss in MLflow; train it longer ({member.role}.train.epochs), at a "
            f"lower rate ({member.role}.train.learning_rate), take a larger one or another task"
        )
    else:
        advice = (
            f"is it fine-tuned for this task? Check {member.role}.labels=[...], or set {member.role}.finetune=true"
        )
    return f"{advice}; or go on all the same with {member.role}.chance_check=false"
