"""`DistillationTrainer` as its users call it, on models small enough to train in a second."""

import copy
import logging
from dataclasses import fields, replace

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    TrainerCallback,
    set_seed,
)

from kdexp import DistillationTrainer, DistillationTrainingArguments
from kdexp.errors import UserError
from kdexp.fingerprint import weights_fingerprint
from kdexp.loss.base import LogitLoss
from kdexp.loss.features import FeatureTerms
from kdexp.loss.logit import DKD, KD, LOSSES
from kdexp.loss.terms import PKD, RKD, TERMS, Alignment, Attention, Hidden, MiniLM
from kdexp.training.arguments import soft_loss_settings

WORDS = [
    "the",
    "a",
    "film",
    "plot",
    "actor",
    "is",
    "was",
    "good",
    "bad",
    "dull",
    "fine",
    "not",
    "very",
    "but",
    "and",
    "never",
    "quite",
    "superb",
]
TEXTS = [" ".join(WORDS[(7 * i + 5 * j * j) % len(WORDS)] for j in range(3 + i % 6)) for i in range(36)]
LABELS = [i % 3 for i in range(36)]


def word_tokenizer(words, max_length=16, token_types=True):
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: index for index, word in enumerate([*special, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=names if token_types else [names[0], names[2]],
    )


STUDENT_TOKENIZER = word_tokenizer(WORDS)
# The same words in another order, and twelve more: each id means something else to this teacher.
TEACHER_TOKENIZER = word_tokenizer([*reversed(WORDS), *(f"extra{i}" for i in range(12))], token_types=False)


def bert(seed=0, vocabulary=STUDENT_TOKENIZER, names=None, dropout=0.0):
    set_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=0.3,
            id2label=dict(enumerate(names or ["bad", "fair", "good"])),
            label2id={name: i for i, name in enumerate(names or ["bad", "fair", "good"])},
        )
    )


def dataset(rows=slice(None)):
    data = datasets.Dataset.from_dict({"text": TEXTS[rows], "labels": LABELS[rows]})
    return data.map(lambda batch: STUDENT_TOKENIZER(batch["text"], truncation=True), batched=True)


@pytest.fixture
def arguments(tmp_path):
    def make(**settings):
        defaults = {
            "output_dir": str(tmp_path / "out"),
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "max_steps": 3,
        }
        return DistillationTrainingArguments(**(defaults | settings))

    return make


class FirstGradient(TrainerCallback):
    """Keeps the gradient of the first optimizer step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if not hasattr(self, "gradient"):
            self.gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def first_gradient(trainer_arguments, train_dataset, **settings):
    watcher = FirstGradient()
    trainer = DistillationTrainer(
        bert(1),
        trainer_arguments,
        train_dataset=train_dataset,
        processing_class=STUDENT_TOKENIZER,
        callbacks=[watcher],
        **settings,
    )
    trainer.train()
    return watcher.gradient


def test_the_threads_call_trains_the_student_alone(arguments):
    teacher, student = bert(2, dropout=0.5), bert(1)
    teacher_before, student_before = (weights_fingerprint(m.state_dict()) for m in (teacher, student))
    trainer = DistillationTrainer(
        student,
        arguments(alpha=0.5, temperature=4.0, eval_strategy="epoch", max_steps=9),
        teacher_model=teacher,
        train_dataset=dataset(),
        eval_dataset=dataset(slice(0, 12)),
        data_collator=DataCollatorWithPadding(STUDENT_TOKENIZER),
        processing_class=STUDENT_TOKENIZER,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.train()
    assert weights_fingerprint(teacher.state_dict()) == teacher_before
    assert weights_fingerprint(student.state_dict()) != student_before
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(p) for p in teacher.parameters()}
    assert next(teacher.parameters()).device == next(student.parameters()).device
    assert "eval_accuracy" in trainer.evaluate()


def test_alpha_and_temperature_are_recorded(arguments):
    recorded = arguments(alpha=0.3, temperature=2.5).to_dict()
    assert (recorded["alpha"], recorded["temperature"]) == (0.3, 2.5)
    assert recorded["tokenization"] == "own"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 1.5}, r"^alpha: got 1.5; expected a number from 0 \(teacher only\) to 1"),
        ({"alpha": float("nan")}, "^alpha: got nan"),
        ({"alpha_end": -1}, "^alpha_end: got -1"),
        ({"temperature": 0}, "^temperature: got 0; expected a finite number above 0"),
        ({"temperature": float("nan")}, "^temperature: got nan"),
        ({"tokenization": "theirs"}, "^tokenization: got 'theirs'; expected one of own, student_ids"),
        ({"soft_loss": "dkd"}, "^soft_loss: got 'dkd'; expected {"),
        ({"soft_loss": {"temperature": 2.0}}, "^soft_loss.name: got None; expected one of kd, soft_ce, .*, logit_std"),
        ({"soft_loss": {"name": "ce"}}, "^soft_loss.name: got 'ce'; expected one of kd"),
        (
            {"soft_loss": {"name": "jsd", "temperature": 2.0}},
            "^soft_loss.beta: is not set; jsd takes temperature, beta",
        ),
        ({"soft_loss": {"name": "mse", "T": 1}}, "^soft_loss.T: no such setting; mse takes centered"),
        (
            {"soft_loss": {"name": "kd", "temperature": 1, "alpha": 0.5}},
            "^soft_loss.alpha: no such setting; kd takes temp",
        ),
        (
            {"soft_loss": {"name": "kd", "temperature": "hot"}},
            "^soft_loss.temperature: got hot; expected a finite number",
        ),
        (
            {"soft_loss": {"name": "soft_ce", "temperature": 1}},
            "^soft_loss.temperature: .*; soft_ce takes no settings",
        ),
    ],
)
def test_arguments_out_of_range(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        arguments(**settings)


@pytest.mark.parametrize("micro_batch", [6, 5])  # 5 leaves ragged micro-batches: 5, 5, 2
def test_gradient_accumulation_gives_the_gradient_of_the_large_batch(arguments, micro_batch):
    """transformers' own Trainer gives k times that gradient for encoder classifiers."""
    common = {"alpha": 0.5, "max_steps": 1, "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
    data, teacher = dataset(slice(0, 12)), bert(2)
    large = first_gradient(arguments(per_device_train_batch_size=12, **common), data, teacher_model=teacher)
    accumulated = first_gradient(
        arguments(
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=-(-12 // micro_batch),
            **common,
        ),
        data,
        teacher_model=teacher,
    )
    assert large.keys() == accumulated.keys()
    for name in large:
        torch.testing.assert_close(accumulated[name], large[name], rtol=1e-4, atol=1e-6)


def test_alpha_one_trains_bit_for_bit_like_plain_cross_entropy(arguments):
    gradient = first_gradient(
        arguments(alpha=1.0, max_steps=1, max_grad_norm=0.0, train_sampling_strategy="sequential"), dataset()
    )
    model = bert(1)
    batch = DataCollatorWithPadding(STUDENT_TOKENIZER)(
        [{k: v for k, v in row.items() if k != "text"} for row in dataset(slice(0, 4))]
    )
    labels = batch.pop("labels")
    cross_entropy(model(**batch).logits, labels).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(gradient[name], parameter.grad), name


def test_cached_logits_train_as_the_teacher_in_the_loop(arguments):
    teacher, data = bert(2).eval(), dataset()
    with torch.inference_mode():
        logits = [teacher(**STUDENT_TOKENIZER(text, return_tensors="pt")).logits[0].tolist() for text in TEXTS]
    settings = {"alpha": 0.25, "max_steps": 1, "max_grad_norm": 0.0, "train_sampling_strategy": "sequential"}
    in_loop = first_gradient(arguments(**settings), data, teacher_model=teacher)
    cached = first_gradient(arguments(**settings), data.add_column("teacher_logits", logits))
    for name in in_loop:
        torch.testing.assert_close(cached[name], in_loop[name], rtol=1e-4, atol=1e-6)


def test_a_teacher_with_another_tokenizer_reads_its_own_tokens(arguments):
    set_seed(3)
    teacher = RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=len(TEACHER_TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, max_position_embeddings=20, type_vocab_size=1, pad_token_id=0,
            num_labels=3, initializer_range=0.3,
        )
    )  # fmt: skip
    seen = []
    teacher.register_forward_pre_hook(lambda m, a, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    first_gradient(
        arguments(alpha=0.0, max_steps=1, train_sampling_strategy="sequential"),
        dataset(),
        teacher_model=teacher,
        teacher_processing_class=TEACHER_TOKENIZER,
    )
    expected = TEACHER_TOKENIZER(TEXTS[:4], padding=True, return_tensors="pt")["input_ids"]
    assert torch.equal(seen[0], expected)


def test_foreign_vocabulary_is_refused_unless_asked_for(arguments):
    teacher = bert(2, vocabulary=TEACHER_TOKENIZER)
    with pytest.raises(ValueError, match=r"pass teacher_processing_class=.*tokenization='student_ids'"):
        DistillationTrainer(bert(1), arguments(), teacher_model=teacher, train_dataset=dataset())
    first_gradient(arguments(tokenization="student_ids"), dataset(), teacher_model=teacher)


def test_student_ids_that_the_teacher_has_no_embedding_for_are_explained(arguments):
    teacher = bert(2, vocabulary=word_tokenizer(WORDS[:3]))
    with pytest.raises(UserError, match=r"feeds token id \d+ to a bert teacher, whose vocabulary ends at 6"):
        first_gradient(arguments(tokenization="student_ids"), dataset(), teacher_model=teacher)


def test_a_teacher_without_token_types_is_not_given_any(arguments):
    set_seed(4)
    teacher = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=len(STUDENT_TOKENIZER), dim=16, n_layers=1, n_heads=2, hidden_dim=32,
            max_position_embeddings=16, num_labels=3,
        )
    )  # fmt: skip
    assert first_gradient(arguments(max_steps=1), dataset(), teacher_model=teacher)


def test_classes_are_aligned_by_name(arguments):
    teacher = bert(2, names=["good", "bad", "fair"])
    trainer = DistillationTrainer(
        bert(1), arguments(alpha=0.0), teacher_model=teacher, processing_class=STUDENT_TOKENIZER
    )
    batch = dict(STUDENT_TOKENIZER(TEXTS[:4], padding=True, return_tensors="pt"))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    with torch.no_grad():
        in_student_order = teacher(**batch).logits[:, [1, 2, 0]]
        expected = KD(temperature=4.0)(trainer.model(**batch).logits, in_student_order, torch.zeros(4))
    torch.testing.assert_close(loss.detach(), expected)


def test_classes_that_do_not_match_are_refused_with_both_lists(arguments):
    with pytest.raises(UserError, match=r"\[no, maybe, yes\].*\[bad, fair, good\]"):
        DistillationTrainer(bert(1), arguments(), teacher_model=bert(2, names=["no", "maybe", "yes"]))
    with pytest.raises(ValueError, match="teacher has 2 classes, student has 3"):
        DistillationTrainer(bert(1), arguments(), teacher_model=bert(2, names=["bad", "good"]))


def test_shared_weights_are_refused(arguments):
    student = bert(1)
    with pytest.raises(ValueError, match=r"share .* parameters"):
        DistillationTrainer(student, arguments(), teacher_model=student)
    DistillationTrainer(student, arguments(), teacher_model=copy.deepcopy(student))


