"""The teacher's one-hot answers: exactly as hard as they are said to be, and what each loss makes of them."""

import pytest
import torch

from kdexp import compose
from kdexp.controls.pseudo_labels import pseudo_labels
from kdexp.errors import UserError
from kdexp.loss.base import LogitLoss, Outputs
from kdexp.loss.logit import LOSSES
from kdexp.task.kinds.base import Answers
from kdexp.teacher.base import TeacherAnswers


def answered(values) -> TeacherAnswers:
    return TeacherAnswers(Answers(torch.tensor(values)), "key", num_forwarded=2, seconds=0.0)


SOFT = answered([[0.3, 2.0, -1.0], [1.0, 0.9, 0.8]])


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0, 100.0])
def test_answers_are_exactly_one_hot_at_the_losses_temperature(temperature):
    hard = pseudo_labels(SOFT, Outputs.classes, temperature)
    for softened in (hard.answers.values / temperature, hard.answers.values):
        assert softened.softmax(-1).tolist() == [[0, 1, 0], [1, 0, 0]]
        assert softened.log_softmax(-1).isfinite().all()
    assert hard.key not in (SOFT.key, pseudo_labels(SOFT, Outputs.classes, 7.0).key)


def test_each_of_several_labels_is_yes_or_no():
    hard = pseudo_labels(SOFT, Outputs.yes_no, 2.0)
    assert (hard.answers.values / 2.0).sigmoid().tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_teacher_that_is_sure_is_its_own_pseudo_labels():
    sure = answered([[0.0, 500.0, 0.0], [900.0, 3.0, 0.0]])
    assert pseudo_labels(sure, Outputs.classes, 2.0) is sure
    certain = answered([[-torch.inf, 0.0, -torch.inf]])  # log-probabilities
    assert pseudo_labels(certain, Outputs.classes, 2.0) is certain
    assert pseudo_labels(sure, Outputs.classes, 500.0) is not sure


def losses() -> dict[str, LogitLoss]:
    composed = {name: compose(f"loss={name}").loss for name in LOSSES}
    return {name: loss for name, loss in composed.items() if isinstance(loss, LogitLoss)}


def test_every_loss_takes_them_or_says_why_not():
    composed = losses()
    refused = {name for name, loss in composed.items() if loss.one_hot_problem}
    assert refused == {"mse", "huber", "reverse_kl", "dkd", "nkd", "logit_std"}
    for name, loss in composed.items():
        if name in refused:
            with pytest.raises(
                UserError, match=r"^controls\.pseudo_labels: would compare nothing: .*; choose another"
            ):
                compose(f"loss={name}", "controls=[pseudo_labels]")
            continue
        hard = pseudo_labels(SOFT, Outputs.classes, getattr(loss, "temperature", 1.0)).answers.values
        student = torch.tensor([[0.2, -0.1, 0.4], [30.0, -30.0, 0.0]], requires_grad=True)
        value = loss(student, hard, torch.tensor([1, -100]))
        value.backward()
        assert value.isfinite(), name
        assert student.grad.isfinite().all(), name


def test_at_temperature_one_kd_is_the_cross_entropy_of_the_teachers_class():
    student = torch.randn(2, 3)
    hard = pseudo_labels(SOFT, Outputs.classes, 1.0).answers.values
    value = LOSSES["kd"](temperature=1.0)(student, hard, torch.tensor([2, 2]))
    assert value.item() == pytest.approx(torch.nn.functional.cross_entropy(student, torch.tensor([1, 0])).item())


def test_without_the_non_target_term_decoupled_losses_take_them():
    config = compose("loss=dkd", "loss.nontarget_weight=0", "controls=[pseudo_labels]")
    assert list(config.controls) == ["pseudo_labels"]
