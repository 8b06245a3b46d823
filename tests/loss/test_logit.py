"""The soft losses against the papers' formulas, worked out in float64 by scipy."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from scipy import special, stats
from scipy.spatial import distance
from torch.nn.functional import kl_div

from kdexp.cli.composition import register_schemas, resolve
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.loss.logit import DKD, KD, LOSSES, MSE, CrossEntropy, ReverseKL
from kdexp.loss.terms import Hidden, ramp
from kdexp.training.checks import refuse_small_batch, refuse_unfit_loss

SETTINGS = {
    "kd": {"temperature": 3.0},
    "soft_ce": {},
    "mse": {"centered": True},
    "huber": {"delta": 1.5},
    "reverse_kl": {"temperature": 3.0},
    "jsd": {"temperature": 3.0, "beta": 0.3},
    "tvd": {"temperature": 3.0},
    "dkd": {"temperature": 3.0, "target_weight": 0.7, "nontarget_weight": 4.0},
    "nkd": {"temperature": 3.0, "nontarget_weight": 1.5},
    "dist": {"temperature": 3.0, "inter_weight": 0.8, "intra_weight": 1.3},
    "logit_std": {"temperature": 3.0},
}
LOGIT_LOSSES = {name: LOSSES[name](alpha=0.0, **settings) for name, settings in SETTINGS.items()}


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
        case "huber":
            return special.huber(1.5, student - teacher).mean()
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
    return LOGIT_LOSSES[name](*tensors, **arguments)


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
    assert torch.autograd.gradcheck(lambda z: LOGIT_LOSSES[name](z, teacher, labels), (student,))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_nothing_reaches_the_teacher(name):
    teacher = torch.tensor(logits(2), requires_grad=True)
    student = torch.tensor(logits(1), requires_grad=True)
    LOGIT_LOSSES[name](student, teacher, torch.tensor(GOLD)).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0


@pytest.mark.parametrize("name", sorted(LOGIT_LOSSES.keys() - {"soft_ce", "nkd"}))
def test_a_student_that_equals_its_teacher_has_no_loss(name):
    assert evaluate(name, logits(1), logits(1)).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["soft_ce", "nkd"])
def test_cross_entropies_are_least_at_the_teacher(name):
    student = torch.tensor(logits(1), requires_grad=True)
    LOGIT_LOSSES[name](student, torch.tensor(logits(1)), torch.tensor(GOLD)).backward()
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
            value = LOGIT_LOSSES[name](student, teacher.to(dtype), torch.tensor(GOLD))
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
    loss = DKD(temperature=3.0, target_weight=1.0, nontarget_weight=float(other))
    value = loss(torch.tensor(student), torch.tensor(teacher), torch.tensor(gold))
    assert value.item() == pytest.approx(evaluate("kd", student, teacher).item())


# Values and gradients' norms of the functions that these classes replaced, on the same logits in float32.
BEFORE = {
    "kd": (0.775463998, 0.257681876),
    "soft_ce": (1.64640224, 0.237245753),
    "mse": (1.50179136, 0.5002985),
    "huber": (1.03473818, 0.252154857),
    "reverse_kl": (0.749625206, 0.239314511),
    "jsd": (0.159568056, 0.0517220795),
    "tvd": (0.542241812, 0.100262783),
    "dkd": (2.11058283, 0.91727078),
    "nkd": (15.4028521, 0.408837795),
    "dist": (11.9530325, 2.84124684),
    "logit_std": (0.657435954, 0.158477023),
}


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_the_numbers_are_what_they_were(name):
    student = torch.tensor(logits(1), dtype=torch.float32, requires_grad=True)
    teacher, gold = torch.tensor(logits(2), dtype=torch.float32), torch.tensor([0, 3, -100, 1, 2, 0])
    value = LOGIT_LOSSES[name](student, teacher, gold)
    (gradient,) = torch.autograd.grad(value, student)
    assert (value.item(), gradient.norm().item()) == pytest.approx(BEFORE[name], rel=3e-7, abs=3e-7)


def test_distillation_of_hinton_is_torchs_own_divergence_to_the_bit():
    student, teacher = (torch.tensor(logits(seed), dtype=torch.float32) for seed in (1, 2))
    own = kl_div((student / 3).log_softmax(-1), (teacher / 3).log_softmax(-1), reduction="sum", log_target=True)
    assert torch.equal(KD(temperature=3.0)(student, teacher, torch.tensor(GOLD)), 9 * own / 6)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_every_loss_runs_over_a_batch_of_problems(name):
    """`vmap` gives what a loop gives, of values and of gradients."""
    students, teachers = (torch.tensor(np.stack([logits(seed) for seed in seeds])) for seeds in ((1, 2), (3, 4)))
    gold = torch.tensor(np.stack([GOLD, [-100, 0, 3, 2, 1, 1]]))
    problems = list(zip(students, teachers, gold, strict=True))
    loss = LOGIT_LOSSES[name]
    torch.testing.assert_close(
        torch.func.vmap(loss)(students, teachers, gold), torch.stack([loss(*problem) for problem in problems])
    )
    gradient = torch.func.grad(loss)
    torch.testing.assert_close(
        torch.func.vmap(gradient)(students, teachers, gold), torch.stack([gradient(*problem) for problem in problems])
    )


# --- as the trainer and the command line use them ---


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dkd", "identically zero"),
        ("nkd", "identically zero"),
        ("dist", "correlation over two"),
        ("logit_std", "same two numbers"),
    ],
)
def test_a_degenerate_loss_is_refused_with_the_reason_and_the_losses_that_fit(name, reason):
    fit = "expected one of ce, kd, soft_ce, mse, reverse_kl, jsd, tvd$"
    with pytest.raises(UserError, match=f"loss: {name} is degenerate here: .*{reason}.*; {fit}"):
        refuse_unfit_loss(LOGIT_LOSSES[name], Outputs.classes, 2)


def test_a_loss_is_refused_for_logits_that_say_something_else():
    with pytest.raises(
        UserError,
        match=r"kd compares classes of which one is right or a yes or no for each label, "
        r"but here the logits say a number; expected one of ce, mse, huber$",
    ):
        refuse_unfit_loss(LOGIT_LOSSES["kd"], Outputs.number, 1)
    with pytest.raises(
        UserError, match=r"dkd compares classes of .* say a yes or no for each label; expected one of ce,"
    ):
        refuse_unfit_loss(LOGIT_LOSSES["dkd"], Outputs.yes_no, 5)
    with pytest.raises(UserError, match=r"mse without its mean is another answer: .*; set centered=false"):
        refuse_unfit_loss(LOSSES["mse"](centered=True), Outputs.yes_no, 5)
    with pytest.raises(UserError, match="mse without its mean leaves nothing of a single number; set centered=false"):
        refuse_unfit_loss(LOSSES["mse"](centered=True), Outputs.number, 1)
    refuse_unfit_loss(LOSSES["mse"](centered=False), Outputs.number, 1)
    for name, loss in LOGIT_LOSSES.items():
        if name != "huber":
            refuse_unfit_loss(loss, Outputs.classes, 5)


@pytest.mark.parametrize("name", ["kd", "soft_ce", "reverse_kl", "jsd", "tvd"])
def test_several_labels_are_compared_each_as_yes_or_no(name):
    """The two classes of a label are its sigmoid's: the value is the mean over rows and labels of such two classes."""
    student, teacher = (torch.tensor(logits(seed)) for seed in (1, 2))
    value = LOGIT_LOSSES[name](student, teacher, torch.zeros(6, 4), outputs=Outputs.yes_no)
    refuse_unfit_loss(LOGIT_LOSSES[name], Outputs.yes_no, 4)
    pairs = [torch.stack([each.flatten(), torch.zeros(24)], dim=-1) for each in (student, teacher)]
    assert value.item() == pytest.approx(LOGIT_LOSSES[name](*pairs, torch.zeros(24).long()).item())


