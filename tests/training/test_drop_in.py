"""What transformers documents of its Trainer, tried with this class in its place: at alpha = 1 it is the same.

Each behaviour runs with the stock class and with `DistillationTrainer`; every logged number, the first gradient and
the weights in the end must be equal, bit for bit.
"""

import os

import datasets
import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from safetensors.torch import load_file
from tiny_models import LABELS, TEXTS, TOKENIZER, bert, dataset
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    BertForTokenClassification,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    pipeline,
)

from kdexp import DistillationTrainer, DistillationTrainingArguments

TIMES = ("runtime", "per_second", "flos")


class Kept(TrainerCallback):
    """The events of a training, and its first gradient."""

    def __init__(self):
        self.events, self.gradient = [], {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.events.append("step")
        if not self.gradient:
            self.gradient = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def on_epoch_end(self, args, state, control, **kwargs):
        self.events.append("epoch")

    def on_evaluate(self, args, state, control, **kwargs):
        self.events.append("evaluate")

    def on_save(self, args, state, control, **kwargs):
        self.events.append("save")


def accuracy(prediction):
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def settings(folder, **changed):
    return {
        **{
            "output_dir": str(folder),
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
        },
        **{"per_device_train_batch_size": 4, "learning_rate": 1e-2, "max_steps": 4, "logging_steps": 1, "seed": 3},
        **changed,
    }


def stock(model, folder, changed, **named):
    named.setdefault("processing_class", TOKENIZER)
    return Trainer(model, TrainingArguments(**settings(folder, **changed)), **named)


def ours(model, folder, changed, **named):
    named.setdefault("processing_class", TOKENIZER)
    return DistillationTrainer(model, DistillationTrainingArguments(**settings(folder, **changed), alpha=1.0), **named)


def logged(trainer):
    """All that was logged, but for times and for what only a distillation logs."""
    own = ("hard_loss", "soft_loss", "alpha")
    return [
        {name: value for name, value in entry.items() if name not in own and not any(part in name for part in TIMES)}
        for entry in trainer.state.log_history
    ]


def same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def both(tmp_path, make_model=bert, train_dataset=None, **named):
    """The stock trainer and ours after the same training, which must have been the same."""
    changed = named.pop("changed", {})
    trainers = []
    for make in (stock, ours):
        kept = Kept()
        model, more = make_model(), dict(named)
        if "optimizer" in more:
            more["optimizers"] = (more.pop("optimizer")(model.parameters()), None)
        trainer = make(
            model, tmp_path / make.__name__, changed, train_dataset=train_dataset or dataset(),
            callbacks=[kept, *more.pop("callbacks", [])], **more,
        )  # fmt: skip
        trainer.train()
        trainer.kept = kept
        trainers.append(trainer)
    plain, distilling = trainers
    assert logged(plain) == logged(distilling)
    assert plain.kept.events == distilling.kept.events
    same(plain.kept.gradient, distilling.kept.gradient)
    same(plain.model.state_dict(), distilling.model.state_dict())
    return plain, distilling


def test_evaluate_predict_and_callbacks(tmp_path):
    changed = {"eval_strategy": "steps", "eval_steps": 2, "weight_decay": 0.1, "warmup_steps": 2}
    trainers = both(tmp_path, eval_dataset=dataset(slice(0, 10)), compute_metrics=accuracy, changed=changed)
    plain, distilling = (trainer.predict(dataset(slice(3, 16))) for trainer in trainers)
    assert np.array_equal(plain.predictions, distilling.predictions)
    assert np.array_equal(plain.label_ids, distilling.label_ids)
    assert plain.metrics["test_loss"] == distilling.metrics["test_loss"]
    unlabelled = dataset().remove_columns("labels")
    plain, distilling = (trainer.predict(unlabelled).predictions for trainer in trainers)
    assert np.array_equal(plain, distilling)


def test_several_evaluation_sets_and_the_best_one_of_them(tmp_path):
    sets = {"first": dataset(slice(0, 8)), "rest": dataset(slice(8, 36))}
    changed = {
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 5},
        **{"metric_for_best_model": "eval_rest_accuracy", "load_best_model_at_end": True, "greater_is_better": True},
    }
    plain, distilling = both(tmp_path, eval_dataset=sets, compute_metrics=accuracy, changed=changed)
    assert plain.state.best_global_step == distilling.state.best_global_step
    assert plain.state.best_metric == distilling.state.best_metric