def test_a_teacher_that_changes_is_noticed(arguments):
    class Meddler(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            with torch.no_grad():
                teacher.classifier.bias += 1e-6

    teacher = bert(2)
    trainer = DistillationTrainer(
        bert(1), arguments(), teacher_model=teacher, train_dataset=dataset(),
        processing_class=STUDENT_TOKENIZER, callbacks=[Meddler()],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="teacher's weights changed"):
        trainer.train()


def test_evaluation_loss_is_the_gold_nll_whatever_alpha_and_temperature(arguments):
    losses = []
    for alpha, temperature in [(0.0, 8.0), (0.5, 2.0), (1.0, 1.0)]:
        trainer = DistillationTrainer(
            bert(1), arguments(alpha=alpha, temperature=temperature), teacher_model=bert(2),
            eval_dataset=dataset(), processing_class=STUDENT_TOKENIZER,
        )  # fmt: skip
        losses.append(trainer.evaluate()["eval_loss"])
    with torch.no_grad():
        logits = bert(1).eval()(**STUDENT_TOKENIZER(TEXTS, padding=True, return_tensors="pt")).logits
    expected = cross_entropy(logits, torch.tensor(LABELS)).item()
    assert losses == pytest.approx([expected] * 3, rel=1e-5)


def test_realised_terms_are_logged_and_add_up(arguments):
    trainer = DistillationTrainer(
        bert(1), arguments(alpha=0.3, logging_steps=3, gradient_accumulation_steps=2), teacher_model=bert(2),
        train_dataset=dataset(), processing_class=STUDENT_TOKENIZER,
    )  # fmt: skip
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["hard_loss"] > 0
    assert logged["soft_loss"] > 0
    assert logged["loss"] == pytest.approx(0.3 * logged["hard_loss"] + 0.7 * logged["soft_loss"], rel=1e-4)


def test_settings_of_the_loss_are_read_when_they_are_used(arguments):
    """A search changes the arguments of a trainer that exists: each trial trains with what it was given."""
    trainer = DistillationTrainer(
        None, arguments(alpha=1.0, max_steps=1, logging_steps=1), model_init=lambda: bert(1), teacher_model=bert(2),
        train_dataset=dataset(), eval_dataset=dataset(), processing_class=STUDENT_TOKENIZER,
    )  # fmt: skip
    seen = []

    def space(trial):
        seen.append(trial.number)
        return {"alpha": (0.25, 0.75)[trial.number], "temperature": (1.0, 8.0)[trial.number]}

    logged = []

    def objective(metrics):
        logged.append(next(entry for entry in trainer.state.log_history if "soft_loss" in entry))
        return metrics["eval_loss"]

    trainer.hyperparameter_search(space, objective, n_trials=2, backend="optuna")
    assert [entry["alpha"] for entry in logged] == [0.25, 0.75]
    assert logged[0]["soft_loss"] != logged[1]["soft_loss"]
    trainer.args.temperature = 0.0
    with pytest.raises(ValueError, match=r"^temperature: got 0.0"):
        trainer.train()


def test_another_soft_loss_by_name(arguments):
    soft_loss = {"name": "dkd", "temperature": 2.0, "target_weight": 1.0, "nontarget_weight": 4.0}
    trainer = DistillationTrainer(
        bert(1), arguments(alpha=0.0, soft_loss=soft_loss, max_steps=1, train_sampling_strategy="sequential"),
        teacher_model=bert(2), train_dataset=dataset(), processing_class=STUDENT_TOKENIZER,
    )  # fmt: skip
    assert trainer.loss == DKD(alpha=0.0, temperature=2.0, target_weight=1.0, nontarget_weight=4.0)
    with torch.no_grad():
        batch = STUDENT_TOKENIZER(TEXTS[:4], padding=True, return_tensors="pt")
        expected = trainer.loss(bert(1)(**batch).logits, bert(2).eval()(**batch).logits, torch.tensor(LABELS[:4]))
    assert trainer.train().training_loss == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", [name for name, kind in LOSSES.items() if issubclass(kind, LogitLoss)])
def test_losses_become_arguments_and_back(arguments, name):
    values = {"temperature": 3.0, "centered": True, "beta": 0.3}
    kind = LOSSES[name]
    own = {item.name: values.get(item.name, 1.5) for item in fields(kind) if item.name not in
           {shared.name for shared in fields(LogitLoss)}}  # fmt: skip
    loss = kind(name="a preset", alpha=0.2, alpha_end=0.4, **own)
    again = arguments(alpha=0.2, alpha_end=0.4, soft_loss=soft_loss_settings(loss)).logit_loss()
    assert again == replace(loss, name=name)


def test_labels_are_needed_where_they_count(arguments):
    unlabelled = dataset().remove_columns("labels")
    assert first_gradient(arguments(alpha=0.0, max_steps=1), unlabelled, teacher_model=bert(2))
    with pytest.raises(ValueError, match="no column `labels`, which every alpha above 0 needs"):
        first_gradient(arguments(alpha=0.5, max_steps=1), unlabelled, teacher_model=bert(2))


def test_a_loss_that_does_not_fit_is_refused_in_the_words_of_python(arguments):
    soft_loss = {"name": "logit_std", "temperature": 2.0}
    with pytest.raises(UserError, match=r"^loss: logit_std is degenerate here"):
        DistillationTrainer(bert(1, names=["no", "yes"]), arguments(soft_loss=soft_loss))
    with pytest.raises(ValueError, match="feature_terms are made for one student"):
        with_terms(None, bert(2), arguments(), terms=None, model_init=lambda: bert(1))


def test_missing_teacher_and_missing_text_say_what_to_pass(arguments):
    with pytest.raises(ValueError, match="needs a teacher: pass teacher_model"):
        first_gradient(arguments(alpha=0.5), dataset())
    with pytest.raises(ValueError, match=r"no column sentence.*set text_columns"):
        DistillationTrainer(
            bert(1), arguments(text_columns=["sentence"]), teacher_model=bert(2),
            train_dataset=dataset(), teacher_processing_class=TEACHER_TOKENIZER,
        )  # fmt: skip
    with pytest.raises(ValueError, match="compute_loss_func would replace the distillation loss"):
        DistillationTrainer(bert(1), arguments(), teacher_model=bert(2), compute_loss_func=lambda *a: None)


def test_matching_by_index_is_announced(arguments, caplog):
    with caplog.at_level(logging.WARNING, logger="kdexp"):
        DistillationTrainer(bert(1), arguments(), teacher_model=bert(2, names=["LABEL_0", "LABEL_1", "LABEL_2"]))
    assert "classes are matched by index" in caplog.text


TAUGHT = {"hidden": Hidden(weight=0.5), "pkd": PKD(), "attention": Attention(weight=2.0)}


def wide_teacher(seed=2):
    """Wider than `bert`, so that projections are needed, and with its own heads."""
    set_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=len(STUDENT_TOKENIZER), hidden_size=24, num_hidden_layers=2, num_attention_heads=3,
            intermediate_size=32, max_position_embeddings=16, initializer_range=0.3,
            id2label={0: "bad", 1: "fair", 2: "good"}, label2id={"bad": 0, "fair": 1, "good": 2},
        )
    )  # fmt: skip


def with_terms(student, teacher, trainer_arguments, terms=TAUGHT, train_dataset=None, **settings):
    return DistillationTrainer(
        student, trainer_arguments, teacher_model=teacher, train_dataset=train_dataset or dataset(),
        processing_class=STUDENT_TOKENIZER,
        feature_terms=FeatureTerms((student or teacher).config, teacher.config, terms or TAUGHT), **settings,
    )  # fmt: skip


def test_feature_terms_teach_the_student_alone(arguments, tmp_path):
    student, teacher = bert(1), wide_teacher()
    before = weights_fingerprint(teacher.state_dict())
    names = set(student.state_dict())
    trainer = with_terms(
        student, teacher, arguments(alpha=0.5, max_steps=30, logging_steps=10, save_strategy="steps", save_steps=10)
    )
    projections = {name: tensor.clone() for name, tensor in trainer.feature_terms.state_dict().items()}
    trainer.train()
    assert weights_fingerprint(teacher.state_dict()) == before
    for name, tensor in trainer.feature_terms.state_dict().items():
        assert not torch.equal(tensor, projections[name]), name
    first, *_, last = [entry for entry in trainer.state.log_history if "loss" in entry]
    for name in TAUGHT:
        assert last[f"{name}_loss"] < first[f"{name}_loss"]
    mixture = 0.5 * first["hard_loss"] + 0.5 * first["soft_loss"]
    terms = sum(term.weight * first[f"{name}_loss"] for name, term in TAUGHT.items())
    assert first["loss"] == pytest.approx(mixture + terms, rel=1e-4)
    # Checkpoints hold the projections beside the student, and what is exported does not hold them at all.
    assert set(student.state_dict()) == names
    trainer.save_model(str(tmp_path / "exported"))
    assert not (tmp_path / "exported" / "distillation_terms.safetensors").exists()
    for folder in (tmp_path / "exported", tmp_path / "out" / "checkpoint-10"):
        assert set(load_file(folder / "model.safetensors")) == names
    saved = load_file(tmp_path / "out" / "checkpoint-10" / "distillation_terms.safetensors")
    assert set(saved) == set(projections)
    assert student.config._attn_implementation == bert(1).config._attn_implementation


