"""What a teacher brings into a `DistillationTrainer`: right numbers, or one sentence that says what to pass."""

import logging
import warnings

import datasets
import pytest
import torch
from tiny_models import LABELS, TEXTS, TOKENIZER, WORDS, bert, dataset, word_tokenizer
from torch.nn.functional import cross_entropy, mse_loss
from transformers import (
    BertModel,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    HfArgumentParser,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from kdexp import DistillationTrainer, DistillationTrainingArguments
from kdexp.errors import UserError
from kdexp.loss.features import FeatureTerms
from kdexp.loss.logit import KD
from kdexp.loss.terms import PKD, Hidden

MSE = {"name": "mse", "centered": False}
FOREIGN = word_tokenizer([*reversed(WORDS), "more", "still"], token_types=False)


@pytest.fixture
def settings(tmp_path):
    def make(**changed):
        return {
            **{"output_dir": str(tmp_path / "out"), "report_to": "none", "use_cpu": True, "disable_tqdm": True},
            **{"per_device_train_batch_size": 4, "learning_rate": 1e-2, "max_steps": 1, "save_strategy": "no"},
            **{"logging_steps": 1, "train_sampling_strategy": "sequential"},
            **changed,
        }

    return make


@pytest.fixture
def trainer(settings):
    def make(student=None, teacher=None, data=None, named=None, **changed):
        more = {"processing_class": TOKENIZER} | (named or {})
        return DistillationTrainer(
            student or bert(1), DistillationTrainingArguments(**settings(**changed)), teacher_model=teacher,
            train_dataset=data or dataset(), **more,
        )  # fmt: skip

    return make


def first_log(trained):
    trained.train()
    return trained.state.log_history[0]


def expected_loss(teacher_logits, rows=slice(0, 4), alpha=0.5):
    inputs = TOKENIZER(TEXTS[rows], padding=True, return_tensors="pt")
    logits, labels = bert(1)(**inputs).logits, torch.tensor(LABELS[rows])
    return (
        alpha * cross_entropy(logits, labels) + (1 - alpha) * KD(temperature=4.0)(logits, teacher_logits, labels)
    ).item()


def tokens(rows=slice(0, 4)):
    return TOKENIZER(TEXTS[rows], padding=True, return_tensors="pt")


def distilbert(seed=5):
    set_seed(seed)
    return DistilBertForSequenceClassification(
        DistilBertConfig(vocab_size=len(TOKENIZER), dim=16, n_layers=1, n_heads=2, hidden_dim=32,
                         max_position_embeddings=24, num_labels=3, initializer_range=0.3)
    )  # fmt: skip


# ---- how it may be called ----


class TheirArguments(TrainingArguments):
    """As in the widely copied class."""

    def __init__(self, *args, alpha=0.25, temperature=2.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha, self.temperature = alpha, temperature


def test_arguments_of_any_class_or_none(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        teacher_logits = bert(2).eval()(**tokens()).logits
    for arguments, alpha, temperature in (
        (TrainingArguments(**settings()), 0.5, 4.0), (TheirArguments(**settings()), 0.25, 2.0),
    ):  # fmt: skip
        trainer = DistillationTrainer(
            bert(1), arguments, teacher_model=bert(2), train_dataset=dataset(), processing_class=TOKENIZER
        )
        assert trainer.args is arguments
        assert (trainer.loss.alpha, trainer.loss.temperature) == (alpha, temperature)
        logged = first_log(trainer)
        logits = bert(1)(**tokens()).logits
        soft = KD(temperature=temperature)(logits, teacher_logits, torch.tensor(LABELS[:4])).item()
        assert logged["soft_loss"] == pytest.approx(soft, rel=1e-4)
        assert logged["loss"] == pytest.approx(alpha * logged["hard_loss"] + (1 - alpha) * soft, rel=1e-4)
    assert DistillationTrainer(bert(1), teacher_model=bert(2)).args.alpha == 0.5
    with pytest.raises(ValueError, match=r"needs a teacher: pass teacher_model.*alpha=1.0 in DistillationTraining"):
        DistillationTrainer(bert(1), TrainingArguments(**settings()), train_dataset=dataset(),
                            processing_class=TOKENIZER).train()  # fmt: skip
    with pytest.raises(UserError, match=r"^temperature: got -1\.0"):
        DistillationTrainer(bert(1), TheirArguments(**settings(), temperature=-1.0))


def test_tokenizer_is_the_old_name_of_processing_class(settings):
    with pytest.warns(FutureWarning, match="pass processing_class"):
        trainer = DistillationTrainer(
            model_init=lambda: bert(1), args=DistillationTrainingArguments(**settings()), teacher_model=bert(2),
            train_dataset=dataset(), tokenizer=TOKENIZER,
        )  # fmt: skip
    assert trainer.processing_class is TOKENIZER
    trainer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        DistillationTrainer(bert(1), DistillationTrainingArguments(**settings()), processing_class=TOKENIZER)


def test_soft_loss_on_a_command_line(settings):
    parser = HfArgumentParser(DistillationTrainingArguments)
    words = [f"--{name}={value}" for name, value in settings().items()]
    (arguments,) = parser.parse_args_into_dataclasses(
        [*words, "--soft_loss", '{"name": "jsd", "temperature": 2.0, "beta": 0.5}', "--alpha", "0.2"]
    )
    assert (arguments.logit_loss().name, arguments.logit_loss().beta, arguments.alpha) == ("jsd", 0.5, 0.2)
    with pytest.raises(UserError, match=r"^soft_loss: got .*; expected JSON: "):
        parser.parse_args_into_dataclasses([*words, "--soft_loss", "{name: jsd}"])
    for left_out in ('{"name": "mse"}', '{"name": "mse", "centered": "no"}'):
        with pytest.raises(UserError, match=r"^soft_loss.centered: "):
            parser.parse_args_into_dataclasses([*words, "--soft_loss", left_out])


def test_a_whole_number_does_not_round_what_a_search_tries(settings):
    """transformers gives each value the type of the one before: an alpha of 1 would make every other one 0."""
    arguments = DistillationTrainingArguments(**settings(), alpha=1, temperature=2)
    assert (type(arguments.alpha), type(arguments.temperature)) == (float, float)


# ---- the hard loss is the student's ----


def test_a_students_own_loss_is_mixed_with_the_teachers(trainer):
    class Weighted(type(bert())):
        def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, labels=None):
            outputs = super().forward(input_ids, attention_mask, token_type_ids)
            if labels is not None:
                outputs.loss = cross_entropy(outputs.logits, labels, weight=torch.tensor([0.1, 1.0, 5.0]))
            return outputs

    logged = first_log(trainer(bert(1, cls=Weighted), bert(2)))
    weighted = cross_entropy(bert(1)(**tokens()).logits, torch.tensor(LABELS[:4]), weight=torch.tensor([0.1, 1, 5]))
    assert logged["hard_loss"] == pytest.approx(weighted.item(), rel=1e-4)
    assert logged["loss"] == pytest.approx(0.5 * logged["hard_loss"] + 0.5 * logged["soft_loss"], rel=1e-4)


def test_unlabelled_rows_have_no_hard_loss_alone_or_among_others(trainer):
    labels = [-100] * 4 + [0, -100, 1, -100] + LABELS[8:]
    data = dataset().remove_columns("labels").add_column("labels", labels)
    trained = trainer(data=data, teacher=bert(2), max_steps=2, learning_rate=0.0)
    trained.train()
    unlabelled, half = trained.state.log_history[:2]
    assert unlabelled["hard_loss"] == 0
    logits = bert(1)(**tokens(slice(4, 8))).logits[[0, 2]]
    assert half["hard_loss"] == pytest.approx(cross_entropy(logits, torch.tensor([0, 1])).item() / 2, rel=1e-4)
    assert all(torch.isfinite(weight).all() for weight in trained.model.state_dict().values())


def test_a_student_that_makes_no_loss_and_one_without_a_config(trainer):
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words = torch.nn.EmbeddingBag(len(TOKENIZER), 3)

        def forward(self, input_ids, attention_mask):
            return self.words(input_ids)

    trained = trainer(Bag(), Bag(), max_steps=3, named={"eval_dataset": dataset(slice(0, 6))})
    assert first_log(trained)["hard_loss"] == pytest.approx(
        cross_entropy(Bag()(tokens()["input_ids"], None), torch.tensor(LABELS[:4])).item(), rel=1e-4
    )
    metrics = trained.evaluate()
    inputs = tokens(slice(0, 6))
    with torch.no_grad():
        expected = cross_entropy(trained.model(inputs["input_ids"], None), torch.tensor(LABELS[:6]))
    assert metrics["eval_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert trained.predict(dataset(slice(0, 6))).predictions.shape == (6, 3)


def test_a_forward_that_takes_anything(trainer):
    class Wrapped(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, *args, **kwargs):
            return self.model(*args, **kwargs)

    with torch.no_grad():
        teacher_logits = bert(2).eval()(**tokens()).logits
    for student in (bert(1), Wrapped(bert(1))):
        for teacher in (Wrapped(bert(2)), torch.compile(bert(2), backend="eager")):
            logged = first_log(trainer(student, teacher, learning_rate=0.0))
            assert logged["loss"] == pytest.approx(expected_loss(teacher_logits), rel=1e-4)


def test_outputs_as_tuples(trainer):
    with torch.no_grad():
        expected = expected_loss(bert(2).eval()(**tokens()).logits)
    assert first_log(trainer(bert(1, return_dict=False), bert(2, return_dict=False)))["loss"] == pytest.approx(
        expected, rel=1e-4
    )


def test_embeddings_in_place_of_tokens(trainer):
    vectors = torch.randn(36, 5, 16).tolist()
    data = datasets.Dataset.from_dict({"inputs_embeds": vectors, "labels": LABELS})
    logged = first_log(trainer(bert(1), bert(2), data, named={"processing_class": None}))
    inputs = torch.tensor(vectors[:4])
    logits, labels = bert(1)(inputs_embeds=inputs).logits, torch.tensor(LABELS[:4])
    assert logged["soft_loss"] == pytest.approx(
        KD(temperature=4.0)(logits, bert(2)(inputs_embeds=inputs).logits, labels).item(), rel=1e-4
    )


@pytest.mark.parametrize("column", ["label", "label_ids", "target"])
def test_labels_of_another_name(trainer, column):
    data = dataset().rename_column("labels", column)
    changed = {"label_names": ["target"]} if column == "target" else {}
    plain = first_log(trainer(teacher=bert(2)))
    trained = trainer(teacher=bert(2), data=data, named={"eval_dataset": data}, **changed)
    assert first_log(trained)["loss"] == plain["loss"]
    assert trained.evaluate()["eval_loss"] > 0
    if column == "target":
        with pytest.raises(ValueError, match=r"no column `labels`.*a batch holds .*input_ids.*label_names"):
            trainer(teacher=bert(2), data=data).train()


# ---- what a soft loss cannot mean is refused ----


SEVERAL = [[float(i % 2), 0.0, float(i % 3 == 0)] for i in range(36)]


def test_several_labels_are_taught_by_softened_sigmoids(trainer):
    data = dataset().remove_columns("labels").add_column("labels", SEVERAL)
    several = {"problem_type": "multi_label_classification"}
    logits, taught = bert(1)(**tokens()).logits.double(), bert(2)(**tokens()).logits.double()
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    gold = torch.tensor(SEVERAL[:4]).double()
    teacher = (taught / 4).sigmoid()
    divergence = 16 * (bce(logits / 4, teacher) - bce(taught / 4, teacher)).item()
    for told in (several, {}):  # transformers settles what the student says when it first sees the labels
        logged = first_log(trainer(bert(1, **told), bert(2, **told), data))
        assert logged["hard_loss"] == pytest.approx(bce(logits, gold).item(), rel=1e-4)
        assert logged["soft_loss"] == pytest.approx(divergence, rel=1e-3)
    logged = first_log(trainer(bert(1, **several), bert(2, **several), data, soft_loss=MSE))
    assert logged["soft_loss"] == pytest.approx(mse_loss(logits, taught).item(), rel=1e-4)
    dkd = {"name": "dkd", "temperature": 2.0, "target_weight": 1.0, "nontarget_weight": 1.0}
    with pytest.raises(
        UserError, match=r"^soft_loss: dkd compares classes .* a yes or no for each label; .*one of kd"
    ):
        trainer(bert(1, **several), bert(2, **several), data, soft_loss=dkd)
    with pytest.raises(UserError, match=r"^teacher_model: its problem_type is multi_label.*the student's is single"):
        trainer(bert(1, problem_type="single_label_classification"), bert(2, **several))
    with pytest.raises(ValueError, match=r'one class of each row: .*problem_type="multi_label_classification"'):
        trainer(bert(1), bert(2), data, alpha=0.0).train()  # nothing told it: the labels are not read


def test_numbers_are_taught_by_their_squared_difference(trainer):
    numbers = dataset().remove_columns("labels").add_column("labels", [i / 7 for i in range(36)])
    logits, taught = (bert(seed, num_labels=1)(**tokens()).logits for seed in (1, 2))
    for soft_loss in ({}, {"soft_loss": MSE}):
        logged = first_log(trainer(bert(1, num_labels=1), bert(2, num_labels=1), numbers, **soft_loss))
        assert logged["soft_loss"] == pytest.approx(mse_loss(logits, taught).item(), rel=1e-4)
    huber = {"name": "huber", "delta": 0.1}
    logged = first_log(trainer(bert(1, num_labels=1), bert(2, num_labels=1), numbers, soft_loss=huber))
    expected = torch.nn.functional.huber_loss(logits, taught, delta=0.1).item()
    assert logged["soft_loss"] == pytest.approx(expected, rel=1e-4)
    with pytest.raises(UserError, match=r"^soft_loss: kd compares .* a number; expected one of mse, huber; or alpha"):
        trainer(bert(1, num_labels=1), bert(2, num_labels=1), numbers, soft_loss={"name": "kd", "temperature": 2.0})
    with pytest.raises(UserError, match=r"^soft_loss: mse without its mean leaves nothing"):
        trainer(bert(1, num_labels=1), bert(2, num_labels=1), numbers, soft_loss=MSE | {"centered": True})


@pytest.mark.parametrize("width", [1, 2, 5])
def test_teacher_logits_have_one_number_for_each_class(trainer, width):
    data = dataset().add_column("teacher_logits", [[0.5] * width] * 36)
    with pytest.raises(ValueError, match=rf"^the teacher's logits have shape \[4, {width}\], the student's \[4, 3\]"):
        trainer(data=data).train()


def test_other_classes_are_refused_in_the_words_of_python(trainer):
    names = [{"id2label": dict(enumerate(words))} for words in (["no", "maybe", "yes"], ["bad", "fair", "good"])]
    with pytest.raises(
        UserError, match=r"^teacher_model: .*\[no, maybe, yes\].*\[bad, fair, good\]; set config.id2label"
    ):
        trainer(bert(1, **names[1]), bert(2, **names[0]))
    # A teacher of features alone says nothing about classes.
    teacher = bert(2, num_labels=5)
    named = {"feature_terms": FeatureTerms(bert(1).config, teacher.config, {"pkd": PKD()})}
    assert first_log(trainer(bert(1), teacher, named=named, alpha=1.0))["pkd_loss"] > 0
    headless = bert(2, cls=BertModel)
    named = {"feature_terms": FeatureTerms(bert(1).config, headless.config, {"pkd": PKD()})}
    assert first_log(trainer(bert(1), headless, named=named, alpha=1.0))["pkd_loss"] > 0
    with pytest.raises(ValueError, match="the model returned last_hidden_state"):
        trainer(bert(1), headless).train()


# ---- what the teacher reads ----


def test_a_teacher_is_given_what_the_students_forward_lacks(trainer):
    """A DistilBERT takes no token types; a BERT without them reads the second text of a pair as the first."""
    pairs = datasets.Dataset.from_dict({**TOKENIZER(TEXTS[:8], TEXTS[8:16]), "labels": LABELS[:8]})
    inputs = TOKENIZER(TEXTS[:4], TEXTS[8:12], padding=True, return_tensors="pt")
    seen = []
    teacher = bert(2)
    teacher.register_forward_hook(lambda module, arguments, outputs: seen.append(outputs.logits.clone()))
    trained = trainer(distilbert(), teacher, pairs, named={"eval_dataset": pairs})
    trained.train()
    torch.testing.assert_close(seen[0], bert(2).eval()(**inputs).logits)
    assert trained.evaluate()["eval_loss"] > 0
    assert trained.predict(pairs.remove_columns("labels")).predictions.shape == (8, 3)


def test_embeddings_of_one_vocabulary_in_several_sizes(trainer):
    """Padded for the GPU, or resized: the ids mean the same. A vocabulary of its own is still refused."""
    assert first_log(trainer(bert(1, vocab_size=64), bert(2)))["soft_loss"] > 0
    assert first_log(trainer(bert(1), bert(2, vocab_size=len(TOKENIZER) + 100)))["soft_loss"] > 0
    with pytest.raises(ValueError, match="pass teacher_processing_class"):
        trainer(bert(1), bert(2, vocab_size=5000))
    with pytest.raises(ValueError, match="pass teacher_processing_class"):
        trainer(bert(1), bert(2, vocab_size=64, pad_token_id=1))  # as RoBERTa's
    larger = word_tokenizer([*WORDS, "new", "newer"])
    with pytest.raises(ValueError, match=r"processing_class has 24 tokens, the teacher only 22; add the same tokens"):
        trainer(bert(1, vocab_size=24), bert(2), named={"processing_class": larger})


def test_a_stream_is_tokenized_for_the_teacher_as_it_is_read(trainer):
    teacher = bert(2, vocab_size=len(FOREIGN))
    named = {"teacher_processing_class": FOREIGN}
    terms = {"hidden": Hidden(weight=0.5)}

    def logged(data):
        more = named | {"feature_terms": FeatureTerms(bert(1).config, teacher.config, terms)}
        return first_log(trainer(bert(1), teacher, data, named=more))

    whole, stream = logged(dataset()), logged(dataset().to_iterable_dataset())
    for name in ("loss", "hard_loss", "soft_loss", "hidden_loss"):
        assert stream[name] == pytest.approx(whole[name], rel=1e-5)
    with pytest.raises(ValueError, match=r"no column sentence \(it has text, labels.*set text_columns"):
        trainer(bert(1), teacher, dataset().to_iterable_dataset(), named=named, text_columns=["sentence"])


def test_a_frozen_part_may_be_shared(trainer):
    student, teacher = bert(1), bert(2)
    student.bert.embeddings = teacher.bert.embeddings
    with pytest.raises(ValueError, match="share"):
        trainer(student, teacher)
    student.bert.embeddings.requires_grad_(False)
    trainer(student, teacher).train()


def test_models_without_a_config_are_announced(trainer, caplog):
    class Bag(torch.nn.EmbeddingBag):
        def forward(self, input_ids):
            return super().forward(input_ids)

    with caplog.at_level(logging.WARNING, logger="kdexp"):
        trainer(bert(1), Bag(len(TOKENIZER), 3)).train()
    assert "without a config" in caplog.text
    assert "vocabularies are not compared" in caplog.text


# ---- what is logged ----


def adds_up(entry, alpha=0.5):
    assert entry["loss"] == pytest.approx(alpha * entry["hard_loss"] + (1 - alpha) * entry["soft_loss"], rel=1e-4)


def test_logged_parts_are_means_of_their_steps_after_a_resume_and_in_a_second_training(trainer, tmp_path):
    changed = {"max_steps": 7, "logging_steps": 2, "save_strategy": "steps", "save_steps": 3}
    straight = trainer(teacher=bert(2), **changed)
    straight.train()
    resumed = trainer(bert(3), bert(2), **changed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-3"))
    again = [entry for entry in resumed.state.log_history if "hard_loss" in entry and entry["step"] > 3]
    for entry in again:
        adds_up(entry)
    assert again[-1]["hard_loss"] == pytest.approx(straight.state.log_history[2]["hard_loss"], rel=1e-5)
    straight.train()
    for entry in straight.state.log_history:
        if "hard_loss" in entry:
            adds_up(entry)


def test_a_training_that_was_cut_off_leaves_nothing_to_the_next(trainer):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3 and not args.output_dir.endswith("again"):
                raise KeyboardInterrupt

    trained = trainer(teacher=bert(2), max_steps=5, logging_steps=5, named={"callbacks": [Stop()]})
    with pytest.raises(KeyboardInterrupt):
        trained.train()
    trained.args.output_dir += "again"
    adds_up(first_log(trained))


def test_a_callback_may_log_a_loss_of_its_own(trainer):
    class Extra(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            trained.log({"loss": 1.0})

    trained = trainer(teacher=bert(2), max_steps=4, logging_steps=4, named={"callbacks": [Extra()]})
    trained.train()
    adds_up(next(entry for entry in trained.state.log_history if "learning_rate" in entry))
