"""Numbers: how they are read and scaled, metrics, gains, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.task.kinds.base import Answers, Labels
from kdexp.task.kinds.regression import Regression
from kdexp.task.load import load_task

KIND = Regression()


def numbers(noise, num_rows=80, seed=0, ties=False):
    """Answers in the kind's own unit, and gold numbers."""
    random = np.random.default_rng(seed)
    gold = random.normal(size=num_rows)
    told = gold + noise * np.random.default_rng(seed + 1).normal(size=num_rows)
    gold, told = (gold.round(0), told.round(0)) if ties else (gold, told)
    return Answers(torch.tensor(told).float().unsqueeze(1)), Labels(gold)


def task_of(folder, values, *overrides):
    rows = "".join(f"text {number},{value}\n" for number, value in enumerate(values))
    (folder / "rows.csv").write_text(f"text,score\n{rows}", encoding="utf-8")
    settings = ("task=file", "task.kind=regression", f"task.train={folder}/rows.csv", "task.label=score", *overrides)
    return load_task(compose(*settings).task, Cache(folder / "cache"))


def test_numbers_are_kept_as_they_are_and_learned_standardised(tmp_path):
    task = task_of(tmp_path, [1000 + 50.5 * number for number in range(40)])
    train = task.labels("train").values
    assert {*train} <= {1000 + 50.5 * number for number in range(40)}
    assert (task.kind.mean, task.kind.scale) == (train.mean(), train.std())
    assert task.kind.head_config()["problem_type"] == "regression"
    right = Answers(torch.tensor((train - train.mean()) / train.std()).float().unsqueeze(1))
    assert task.kind.decisions(right) == pytest.approx(train.tolist(), rel=1e-6)
    assert task.kind.metrics(right, task.labels("train"))["mae"] == pytest.approx(0, abs=1e-3)
    loss = task.kind.hard_loss(right.values + 1, torch.tensor(train), num_examples=None, label_smoothing=0.0)
    assert loss.item() == pytest.approx(1, rel=1e-5)
    assert any("standardised while learning" in line for line in task.announcements)


def test_unlabelled_rows_have_no_hard_loss():
    answers, labels = numbers(1)
    gold = np.concatenate([labels.values[:40], KIND.unlabelled(40)])
    half = KIND.hard_loss(answers.values, torch.tensor(gold), num_examples=80, label_smoothing=0.0)
    own = torch.nn.functional.mse_loss(answers.values[:40, 0].double(), torch.tensor(labels.values[:40]))
    assert half.item() == pytest.approx(own.item() / 2, rel=1e-5)


def test_a_model_that_learned_on_another_scale_is_read_in_the_tasks():
    kind = Regression(mean=2.5, scale=1.5)
    raw = Answers(torch.tensor([[4.0], [1.0]]))
    assert kind.decisions(kind.from_head(raw, {})) == pytest.approx([4, 1])
    assert kind.decisions(kind.from_head(raw, {"label_mean": 10.0, "label_scale": 2.0})) == pytest.approx([18, 12])
    assert kind.from_head(raw, kind.head_config()) is raw


@pytest.mark.parametrize(
    ("values", "overrides", "message"),
    [
        (
            ["1", "two"],
            (),
            r"^task.label: .*line 3: column 'score' holds 'two', not a number; write numbers such as 3.5",
        ),
        (["1", "inf"], (), r"line 3: column 'score' holds 'inf', not a number"),
        (["1", "", "2", ""], (), r"^task.label: 2 rows have no number, the first is .*line 3"),
        (["1", "nan"], (), r"^task.label: 1 rows have no number"),
        (["3"] * 20, (), r"^task.train_size: .* have one number"),
        (["1", "2"], ("task.labels=[a,b]",), r"^task.labels: got \[a, b\], but a regression task has no classes"),
        (["1", "2"], ("task.separator=';'",), r"^task.separator: got ';', but a regression task has one label"),
        (
            [1, 2] * 9,
            ("task.primary_metric=mae",),
            r"^task.primary_metric: got mae, .*expected one of pearson, spearman",
        ),
    ],
)
def test_what_is_no_number_is_told_with_its_line(tmp_path, values, overrides, message):
    with pytest.raises(UserError, match=message):
        task_of(tmp_path, values, *overrides)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_scipy(ties):
    answers, labels = numbers(0.7, ties=ties)
    told = answers.values[:, 0].double().numpy()
    found = KIND.metrics(answers, labels)
    assert found["pearson"] == pytest.approx(stats.pearsonr(told, labels.values).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(told, labels.values).statistic)
    assert found["mae"] == pytest.approx(np.abs(told - labels.values).mean())
    constant = replace(answers, values=torch.full((80, 1), 3.0))
    assert KIND.metrics(constant, labels)["pearson"] == KIND.metrics(constant, labels)["spearman"] == 0


@pytest.mark.parametrize("metric", ["pearson", "spearman"])
@pytest.mark.parametrize("ties", [False, True])
def test_a_gain_is_that_of_the_metric_on_resampled_rows(metric, ties):
    """A correlation is no mean of rows: it is computed anew on every sample."""
    kind = KIND.with_primary(metric)
    (student, labels), (baseline, _) = numbers(0.3, ties=ties), numbers(1.5, ties=ties)
    rows = np.random.default_rng(2).integers(0, 80, (50, 80))
    expected = [
        kind.metrics(student.take(sample), labels.take(sample))[metric]
        - kind.metrics(baseline.take(sample), labels.take(sample))[metric]
        for sample in rows
    ]
    assert kind.gain(student, baseline, labels, rows) == pytest.approx(expected)
    assert not kind.gain(student, student, labels, rows).any()


def test_a_correlation_survives_large_numbers():
    answers, labels = numbers(0.5)
    far = Labels(1e9 + 1e-3 * labels.values)
    expected = stats.pearsonr(answers.values[:, 0].double().numpy(), labels.values).statistic
    assert KIND.metrics(answers, far)["pearson"] == pytest.approx(expected, rel=1e-3)


def test_a_teacher_is_compared_with_the_mean():
    assert KIND.refuse_chance(*numbers(0.5), "teacher") is None
    few = numbers(1, 20, seed=3)[0], numbers(1, 20)[1]
    assert "too few rows to tell" in KIND.refuse_chance(*few, "teacher")
    with pytest.raises(
        UserError, match=r"^teacher: has pearson .* on 80 rows; always the mean has 0: it has not learned"
    ):
        KIND.refuse_chance(numbers(1, seed=3)[0], numbers(1)[1], "teacher")
    answers, labels = numbers(0.1)
    with pytest.raises(UserError, match=r"^teacher: has numbers that are further .*are they on another scale"):
        KIND.refuse_chance(replace(answers, values=20 * answers.values + 50), labels, "teacher")


def test_agreement_is_their_correlation():
    answers, _ = numbers(0.5)
    assert KIND.agreement(answers, answers) == pytest.approx(1)
    assert KIND.agreement(answers, replace(answers, values=-answers.values)) == 0
