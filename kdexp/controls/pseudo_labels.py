"""The teacher's answers without their softness: one-hot, in a form that every loss on probabilities takes."""

from dataclasses import replace

import torch
from torch import Tensor

from kdexp.loss.base import Outputs
from kdexp.task.kinds.answers import UNREAD, Answers
from kdexp.teacher.base import TeacherAnswers

# In temperatures. exp(-128) is 0 in float32, whose smallest number is exp(-103.3); as a log-probability it is finite.
_GAP = 128.0


def pseudo_labels(answers: TeacherAnswers, outputs: Outputs, temperature: float) -> TeacherAnswers:
    """What the teacher decides, and nothing of how sure it is: exactly 1 for its class, and 0 for the others.

    A teacher that is as sure itself is returned as it is, so that a student of its answers is the student of these.

    Args:
        temperature: Of the loss, at which the answers are one-hot; they are at lower ones too.
    """
    values = answers.answers.values
    gap = _GAP * max(temperature, 1.0)
    hard = _hardened(values, outputs, gap).where(~values.isnan(), torch.nan)  # where it has said nothing
    hard = hard.where(answers.answers.read[:, None], UNREAD)
    if torch.equal(_probabilities(hard / temperature, outputs), _probabilities(values / temperature, outputs)):
        return answers
    return replace(
        answers, answers=Answers(hard, answers.answers.lengths), key=f"one-hot {gap!r} {answers.key}", members={}
    )


def _hardened(values: Tensor, outputs: Outputs, gap: float) -> Tensor:
    if outputs == Outputs.yes_no:
        return torch.where(values > 0, gap, -gap)
    return torch.zeros_like(values).scatter_(-1, values.argmax(-1, keepdim=True), gap)


def _probabilities(values: Tensor, outputs: Outputs) -> Tensor:
    return values.sigmoid() if outputs == Outputs.yes_no else values.softmax(-1)
