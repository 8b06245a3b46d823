"""A teacher's features: cached or forwarded, the student learns the same."""

import logging
from dataclasses import replace

import pytest
import torch
from compact import build_compact_model
from transformers import set_seed

from kdexp.cache import Cache
from kdexp.hardware import Hardware
from kdexp.loss.features import FeatureTerms
from kdexp.loss.logit import KD
from kdexp.loss.terms import PKD, TERMS, Hidden
from kdexp.model import families
from kdexp.model.encoder import Encoder
from kdexp.model.tokens import tokenize
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.config import EncoderTeacherConfig, TeacherConfig
from kdexp.teacher.encoder import EncoderTeacher
from kdexp.teacher.features import alignment_tag, teacher_features
from kdexp.training.config import StudentTrainConfig, TrainConfig
from kdexp.training.course import Course
from kdexp.training.trainer import DistillationTrainer, DistillationTrainingArguments

CPU = Hardware(torch.device("cpu"), bfloat16=False, num_threads=1, num_workers=0)
FIRST = [
    "The film was good...",
    "a dull plot, wasn't it?",
    "naïve",
    "the actor was quite superb in the film",
    "",
    "x y",
]
SECOND = ["Was it good?", "two words", "", "a longer second text here", "nothing first", "z"]
SPLIT = Split.from_lists(FIRST, SECOND, [0, 1, 0, 1, 0, 1])
KIND = SingleLabel(["a", "b"])
LOSS = KD(alpha=1.0, temperature=2.0, terms={name: TERMS[name]() for name in ("hidden", "attention", "minilm", "pkd")})


def loaded(family, width, num_layers, max_length=24):
    tokenizer = families.train_tokenizer(family, FIRST + SECOND, vocab_size=330, max_length=max_length)
    config = families.compact_config(
        family, tokenizer, num_layers=num_layers, hidden_size=width, num_heads=2, max_length=max_length,
        head=SingleLabel(["a", "b"]).head_config(),
    )  # fmt: skip
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, name, 0.0)
    set_seed(len(family))
    return Encoder(build_compact_model(config).eval(), tokenizer, max_length, True)


def task_of(split):
    return Task("films", KIND, split, split, split, None)


@pytest.fixture
def models(tmp_path):
    settings = EncoderTeacherConfig(name="roberta", family="roberta", train=TrainConfig(eval_batch_size=4))
    teacher = EncoderTeacher(
        "teacher", settings, loaded("roberta", 16, 2), task_of(SPLIT), Cache(tmp_path / "cache"), CPU
    )
    teacher.prepare()
    return teacher, loaded("bert", 8, 1)


def prepare(teacher, student, cache, budget, split=SPLIT):
    settings = replace(teacher.settings, cache_hidden=budget)
    course = Course(student, task_of(split), StudentTrainConfig(), cache, CPU, seed=0, resume=True)
    return teacher_features(teacher, settings, course, LOSS)


def test_a_teacher_without_a_budget_is_forwarded_at_each_step(models, tmp_path):
    teacher, student = models
    course = Course(student, task_of(SPLIT), StudentTrainConfig(), Cache(tmp_path / "cache"), CPU, seed=0, resume=True)
    assert teacher_features(teacher, TeacherConfig(name="mine"), course, LOSS).teacher is teacher.encoder


def train(student, targets, folder):
    set_seed(0)
    model = loaded("bert", 8, 1).model
    tokens = tokenize(student.tokenizer, SPLIT, student.max_length, KIND, Cache(folder / "tokens"))
    rows = tokens.rows(labels=SPLIT.labels, **targets.columns["train"])
    trainer = DistillationTrainer(
        model,
        DistillationTrainingArguments(
            output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
            per_device_train_batch_size=3, max_steps=4, logging_steps=1, alpha=1.0, learning_rate=1e-2,
        ),
        train_dataset=rows,
        processing_class=student.tokenizer,
        teacher_model=targets.teacher.model if targets.teacher else None,
        teacher_processing_class=targets.teacher.tokenizer if targets.teacher else None,
        feature_terms=FeatureTerms(model.config, targets.teacher_config, LOSS.terms),
    )  # fmt: skip
    trainer.train()
    return trainer


def test_kept_and_forwarded_teachers_teach_the_same(models, tmp_path, caplog):
    teacher, student = models
    cache = Cache(tmp_path / "cache")
    with caplog.at_level(logging.INFO, logger="kdexp"):
        kept = prepare(teacher, student, cache, 1.0)
        forwarded = prepare(teacher, student, cache, None)
    assert "what attention, hidden, minilm, pkd compare is kept, 0.00 GB; 6 of 6 rows forwarded" in caplog.text
    assert "forwarded at each step" in caplog.text
    assert (kept.num_forwarded, kept.teacher) == (6, None)
    assert (forwarded.num_forwarded, forwarded.teacher) == (0, teacher.encoder)
    assert kept.parts != forwarded.parts
    trainers = [train(student, targets, tmp_path / "out") for targets in (kept, forwarded)]
    assert [trainer.num_teacher_rows for trainer in trainers] == [0, 12]
    logs = [
        [
            {name: value for name, value in entry.items() if name.endswith("loss")}
            for entry in trainer.state.log_history
        ]
        for trainer in trainers
    ]
    assert logs[0][0]["hidden_loss"] > 0.01
    for left, right in zip(*logs, strict=True):
        assert left == pytest.approx(right, rel=1e-4, abs=1e-6)
    teacher.verify()


def test_what_is_kept_is_found_again_and_never_mistaken(models, tmp_path):
    teacher, student = models
    cache = Cache(tmp_path / "cache")
    first = prepare(teacher, student, cache, 1.0)
    again = prepare(teacher, student, cache, 1.0)
    assert again.num_forwarded == 0
    for left, right in zip(*(t.columns["train"]["teacher_features"] for t in (first, again)), strict=True):
        assert all(torch.equal(left[name], right[name]) for name in LOSS.terms)
    with torch.no_grad():
        next(teacher.encoder.model.parameters()).add_(0.01)
    assert prepare(teacher, student, cache, 1.0).num_forwarded == 6
    # Other words, because the student cuts its texts elsewhere.
    shorter = Encoder(student.model, student.tokenizer, 10, True)
    assert prepare(teacher, shorter, cache, 1.0).num_forwarded == 6


def test_the_budget_is_of_bytes(models, tmp_path):
    teacher, student = models
    cache = Cache(tmp_path / "cache")
    kept = prepare(teacher, student, cache, 1.0)
    num_bytes = sum(4 * tensor.numel() for row in kept.columns["train"]["teacher_features"] for tensor in row.values())
    assert prepare(teacher, student, cache, num_bytes / 1e9).teacher is None
    assert prepare(teacher, student, cache, (num_bytes - 1) / 1e9).teacher is teacher.encoder


def test_texts_without_a_word_in_common_add_nothing(models, tmp_path):
    """A batch of empty texts, and one that a model cuts before its first word ends."""
    teacher, student = models
    empty = Split.from_lists(["", ""], None, [0, 1])
    for budget in (1.0, None):
        targets = prepare(teacher, student, Cache(tmp_path), budget, empty)
        model = loaded("bert", 8, 1).model
        tokens = tokenize(student.tokenizer, empty, 24, KIND, Cache(tmp_path))
        rows = tokens.rows(labels=[0, 1], **targets.columns["train"])
        trainer = DistillationTrainer(
            model,
            DistillationTrainingArguments(
                output_dir=str(tmp_path), report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
                max_steps=1, logging_steps=1,  alpha=1.0,
            ),
            train_dataset=rows,
            processing_class=student.tokenizer,
            teacher_model=targets.teacher.model if targets.teacher else None,
            teacher_processing_class=targets.teacher.tokenizer if targets.teacher else None,
            feature_terms=FeatureTerms(model.config, targets.teacher_config, LOSS.terms),
        )  # fmt: skip
        trainer.train()
        logged = trainer.state.log_history[0]
        assert [logged[f"{name}_loss"] for name in ("hidden", "attention", "minilm")] == [0, 0, 0]
        assert torch.isfinite(torch.tensor(logged["grad_norm"]))


def test_the_tag_names_the_alignment():
    assert alignment_tag(LOSS.terms) == "words"
    assert alignment_tag({"hidden": Hidden(alignment="position")}) == "position"
    assert alignment_tag({"pkd": PKD()}) == "none"