def test_a_resumed_training_with_projections_is_the_same_bit_by_bit(arguments, tmp_path):
    def trainer():
        settings = arguments(max_steps=8, save_strategy="steps", save_steps=4, gradient_accumulation_steps=2)
        return with_terms(bert(1, dropout=0.2), wide_teacher(), settings)

    straight = trainer()
    straight.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    for left, right in (
        (straight.model, resumed.model),
        (straight.feature_terms, resumed.feature_terms),
    ):
        for name, tensor in left.state_dict().items():
            assert torch.equal(tensor, right.state_dict()[name]), name


@pytest.mark.parametrize("name", ["pkd", "hidden", "attention", "minilm"])
def test_accumulated_micro_batches_give_the_terms_gradient_of_the_large_batch(arguments, name):
    gradients = []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        settings = arguments(
            alpha=1.0, max_steps=1, max_grad_norm=0.0, per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation, train_sampling_strategy="sequential",
        )  # fmt: skip
        watcher = FirstGradient()
        trainer = with_terms(bert(1), wide_teacher(), settings, {name: TERMS[name](weight=10.0)}, callbacks=[watcher])
        trainer.train()
        gradients.append(watcher.gradient)
    assert any("projections" in parameter for parameter in gradients[0]) == (name in ("pkd", "hidden"))
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient, rtol=1e-3, atol=1e-5)


def test_a_model_seen_through_another_tokenizer_is_the_same_model(arguments):
    """The same weights, but every word has another id."""
    student = bert(1)
    teacher = bert(1, vocabulary=TEACHER_TOKENIZER)
    state = student.state_dict()
    embeddings = teacher.get_input_embeddings().weight.data
    for word, index in STUDENT_TOKENIZER.get_vocab().items():
        embeddings[TEACHER_TOKENIZER.convert_tokens_to_ids(word)] = state["bert.embeddings.word_embeddings.weight"][
            index
        ]
    del state["bert.embeddings.word_embeddings.weight"]
    teacher.load_state_dict(state, strict=False)
    terms = {name: TERMS[name]() for name in ("hidden", "attention", "minilm")}
    trainer = with_terms(
        student, teacher, arguments(alpha=1.0, max_steps=1, logging_steps=1), terms,
        teacher_processing_class=TEACHER_TOKENIZER,
    )  # fmt: skip
    trainer.train()
    assert trainer.num_teacher_rows == 4
    logged = trainer.state.log_history[0]
    for name in terms:
        assert logged[f"{name}_loss"] == pytest.approx(0, abs=1e-5)


def test_terms_that_cannot_work_are_refused(arguments):
    with pytest.raises(UserError, match=r"^terms.hidden: compares tokens, but with tokenization=student_ids"):
        with_terms(bert(1), bert(2, vocabulary=TEACHER_TOKENIZER), arguments(tokenization="student_ids"))
    with pytest.raises(UserError, match=r"^batch_size: is 2, but rkd relates the examples"):
        with_terms(bert(1), bert(2), arguments(per_device_train_batch_size=2), {"rkd": RKD()})
    terms = {"hidden": Hidden(), "minilm": MiniLM(alignment=Alignment.position)}
    with pytest.raises(UserError, match="use one alignment for all terms"):
        with_terms(bert(1), bert(2), arguments(), terms)
    padded = dataset().map(lambda batch: STUDENT_TOKENIZER(batch["text"], padding="max_length"), batched=True)
    with pytest.raises(ValueError, match="are not what processing_class makes of its text, unpadded"):
        with_terms(
            bert(1), bert(2, vocabulary=TEACHER_TOKENIZER), arguments(), train_dataset=padded,
            teacher_processing_class=TEACHER_TOKENIZER,
        )  # fmt: skip
    trainer = DistillationTrainer(
        bert(1), arguments(alpha=1.0), train_dataset=dataset(), processing_class=STUDENT_TOKENIZER,
        feature_terms=FeatureTerms(bert(1).config, bert(2).config, TAUGHT),
    )  # fmt: skip
    with pytest.raises(ValueError, match="feature_terms need a teacher: pass teacher_model"):
        trainer.train()
