"""The soft losses against the papers' formulas, worked out in float64 by scipy."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy import special, stats
from scipy.spatial import distance

from kdexp.cli.composition import register_schemas, resolve
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.errors import UserError
from kdexp.loss.config import LOSSES, is_without_teacher
from kdexp.loss.logit import logit_loss, ramp, sigmoid_kd
from kdexp.training.checks import refuse_unfit_loss

SETTINGS = {
    "kd": {"temperature": 3.0},
    "soft_ce": {},
    "mse": {"centered": True},
    "reverse_kl": {"temperature": 3.0},
    "jsd": {"temperature": 3.0, "beta": 0.3},
    "tvd": {"temperature": 3.0},
    "dkd": {"temperature": 3.0, "target_weight": 0.7, "nontarget_weight": 4.0},
    "nkd": {"temperature": 3.0, "nontarget_weight": 1.5},
    "dist": {"temperature": 3.0, "inter_weight": 0.8, "intra_weight": 1.3},
    "logit_std": {"temperature": 3.0},
}
LOGIT_LOSSES = {name: LOSSES[name](name=name, alpha=0.0, **settings) for name, settings in SETTINGS.items()}


def logits(seed, scale=2.0):
    return scale * np.random.default_rng(seed).normal(size=(6, 4))


GOLD = np.array([0, 3, 1, 1, 2, 0])


def probabilities(values, temperature=1.0):
    return special.softmax(values / temperature, axis=-1)


def others(values):
    return np.array([np.delete(row, label) for row, label in zip(values, GOLD, strict=True)])


def oracle(name, student, teacher):
    """The formulas of the papers, row by row in float64, from scipy's entropies, distances and correlations."""
    T = 3.0  # noqa: N806
    p, q = probabilities(teacher, T), probabilities(student, T)
    p1, q1 = probabilities(teacher), probabilities(student)
    rows = range(len(GOLD))
    match name:
        case "kd":
            return T**2 * np.mean([stats.entropy(p[i], q[i]) for i in rows])
        case "soft_ce":
            return np.mean([stats.entropy(p1[i]) + stats.entropy(p1[i], q1[i]) for i in rows])
        case "mse":
            return np.mean([np.var(student[i] - teacher[i]) for i in rows])
        case "reverse_kl":
            return T**2 * np.mean([stats.entropy(q[i], p[i]) for i in rows])
        case "jsd":
            m = 0.3 * p + 0.7 * q
            return T**2 * np.mean([0.3 * stats.entropy(p[i], m[i]) + 0.7 * stats.entropy(q[i], m[i]) for i in rows])
        case "tvd":
            return T * np.mean([distance.cityblock(p[i], q[i]) / 2 for i in rows])
        case "dkd":
            binary = [
                stats.entropy([p[i, y], 1 - p[i, y]], [q[i, y], 1 - q[i, y]]) for i, y in zip(rows, GOLD, strict=True)
            ]
            rest = [stats.entropy(np.delete(p[i], y), np.delete(q[i], y)) for i, y in zip(rows, GOLD, strict=True)]
            return T**2 * (0.7 * np.mean(binary) + 4.0 * np.mean(rest))
        case "nkd":
            target = [-p1[i, y] * np.log(q1[i, y]) for i, y in zip(rows, GOLD, strict=True)]
            s, t = probabilities(others(student), T), probabilities(others(teacher), T)
            rest = [stats.entropy(t[i]) + stats.entropy(t[i], s[i]) for i in rows]
            return np.mean(target) + 1.5 * T**2 * np.mean(rest)
        case "dist":
            inter = np.mean([1 - stats.pearsonr(p[i], q[i]).statistic for i in rows])
            intra = np.mean([1 - stats.pearsonr(p[:, j], q[:, j]).statistic for j in range(4)])
            return T**2 * (0.8 * inter + 1.3 * intra)
        case "logit_std":
            p, q = (probabilities(stats.zscore(z, axis=-1, ddof=1), T) for z in (teacher, student))
            return T**2 * np.mean([stats.entropy(p[i], q[i]) for i in rows])
    raise AssertionError(name)


def evaluate(name, student, teacher, labels=GOLD, **arguments):
    tensors = (torch.as_tensor(values) for values in (student, teacher, labels))
    return logit_loss(LOGIT_LOSSES[name], *tensors, **arguments)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_every_loss_has_the_value_of_its_paper(name):
    student, teacher = logits(1), logits(2)
    expected = oracle(name, student, teacher)
    assert evaluate(name, student, teacher).item() == pytest.approx(expected, rel=1e-9)
    single = evaluate(name, student.astype(np.float32), teacher.astype(np.float32))
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_every_gradient_is_that_of_the_value(name):
    student = torch.tensor(logits(1), requires_grad=True)
    teacher, labels = torch.tensor(logits(2)), torch.tensor(GOLD)
    assert torch.autograd.gradcheck(lambda z: logit_loss(LOGIT_LOSSES[name], z, teacher, labels), (student,))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_nothing_reaches_the_teacher(name):
    teacher = torch.tensor(logits(2), requires_grad=True)
    student = torch.tensor(logits(1), requires_grad=True)
    logit_loss(LOGIT_LOSSES[name], student, teacher, torch.tensor(GOLD)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(LOGIT_LOSSES.keys() - {"soft_ce", "nkd"}))
def test_a_student_that_equals_its_teacher_has_no_loss(name):
    assert evaluate(name, logits(1), logits(1)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["soft_ce", "nkd"])
def test_cross_entropies_are_least_at_the_teacher(name):
    student = torch.tensor(logits(1), requires_grad=True)
    logit_loss(LOGIT_LOSSES[name], student, torch.tensor(logits(1)), torch.tensor(GOLD)).backward()
    if name == "soft_ce":
        assert student.grad.abs().max() < 1e-12
    assert evaluate(name, logits(1), logits(1)) < evaluate(name, logits(3), logits(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_extreme_logits_have_finite_gradients(name, dtype):
    signs = torch.tensor([[1, -1, -1, -1], [-1, 1, -1, -1], [1, 1, 1, 1], [0, 0, 0, 0], [-1, 1, 1, -1], [1, 0, 0, 0]])
    student = (1e4 * signs.to(dtype)).requires_grad_()
    for teacher in (1e4 * signs, -1e4 * signs, 0.0 * signs):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = logit_loss(LOGIT_LOSSES[name], student, teacher.to(dtype), torch.tensor(GOLD))
        assert value.dtype == torch.float32
        (gradient,) = torch.autograd.grad(value, student)
        assert torch.isfinite(value)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", sorted(LOGIT_LOSSES.keys() - {"dist"}))
def test_micro_batches_add_up_to_the_large_batch(name):
    student, teacher = logits(1), logits(2)
    parts = [
        evaluate(name, student[part], teacher[part], GOLD[part], num_examples=6) for part in (slice(0, 4), slice(4, 6))
    ]
    assert sum(parts).item() == pytest.approx(evaluate(name, student, teacher).item())


@pytest.mark.parametrize("name", ["dkd", "nkd"])
def test_a_row_without_a_gold_label_takes_the_teachers_class(name):
    student, teacher = logits(1), logits(2)
    unlabelled = evaluate(name, student, teacher, np.full(6, -100))
    assert unlabelled.item() == pytest.approx(evaluate(name, student, teacher, teacher.argmax(-1)).item())


def test_dkd_with_equal_weights_of_its_own_is_kd():
    """Eq. 6 of the paper: KD = TCKD + (1 - p_t[y]) * NCKD, here on rows of which the teacher is equally sure."""
    teacher = np.tile(logits(2)[:1], (6, 1))
    student, gold = logits(1), np.zeros(6, dtype=int)
    other = 1 - probabilities(teacher, 3.0)[0, 0]
    loss = LOSSES["dkd"](name="dkd", alpha=0.0, temperature=3.0, target_weight=1.0, nontarget_weight=float(other))
    value = logit_loss(loss, torch.tensor(student), torch.tensor(teacher), torch.tensor(gold))
    assert value.item() == pytest.approx(evaluate("kd", student, teacher).item())


def test_sigmoid_kd_is_the_divergence_of_every_class():
    student, teacher = logits(1), logits(2)
    p, q = special.expit(teacher / 2), special.expit(student / 2)
    expected = 4 * np.mean(np.sum(special.rel_entr(p, q) + special.rel_entr(1 - p, 1 - q), axis=-1))
    assert sigmoid_kd(torch.tensor(student), torch.tensor(teacher), 2.0).item() == pytest.approx(expected)


# --- as the trainer and the command line use them ---


@pytest.mark.parametrize(
    ("settings", "classes", "batch_size", "words"),
    [
        ({"name": "dkd", "temperature": 4.0, "target_weight": 1.0, "nontarget_weight": 8.0}, 2, 8, "identically zero"),
        ({"name": "nkd", "temperature": 1.0, "nontarget_weight": 1.5}, 2, 8, "identically zero"),
        ({"name": "dist", "temperature": 1.0, "inter_weight": 1.0, "intra_weight": 1.0}, 2, 8, "correlation over two"),
        ({"name": "dist", "temperature": 1.0, "inter_weight": 1.0, "intra_weight": 1.0}, 4, 2, "rows of a batch"),
        ({"name": "logit_std", "temperature": 1.0}, 2, 8, "same two numbers"),
        ({"name": "kd", "temperature": 1.0}, 1, 8, "one output"),
    ],
)
def test_a_degenerate_loss_is_refused_with_the_reason(settings, classes, batch_size, words):
    loss = LOSSES[settings["name"]](alpha=0.5, **settings)
    with pytest.raises(UserError, match=words):
        refuse_unfit_loss(loss, classes, batch_size)


def test_losses_that_fit_are_let_through():
    for loss in LOGIT_LOSSES.values():
        refuse_unfit_loss(loss, 5, 32)
    refuse_unfit_loss(LOGIT_LOSSES["mse"], 1, 32)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_without_a_teacher_every_loss_is_the_same_run(name):
    """At alpha = 1 nothing of the loss but the gold labels is left, so all share the baseline."""
    assert is_without_teacher(LOSSES[name](name=name, alpha=1.0, **SETTINGS[name]))
    assert not is_without_teacher(LOSSES[name](name=name, alpha=1.0, alpha_end=0.5, **SETTINGS[name]))


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.2), (0.5, 0.6), (1.0, 1.0), (1.5, 1.0)])
def test_a_weight_ramps_linearly(progress, expected):
    assert ramp(0.2, 1.0, progress) == pytest.approx(expected)
    assert ramp(0.2, None, progress) == 0.2


def test_every_loss_has_an_option_and_every_option_composes():
    register_schemas()
    for path in sorted((CONF_DIR / "loss").glob("*.yaml")):
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            config = resolve(compose("config", [f"loss={path.stem}"]))
        assert config.loss.name == path.stem
    assert {path.stem for path in (CONF_DIR / "loss").glob("*.yaml")} >= LOSSES.keys()