def test_early_stopping(tmp_path):
    changed = {
        **{"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 30},
        **{"metric_for_best_model": "eval_loss", "load_best_model_at_end": True, "learning_rate": 0.1},
    }
    stopped = both(
        tmp_path, eval_dataset=dataset(slice(0, 9)), changed=changed,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )  # fmt: skip
    assert stopped[0].state.global_step == stopped[1].state.global_step < 30


@pytest.mark.parametrize("changed", [
    {"label_smoothing_factor": 0.2, "eval_strategy": "epoch"},
    {"lr_scheduler_type": "cosine", "optim": "adafactor", "max_grad_norm": 0.01},
    {"num_train_epochs": 2, "max_steps": -1, "train_sampling_strategy": "group_by_length"},
    {"dataloader_drop_last": True, "per_device_train_batch_size": 5, "max_steps": 9},
    {"neftune_noise_alpha": 0.3},
    {"bf16": True},
], ids=lambda changed: next(iter(changed)))  # fmt: skip
def test_settings_of_the_trainer(tmp_path, changed):
    both(tmp_path, eval_dataset=dataset(slice(0, 8)), changed=changed)


def test_optimizers_of_ones_own(tmp_path):
    both(tmp_path, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))


def test_data_without_a_tokenizer_and_with_a_collator_of_ones_own(tmp_path):
    class Rows(torch.utils.data.Dataset):
        """Tuples, which only their collator knows."""

        def __len__(self):
            return len(TEXTS)

        def __getitem__(self, index):
            return TEXTS[index], LABELS[index]

    def collate(rows):
        texts, labels = zip(*rows, strict=True)
        return {**TOKENIZER(list(texts), padding=True, return_tensors="pt"), "labels": torch.tensor(labels)}

    both(tmp_path, train_dataset=Rows(), data_collator=collate, processing_class=None,
         changed={"remove_unused_columns": False})  # fmt: skip
    padded = datasets.Dataset.from_dict({**TOKENIZER(TEXTS, padding=True), "label": LABELS})
    both(tmp_path, train_dataset=padded, processing_class=None)


def test_a_streaming_dataset(tmp_path):
    both(tmp_path, train_dataset=dataset().to_iterable_dataset())


def test_a_resumed_training_ends_as_an_undisturbed_one(tmp_path):
    changed = {"save_strategy": "steps", "save_steps": 3, "max_steps": 7, "logging_steps": 2}
    plain, straight = both(tmp_path, lambda: bert(dropout=0.2), changed=changed)
    for make, undisturbed in ((stock, plain), (ours, straight)):
        resumed = make(bert(7, dropout=0.2), tmp_path / make.__name__, changed, train_dataset=dataset())
        resumed.train(resume_from_checkpoint=str(tmp_path / make.__name__ / "checkpoint-3"))
        same(resumed.model.state_dict(), undisturbed.model.state_dict())


def test_accumulated_micro_batches_are_the_large_batch(tmp_path):
    """Of the stock class too, whose own accumulation gives encoder classifiers k times the gradient."""
    unclipped = {"max_grad_norm": 0.0, "max_steps": 2, "optim": "sgd", "train_sampling_strategy": "sequential"}
    large = stock(bert(), tmp_path, unclipped | {"per_device_train_batch_size": 12}, train_dataset=dataset())
    split = ours(bert(), tmp_path, unclipped | {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 3},
                 train_dataset=dataset(slice(0, 12)))  # fmt: skip
    for trainer in (large, split):
        trainer.add_callback(kept := Kept())
        trainer.kept = kept
        trainer.train()
    for name, gradient in large.kept.gradient.items():
        torch.testing.assert_close(split.kept.gradient[name], gradient, rtol=1e-4, atol=1e-6)
    first, other = (trainer.state.log_history[0]["loss"] for trainer in (large, split))
    assert other == pytest.approx(first, rel=1e-5)


def test_model_init_and_a_search(tmp_path):
    found = []
    for make in (stock, ours):
        trainer = make(
            None, tmp_path / make.__name__, {"max_steps": 2}, model_init=lambda trial: bert(1),
            train_dataset=dataset(), eval_dataset=dataset(slice(0, 8)),
        )  # fmt: skip
        best = trainer.hyperparameter_search(
            lambda trial: {"learning_rate": [1e-3, 1e-1][trial.number]}, n_trials=2, backend="optuna"
        )
        found.append((best.run_id, best.objective))
    assert found[0] == found[1]


def test_what_is_saved_can_be_read_by_everyone(tmp_path):
    trainers = both(tmp_path)
    answers = []
    for trainer in trainers:
        folder = tmp_path / "saved" / type(trainer).__name__
        trainer.save_model(str(folder))
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        same(model.state_dict(), trainer.model.state_dict())
        classify = pipeline("text-classification", model=str(folder), device="cpu")
        answers.append(classify(TEXTS[:3]))
        trained = pipeline("text-classification", model=trainer.model, tokenizer=TOKENIZER, device="cpu")
        assert [answer["label"] for answer in trained(TEXTS[:3])] == [answer["label"] for answer in answers[-1]]
    assert answers[0] == answers[1]
    names = [sorted(os.listdir(tmp_path / "saved" / type(trainer).__name__)) for trainer in trainers]
    assert names[0] == names[1]
    # A collator's tokenizer is saved where there is no other.
    trainer = ours(bert(), tmp_path, {}, processing_class=None, data_collator=DataCollatorWithPadding(TOKENIZER))
    trainer.save_model(str(tmp_path / "with_tokenizer"))
    assert (tmp_path / "with_tokenizer" / "tokenizer.json").exists()


# ---- other students than classifiers: their own loss ----


class Weighted(BertForSequenceClassification):
    """A loss of its own, as the course of transformers shows it for rare classes."""

    def forward(self, labels=None, **inputs):
        outputs = super().forward(**inputs)
        if labels is not None:
            outputs.loss = cross_entropy(outputs.logits, labels, weight=torch.tensor([0.1, 1.0, 5.0]))
        return outputs

    def floating_point_ops(self, inputs, exclude_embeddings=True):
        return 0


class Tuples(BertForSequenceClassification):
    """As with `return_dict=False`."""

    def forward(self, input_ids=None, attention_mask=None, token_type_ids=None, labels=None):
        outputs = super().forward(input_ids, attention_mask, token_type_ids, labels=labels)
        return tuple(outputs.values())


class Plain(torch.nn.Module):
    """No config, no base class, its own names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.EmbeddingBag(len(TOKENIZER), 3)

    def forward(self, input_ids, attention_mask, labels=None):
        logits = self.words(input_ids)
        return {"logits": logits} if labels is None else {"loss": cross_entropy(logits, labels), "logits": logits}


class Line(torch.nn.Module):
    """transformers' own RegressionModel: y = a x + b, without tokens."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.zeros(1))
        self.config = None

    def forward(self, input_x, labels=None, **kwargs):
        y = input_x * self.a + self.b
        return (y,) if labels is None else (((y - labels) ** 2).mean(), y)


def with_labels(labels):
    return dataset().remove_columns("labels").add_column("labels", labels)


def token_data():
    return dataset().map(lambda row: {"labels": [-100, *(token % 3 for token in row["input_ids"][1:-1]), -100]})


OTHERS = {
    "class weights": (lambda: bert(cls=Weighted), {"changed": {"remove_unused_columns": False}}),
    "tuples": (lambda: bert(cls=Tuples), {}),
    "no config": (Plain, {}),
    "no tokens": (Line, {
        "train_dataset": datasets.Dataset.from_dict({"input_x": [0, 1, 2, 3, 4, 5], "labels": [1.0, 3, 5, 7, 9, 11]}),
        "processing_class": None,
    }),
    "several labels": (
        lambda: bert(problem_type="multi_label_classification"),
        {"train_dataset": with_labels([[float(i % 2), 0.0, float(i % 3 == 0)] for i in range(36)])},
    ),
    "several labels, not told": (
        bert, {"train_dataset": with_labels([[float(i % 2), 0.0, float(i % 3 == 0)] for i in range(36)])}
    ),
    "a number": (lambda: bert(num_labels=1), {"train_dataset": with_labels([i / 7 for i in range(36)])}),
    "labels of tokens": (
        lambda: bert(cls=BertForTokenClassification),
        {"train_dataset": token_data(), "data_collator": DataCollatorForTokenClassification(TOKENIZER)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_students_own_loss_is_what_trains_it(tmp_path, name):
    make_model, more = OTHERS[name]
    more = dict(more)
    data = more.get("train_dataset") or dataset()
    if name == "class weights":
        data = data.remove_columns("text")
    changed = {"eval_strategy": "epoch"} | more.pop("changed", {})
    more["train_dataset"] = data
    both(tmp_path, make_model, eval_dataset=data.select(range(6)), changed=changed, **more)


def test_labels_of_tokens_accumulate_exactly(tmp_path):
    """By labelled tokens, of which each micro-batch has another number."""
    steps = {"max_grad_norm": 0.0, "max_steps": 1, "optim": "sgd", "train_sampling_strategy": "sequential"}
    gradients = []
    for size, accumulated in ((12, 1), (4, 3)):
        trainer = ours(
            bert(cls=BertForTokenClassification), tmp_path,
            steps | {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated},
            train_dataset=token_data().select(range(12)), data_collator=DataCollatorForTokenClassification(TOKENIZER),
            callbacks=[kept := Kept()],
        )  # fmt: skip
        trainer.train()
        gradients.append(kept.gradient)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_whole_numbers_are_labels_of_a_regression(tmp_path):
    """With the stock class torch fails on them; nothing else differs from the same numbers as floats."""
    weights = []
    for labels in ([i % 5 for i in range(36)], [float(i % 5) for i in range(36)]):
        trainer = ours(bert(num_labels=1), tmp_path, {}, train_dataset=with_labels(labels))
        trainer.train()
        weights.append(trainer.model.state_dict())
    same(*weights)


# ---- PEFT ----


def test_peft_student_and_teacher(tmp_path):
    peft = pytest.importorskip("peft")

    def adapted(seed=1):
        torch.manual_seed(seed)
        return peft.get_peft_model(bert(seed), peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"]))

    _, trained = both(tmp_path, adapted)
    trained.save_model(str(tmp_path / "adapter"))
    assert "adapter_model.safetensors" in os.listdir(tmp_path / "adapter")
    teacher = adapted(2)
    expected = teacher.eval()(**TOKENIZER(TEXTS[:4], TEXTS[4:8], padding=True, return_tensors="pt")).logits
    pairs = datasets.Dataset.from_dict({**TOKENIZER(TEXTS[:4], TEXTS[4:8]), "labels": LABELS[:4]})
    seen = []
    trainer = DistillationTrainer(
        adapted(), DistillationTrainingArguments(**settings(tmp_path, max_steps=1), alpha=0.5), teacher_model=teacher,
        train_dataset=pairs, processing_class=TOKENIZER,
    )  # fmt: skip
    teacher.register_forward_hook(lambda module, inputs, outputs: seen.append(outputs.logits.clone()))
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    trainer.train()
    torch.testing.assert_close(seen[0].sort(0).values, expected.sort(0).values)
    same(before, teacher.state_dict())


def test_saved_weights_are_the_students_alone(tmp_path):
    trainer = DistillationTrainer(
        bert(1), DistillationTrainingArguments(**settings(tmp_path, max_steps=1)), teacher_model=bert(2),
        train_dataset=dataset(), processing_class=TOKENIZER,
    )  # fmt: skip
    trainer.train()
    trainer.save_model()
    assert load_file(tmp_path / "model.safetensors").keys() == bert(1).state_dict().keys()


def quantized(teacher):
    return torch.ao.quantization.quantize_dynamic(teacher, {torch.nn.Linear}, dtype=torch.qint8)


def moved_in_for_each_batch(teacher):
    return cpu_offload(teacher, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("placed", [quantized, moved_in_for_each_batch])
def test_a_teacher_that_was_placed_or_quantized_stays_as_it_is(tmp_path, placed):
    """Others put it where it is: over several devices, out of memory, or in eight bits."""
    logged = []
    for teacher in (bert(seed=2), placed(bert(seed=2))):
        trainer = DistillationTrainer(
            bert(),
            DistillationTrainingArguments(**settings(tmp_path, max_steps=2)),
            train_dataset=dataset(),
            processing_class=TOKENIZER,
            teacher_model=teacher,
        )
        trainer.train()
        logged.append([entry["soft_loss"] for entry in trainer.state.log_history if "soft_loss" in entry])
    assert logged[1] == pytest.approx(logged[0], rel=0.1)


def test_a_teacher_that_is_no_model_is_told():
    with pytest.raises(
        ValueError, match=r"teacher_model is a str; pass a model, such as Auto.*from_pretrained\('x'\)"
    ):
        DistillationTrainer(bert(), train_dataset=dataset(), processing_class=TOKENIZER, teacher_model="x")
