"""The losses against numbers worked out by hand or by other libraries."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import softmax as scipy_softmax
from torch.nn.functional import cross_entropy

from kdexp.loss.base import IGNORED_LABEL
from kdexp.loss.hard import hard_loss
from kdexp.loss.logit import KD


def random_logits(seed: int, rows: int = 6, classes: int = 5) -> torch.Tensor:
    return torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed)) * 3


def soft_loss(student, teacher, temperature, **arguments):
    labels = torch.zeros(len(student), dtype=torch.long)
    return KD(temperature=temperature)(student, teacher, labels, **arguments)


def test_hand_computed_values():
    student = torch.tensor([[math.log(3.0), 0.0]])  # softmax: 3/4, 1/4
    teacher = torch.tensor([[0.0, 0.0]])  # softmax: 1/2, 1/2
    hard = hard_loss(student, torch.tensor([1]))
    soft = soft_loss(student, teacher, 1.0)
    assert hard.item() == pytest.approx(math.log(4))
    assert soft.item() == pytest.approx(0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


def test_temperature_by_hand():
    student = torch.tensor([[2 * math.log(3.0), 0.0]])  # at T = 2: 3/4, 1/4
    teacher = torch.tensor([[0.0, 2 * math.log(3.0)]])  # at T = 2: 1/4, 3/4
    expected = 4 * (0.25 * math.log(0.25 / 0.75) + 0.75 * math.log(0.75 / 0.25))
    assert soft_loss(student, teacher, 2.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_soft_loss_agrees_with_float64(temperature):
    student, teacher = random_logits(1), random_logits(2)
    p = scipy_softmax(teacher.numpy().astype(np.float64) / temperature, axis=-1)
    log_q = scipy_log_softmax(student.numpy().astype(np.float64) / temperature, axis=-1)
    expected = temperature**2 * (p * (np.log(p) - log_q)).sum(axis=-1).mean()
    assert soft_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_gradient_keeps_its_size_when_the_temperature_changes():
    """As T grows, the gradient tends to the centred difference of logits / (batch * classes).

    Hinton et al. 2015, eq. 4; without the factor T^2 it would vanish as 1 / T^2.
    """
    student, teacher = random_logits(3).requires_grad_(), random_logits(4)
    soft_loss(student, teacher, 1000.0).backward()
    difference = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    limit = difference.detach() / student.numel()
    torch.testing.assert_close(student.grad, limit, rtol=0.02, atol=1e-4)


def test_the_hard_loss_is_cross_entropy_to_the_bit():
    logits, labels = random_logits(5), torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.equal(hard_loss(logits, labels), cross_entropy(logits, labels))


def test_a_student_that_equals_its_teacher_has_no_soft_loss():
    logits = random_logits(7).requires_grad_()
    loss = soft_loss(logits, logits.detach().clone(), 4.0)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() < 1e-6


def test_the_teacher_gets_no_gradient():
    student, teacher = random_logits(8).requires_grad_(), random_logits(9).requires_grad_()
    soft_loss(student, teacher, 2.0).backward()
    assert student.grad is not None
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_extreme_logits_stay_finite(dtype):
    student = torch.tensor([[1e4, -1e4, 0.0]], dtype=dtype, requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0]], dtype=dtype)
    loss = hard_loss(student, torch.tensor([1])) + soft_loss(student, teacher, 4.0)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_half_precision_logits_are_computed_in_float32():
    student, teacher = random_logits(10).bfloat16(), random_logits(11).bfloat16()
    assert torch.equal(soft_loss(student, teacher, 4.0), soft_loss(student.float(), teacher.float(), 4.0))


def test_micro_batches_add_up_to_the_large_batch():
    student, teacher, labels = random_logits(12), random_logits(13), torch.tensor([0, 1, 2, 3, 4, 0])
    whole = hard_loss(student, labels) + soft_loss(student, teacher, 2.0)
    parts = sum(
        hard_loss(student[rows], labels[rows], num_examples=6)
        + soft_loss(student[rows], teacher[rows], 2.0, num_examples=6)
        for rows in (slice(0, 4), slice(4, 5), slice(5, 6))
    )
    torch.testing.assert_close(parts, whole)


def test_unlabelled_rows_add_nothing_but_count():
    logits = random_logits(14)
    labels = torch.tensor([0, IGNORED_LABEL, 2, IGNORED_LABEL, 4, IGNORED_LABEL])
    labelled = cross_entropy(logits[::2], labels[::2], reduction="sum")
    torch.testing.assert_close(hard_loss(logits, labels), labelled / 6)
    assert hard_loss(logits, torch.full((6,), IGNORED_LABEL)).item() == 0