def test_distillation_of_several_labels_is_the_divergence_of_softened_sigmoids():
    student, teacher = logits(1), logits(2)
    told, taught = special.expit(student / 3), special.expit(teacher / 3)
    divergence = taught * np.log(taught / told) + (1 - taught) * np.log((1 - taught) / (1 - told))
    value = LOGIT_LOSSES["kd"](
        torch.tensor(student), torch.tensor(teacher), torch.zeros(6, 4), num_examples=12, outputs=Outputs.yes_no
    )
    assert value.item() == pytest.approx(9 * divergence.mean() / 2)


def test_a_batch_too_small_to_relate_its_rows_is_refused():
    with pytest.raises(UserError, match="batch_size: is 2, but dist relates the examples of a batch"):
        refuse_small_batch(LOGIT_LOSSES["dist"], 2)
    refuse_small_batch(LOSSES["dist"](temperature=1.0, inter_weight=1.0, intra_weight=0.0), 2)
    for loss in LOGIT_LOSSES.values():
        refuse_small_batch(loss, 32)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: KD(temperature=0), "temperature: got 0; expected a finite number above 0"),
        (lambda: KD(temperature="hot"), "temperature: got hot; expected a finite number above 0"),
        (lambda: KD(temperature=None), "temperature: got None; expected a finite number above 0"),
        (lambda: KD(temperature=1, alpha=2), "alpha: got 2; expected a number from 0 (teacher only) to 1"),
        (lambda: KD(temperature=1, alpha_end=-1), "alpha_end: got -1; expected a number from 0 (teacher only) to 1"),
        (lambda: MSE(centered="yes"), "centered: got 'yes'; expected true or false"),
        (
            lambda: DKD(temperature=1, target_weight=0, nontarget_weight=0),
            "target_weight: is 0, as nontarget_weight is; set one of the two above 0",
        ),
        (
            lambda: LOSSES["jsd"](temperature=1, beta=1),
            "beta: got 1; expected a number between 0 and 1; the limits themselves are kd and reverse_kl",
        ),
    ],
)
def test_a_constructor_names_its_argument(make, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        make()


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_without_a_teacher_every_loss_is_the_same_run(name):
    """At alpha = 1 nothing of the loss but the gold labels is left, so all share the baseline."""
    kind, settings = LOSSES[name], SETTINGS[name]
    assert not kind(alpha=1.0, **settings).uses_teacher
    assert kind(alpha=1.0, **settings).parts() == CrossEntropy().parts()
    assert kind(alpha=1.0, alpha_end=0.5, **settings).uses_logits
    with_terms = kind(alpha=1.0, terms={"hidden": Hidden()}, **settings)
    assert with_terms.uses_teacher
    assert not with_terms.uses_logits
    assert with_terms.parts() != CrossEntropy().parts()


def test_two_formulas_of_one_name_are_two_computations():
    """A person may edit a loss of their own without giving it another name."""
    assert KD(name="mine", temperature=2.0).parts() != ReverseKL(name="mine", temperature=2.0).parts()
    assert json.loads(json.dumps(KD(temperature=2.0, terms={"hidden": Hidden()}).parts()))


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
    assert all(SETTINGS.keys() | {"ce"} == LOSSES.keys() and kind.name == name for name, kind in LOSSES.items())


def test_settings_and_losses_are_read_without_torch_and_without_the_command_line():
    script = """
import sys
import kdexp.loss.logit, kdexp.loss.terms
assert "torch" not in sys.modules
import kdexp.loss.features, kdexp.loss.hard, kdexp.training.trainer
print(*sorted({"hydra", "omegaconf", "mlflow"} & sys.modules.keys()))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []
