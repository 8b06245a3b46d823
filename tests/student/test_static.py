"""The student without layers: a bag of embeddings."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compact import build_compact_model
from in_process import commands
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

import kdexp
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.loss.features import FeatureTerms
from kdexp.loss.terms import Hidden
from kdexp.model.encoder import Encoder
from kdexp.model.families import FAMILIES, compact_config, train_tokenizer
from kdexp.model.static import StaticConfig, StaticForSequenceClassification
from kdexp.student.config import StaticStudentConfig
from kdexp.student.load import follow_teacher, load_student
from kdexp.student.static import main_directions
from kdexp.task.embedded.reviews import generate_splits
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split

TEXTS = [text for text, _ in generate_splits({"train": 40}, seed=0, label_noise=0.0)["train"]]
LABELS = [index % 2 for index in range(len(TEXTS))]
LENGTH = 32
CACHE = Cache(Path("nothing is kept"))


def task_of(second=None) -> Task:
    split = Split.from_lists(TEXTS, second, LABELS)
    return Task("mine", SingleLabel(["no", "yes"]), split, split, split, None)


def teacher_of(family: str):
    torch.manual_seed(1)
    tokenizer = train_tokenizer(family, TEXTS, vocab_size=400, max_length=LENGTH)
    size = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "max_length": LENGTH}
    config = compact_config(family, tokenizer, **size, head=SingleLabel(["no", "yes"]).head_config())

    class Shown:
        name, members = "mine", {}
        encoder = Encoder(build_compact_model(config), tokenizer, LENGTH, answers_task=True)

    return Shown()


def settings(**given) -> StaticStudentConfig:
    return StaticStudentConfig(
        **{"name": "static", "family": "static", "hidden_size": 8, "max_length": LENGTH} | given
    )


def static(*, is_pair=False, width=4, vocab_size=10, num_labels=2) -> StaticForSequenceClassification:
    torch.manual_seed(0)
    config = StaticConfig(
        vocab_size=vocab_size, hidden_size=width, is_pair=is_pair, separator_token_id=2, num_labels=num_labels
    )
    return StaticForSequenceClassification(config).eval()


def test_a_text_is_the_mean_of_its_tokens_weighted_by_their_scores():
    model = static()
    with torch.no_grad():
        model.scores.weight.copy_(torch.arange(10.0)[:, None] / 3)
    ids = torch.tensor([[3, 4, 5]])
    weights = torch.softmax(torch.tensor([3.0, 4.0, 5.0]) / 3, dim=0)
    pooled = (weights[:, None] * model.embeddings.weight[[3, 4, 5]]).sum(0)
    expected = model.classifier(torch.nn.functional.gelu(model.dense(pooled)))
    torch.testing.assert_close(model(ids).logits[0], expected)
    # Order and padding do not matter.
    other = model(torch.tensor([[5, 3, 4, 0, 0]]), torch.tensor([[1, 1, 1, 0, 0]])).logits
    torch.testing.assert_close(other[0], expected)


def test_a_pair_is_compared_and_knows_its_first_text():
    model = static(is_pair=True)
    pair, swapped = torch.tensor([[1, 3, 4, 2, 5, 2]]), torch.tensor([[1, 5, 2, 3, 4, 2]])
    assert not torch.allclose(model(pair).logits, model(swapped).logits)
    padded = torch.tensor([[1, 3, 4, 2, 5, 2, 0, 0]])
    torch.testing.assert_close(model(padded, (padded != 0).long()).logits, model(pair).logits)


@pytest.mark.parametrize("is_pair", [False, True])
def test_a_text_without_tokens_has_an_answer(is_pair):
    empty = torch.tensor([[0, 0, 0]])
    assert static(is_pair=is_pair)(empty, torch.zeros_like(empty)).logits.isfinite().all()


def test_it_is_loaded_without_remote_code(tmp_path):
    model = static(num_labels=3)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path, local_files_only=True)
    ids = torch.tensor([[3, 4, 5]])
    torch.testing.assert_close(loaded.eval()(ids).logits, model(ids).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("problem", "labels"),
    [
        ("single_label_classification", torch.tensor([1, 0, 1])),
        ("multi_label_classification", torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])),
        ("regression", torch.tensor([0.5, 1.5, -1.0])),
    ],
)
def test_transformers_own_trainer_can_train_it(problem, labels, tmp_path):
    torch.manual_seed(0)
    config = StaticConfig(vocab_size=10, hidden_size=4, num_labels=1 if problem == "regression" else 2)
    config.problem_type = problem
    model = StaticForSequenceClassification(config)
    rows = [{"input_ids": torch.tensor([3, number]), "labels": label} for number, label in enumerate(labels)]
    arguments = TrainingArguments(
        str(tmp_path), max_steps=40, learning_rate=0.1, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(model, arguments, train_dataset=rows)
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < 0.5 * before


def test_feature_terms_have_nothing_to_compare():
    with pytest.raises(UserError, match="terms: a kdexp_static student has no layers to compare"):
        FeatureTerms(StaticConfig(), teacher_of("bert").encoder.model.config, {"hidden": Hidden(weight=1.0)})


def test_main_directions_are_the_principal_components():
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 6)) * np.array([9, 1, 5, 0.1, 1, 1])).float()
    kept, share = main_directions(table, 2)
    centred = table - table.mean(dim=0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ directions[:2].T
    expected *= expected.square().sum(1).mean().rsqrt()
    torch.testing.assert_close(kept.abs(), expected.abs(), rtol=1e-4, atol=1e-4)
    assert share == pytest.approx(float(values[:2].square().sum() / values.square().sum()))
    assert kept.square().sum(1).mean() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("second", [None, TEXTS[::-1]], ids=["texts", "pairs"])
def test_it_reads_the_tokens_of_any_teacher(family, second, tmp_path):
    teacher, task = teacher_of(family), task_of(second)
    student = follow_teacher(settings(), teacher, task, CACHE, seed=0)
    student.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = (TEXTS[:4],) if second is None else (TEXTS[:4], second[:4])
    inputs = tokenizer(*texts, padding=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    assert inputs["input_ids"].tolist() == teacher.encoder.tokenizer(*texts, padding=True)["input_ids"]
    assert student.model(**inputs).logits.shape == (4, 2)
    if second is not None:  # each text is on its own side
        same = student.tokenizer(TEXTS[0], TEXTS[0], return_tensors="pt")
        model = student.model.eval()
        with torch.no_grad():
            model.scores.weight[[*teacher.encoder.tokenizer.all_special_ids]] = -30.0
            ids = same["input_ids"]
            is_second = (ids == model.config.separator_token_id).cumsum(1) > 0
            embedded = model.embeddings(ids)
            special = torch.isin(ids, torch.tensor(teacher.encoder.tokenizer.all_special_ids))
            first, other = (embedded[0][(~special & side)[0]].mean(0) for side in (~is_second, is_second))
        torch.testing.assert_close(first, other)


def test_it_begins_with_the_teachers_embeddings_and_a_wider_one_with_more():
    teacher = teacher_of("roberta")
    table = teacher.encoder.model.get_input_embeddings().weight.detach()
    student = follow_teacher(settings(hidden_size=20), teacher, task_of(), CACHE, seed=0)
    kept, _ = main_directions(table, 20)
    assert kept.shape[1] == 16
    torch.testing.assert_close(student.model.embeddings.weight[:, :16], kept)
    assert "400 embeddings of 16 on their 16 main directions (100% of their variance)" in student.notes[0]
    # Distances are kept, up to one scale.
    ours, theirs = torch.pdist(kept[:20]), torch.pdist(table[:20])
    torch.testing.assert_close(ours / ours.mean(), theirs / theirs.mean(), rtol=1e-3, atol=1e-3)


def test_without_an_encoder_it_has_tokens_of_its_own(tmp_path):
    class Answers:
        name, members = "file", {}

    followed = follow_teacher(settings(), Answers(), task_of(), CACHE, seed=0)
    own = load_student(settings(vocab_size=400), task_of(), Cache(tmp_path), seed=0)
    assert "random embeddings of" in followed.notes[0]
    assert own.model.config.vocab_size == len(own.tokenizer) <= 400
    again = load_student(settings(vocab_size=400), task_of(), Cache(tmp_path), seed=0)
    assert own.fingerprint() == again.fingerprint()


def test_it_can_begin_with_a_checkpoints_embeddings(tmp_path):
    teacher = teacher_of("bert")
    teacher.encoder.save(tmp_path / "mine")
    student = load_student(settings(checkpoint=str(tmp_path / "mine")), task_of(), Cache(tmp_path), seed=0)
    followed = follow_teacher(settings(), teacher, task_of(), CACHE, seed=0)
    torch.testing.assert_close(student.model.embeddings.weight, followed.model.embeddings.weight)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"num_layers": 2}, "num_layers: got 2, but a static student has no layers; remove it"),
        ({"num_heads": 2}, "num_heads: got 2, but a static student has no layers"),
        ({"layers": [0]}, "layers: got [0], but a static student has no layers"),
        ({"init": "teacher_layers"}, "init: got teacher_layers, but a static student has no layers"),
        ({"hidden_size": 0}, "hidden_size: got 0; expected a whole number of at least 1"),
        ({"dropout": 2.0}, "dropout: got 2.0; expected a number from 0 to 1"),
        ({"vocab_size": 400, "checkpoint": "x"}, "vocab_size: cannot be set for the checkpoint x"),
        ({"vocab_size": 400, "vocab": "trim"}, "vocab: is trim, but vocab_size asks for tokens of its own"),
    ],
)
def test_bad_settings_are_told_in_one_line(given, line):
    with pytest.raises(UserError) as caught:
        settings(**given)
    assert str(caught.value).startswith(line)


SMALL = [
    *("task.train_size=64", "task.validation_size=20", "task.test_size=20", "train.max_steps=4", "hardware=cpu"),
    *("teacher.train.max_steps=2", "teacher.chance_check=false", "teacher.num_layers=1", "teacher.hidden_size=16"),
    *("hardware.num_threads=1", "student=static", "student.hidden_size=8"),
]

call = pytest.fixture(commands)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["terms=[hidden]"], "loss.terms: got hidden, but a static student computes nothing that they could compare"),
        (["tokenization=student_ids"], "tokenization: is student_ids, but a student that is made of its teacher"),
        (["student.num_layers=2"], "student.num_layers: got 2, but a static student has no layers"),
    ],
)
def test_a_run_refuses_before_it_trains(call, lines, told):
    assert told in call(*SMALL, *lines).refusal


@pytest.mark.parametrize("task", ["inference", pytest.param("reviews", marks=pytest.mark.slow)])
def test_a_run_logs_a_student_that_mlflow_loads(call, task, tmp_path, monkeypatch):
    shown = call(*SMALL, f"task={task}", "teacher=roberta")
    assert shown.code == 0, shown.err
    assert "roberta 1x16 -> static 8" in shown.out
    import mlflow

    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    student = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/student")
    answered = student.predict(["a fine lamp"] if task == "reviews" else [("a lamp", "no lamp")])
    assert answered["score"].between(0, 1).all()
    assert any(name.startswith("kdexp_architecture_") for name in sys.modules)


@pytest.mark.parametrize(
    ("lines", "learning_rate"),
    [
        ([], 3e-3),  # a compact teacher's embeddings, or random ones
        (["teacher=minilm_l6", "student.vocab_size=800"], 3e-3),
        (["teacher=minilm_l6"], 3e-4),
        (["student.checkpoint=mine"], 3e-4),
    ],
)
def test_settings_stand_in_the_config(lines, learning_rate):
    config = kdexp.compose("student=static", *lines)
    assert config.student.hidden_size == 256
    assert config.train.epochs == 10
    assert config.train.learning_rate == learning_rate
