"""Labels of tokens in `DistillationTrainer`: the soft loss compares the tokens that count, and nothing else."""

import copy

import pytest
import torch
from tiny_models import TEXTS, TOKENIZER, bert, dataset
from torch.nn.functional import kl_div
from transformers import BertForTokenClassification, DataCollatorForTokenClassification

from kdexp.model.families import train_tokenizer
from kdexp.task.kinds.answers import UNREAD
from kdexp.task.kinds.base import UNITS
from kdexp.task.kinds.token_labels import TokenLabels
from kdexp.training.trainer import DistillationTrainer, DistillationTrainingArguments

COLLATOR = DataCollatorForTokenClassification(TOKENIZER)


def tagger(seed=1, **changed):
    return bert(seed, cls=BertForTokenClassification, **changed)


def tagged(rows=slice(None)):
    """A label for each word; special tokens have none."""
    return dataset(rows).map(
        lambda row: {"labels": [-100, *(token % 3 for token in row["input_ids"][1:-1]), -100]}
    )  # fmt: skip


def trainer_of(tmp_path, student, train_dataset, *, teacher=None, **changed):
    settings = {"alpha": 0.0, "temperature": 2.0, "per_device_train_batch_size": 6, "max_steps": 1} | changed
    arguments = DistillationTrainingArguments(
        **{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "optim": "sgd", "seed": 3} | settings
    )
    return DistillationTrainer(
        student, arguments, train_dataset=train_dataset, data_collator=COLLATOR, teacher_model=teacher
    )


def loss_of(trainer, rows):
    batch = trainer.data_collator(rows)
    trainer.model.train()
    return float(trainer.compute_loss(trainer.model, batch).detach())


def rows_of(data):
    return [{name: row[name] for name in ("input_ids", "attention_mask", "labels")} for row in data]


def expected(student, teacher, rows):
    """Sum over tokens that count, one row at a time and so without padding, and how many there are."""
    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
            counts = labels != -100
            counts = counts if counts.any() else torch.ones_like(counts)
            taught, said = (
                model(input_ids=ids).logits[0][counts] / 2.0 for model in (teacher.eval(), student.train())
            )
            total += 4.0 * float(kl_div(said.log_softmax(-1), taught.softmax(-1), reduction="sum"))
            count += int(counts.sum())
    return total, count


def test_padding_and_tokens_without_a_label_do_not_count(tmp_path):
    student, teacher, rows = tagger(1), tagger(2), rows_of(tagged(slice(0, 6)))
    trainer = trainer_of(tmp_path, student, tagged(), teacher=teacher)
    total, count = expected(student, teacher, rows)
    assert loss_of(trainer, rows) == pytest.approx(total / count, rel=1e-5)
    assert count == sum(len(row["input_ids"]) - 2 for row in rows)


def test_a_row_without_any_label_counts_with_all_its_tokens(tmp_path):
    student, teacher, rows = tagger(1), tagger(2), rows_of(tagged(slice(0, 6)))
    rows[2]["labels"] = [-100] * len(rows[2]["labels"])
    total, count = expected(student, teacher, rows)
    assert loss_of(trainer_of(tmp_path, student, tagged(), teacher=teacher), rows) == pytest.approx(total / count)


def test_as_many_tokens_as_classes_are_no_other_case(tmp_path):
    student, teacher = tagger(1), tagger(2)
    rows = [{"input_ids": [2, 7, 3], "attention_mask": [1, 1, 1], "labels": [-100, 1, -100]}] * 3
    total, count = expected(student, teacher, rows)
    assert loss_of(trainer_of(tmp_path, student, tagged(), teacher=teacher), rows) == pytest.approx(total / count)


def test_classes_are_matched_by_name(tmp_path):
    names = {"id2label": {0: "O", 1: "B", 2: "I"}, "label2id": {"O": 0, "B": 1, "I": 2}}
    turned = {"id2label": {0: "I", 1: "O", 2: "B"}, "label2id": {"I": 0, "O": 1, "B": 2}}
    student, teacher, other = tagger(1, **names), tagger(2, **names), tagger(2, **turned)
    with torch.no_grad():
        for parameter, source in zip(other.classifier.parameters(), teacher.classifier.parameters(), strict=True):
            parameter.copy_(source[[2, 0, 1]])
    rows = rows_of(tagged(slice(0, 6)))
    losses = [loss_of(trainer_of(tmp_path, student, tagged(), teacher=model), rows) for model in (teacher, other)]
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_micro_batches_accumulate_exactly(tmp_path, alpha):
    """By tokens that count, of which each micro-batch has another number."""
    states = []
    for size, steps in ((12, 1), (3, 4)):
        student = tagger(1)
        data = tagged().select(range(12))
        changed = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "alpha": alpha}
        trainer_of(tmp_path, student, data, teacher=tagger(2), max_grad_norm=0.0, learning_rate=0.5, **changed).train()
        states.append(student.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], atol=1e-5, rtol=1e-4)


def test_logits_computed_beforehand_are_those_of_the_teacher_in_the_loop(tmp_path):
    teacher = tagger(2).eval()

    def answer(row):
        with torch.no_grad():
            return {"teacher_logits": teacher(input_ids=torch.tensor([row["input_ids"]])).logits[0].tolist()}

    states = []
    for data, model in ((tagged(), teacher), (tagged().map(answer), None)):
        student = tagger(1)
        trainer_of(tmp_path, student, data, teacher=model, max_steps=4, learning_rate=0.5).train()
        states.append(student.state_dict())
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], atol=1e-5, rtol=1e-4)


def test_what_cannot_be_compared_is_refused(tmp_path):
    data, student = tagged(), tagger(1)
    trainer = trainer_of(tmp_path, student, data, teacher=tagger(2))
    batch = {"input_ids": torch.tensor([[2, 7, 3]] * 2), "attention_mask": torch.ones(2, 3)}
    with pytest.raises(ValueError, match=r"but the labels have shape \[2\]: give each token a label, -100 where it"):
        trainer.compute_loss(
            student.train(), batch | {"attention_mask": torch.ones(2, 4), "labels": torch.ones(2).long()}
        )

    # A teacher's own tokens, of which nobody says which words they are.
    other = data.map(
        lambda row: {"teacher_input_ids": row["input_ids"], "teacher_attention_mask": row["attention_mask"]}
    )
    trainer = cross_trainer(tmp_path, student, tagger(2), TOKENIZER, other)
    with pytest.raises(ValueError, match=r"have other tokens: to compare words, let the train_dataset hold the text"):
        trainer.train()


def cross_trainer(tmp_path, student, teacher, teacher_tokenizer, data, **changed):
    arguments = DistillationTrainingArguments(
        **{"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "max_steps": 1, "alpha": 0.0} | changed
    )
    return DistillationTrainer(
        student,
        arguments,
        train_dataset=data,
        processing_class=TOKENIZER,
        data_collator=COLLATOR,
        teacher_model=teacher,
        teacher_processing_class=teacher_tokenizer,
    )


@pytest.mark.parametrize("as_words", [False, True])
def test_a_teacher_with_another_tokenizer_is_compared_word_by_word(tmp_path, as_words):
    tokenizer = train_tokenizer("roberta", TEXTS, vocab_size=270, max_length=64)  # mostly letters: many tokens a word
    teacher = tagger(2, vocab_size=len(tokenizer), max_position_embeddings=64, type_vocab_size=1).eval()
    student, data = tagger(1), tagged(slice(0, 6))
    if as_words:
        data = (
            data.map(lambda row: {"words": row["text"].split()}).remove_columns("text").rename_column("words", "text")
        )
    trainer = cross_trainer(tmp_path, student, teacher, tokenizer, data, temperature=2.0)
    batch = trainer.data_collator([dict(row) for row in trainer.train_dataset.remove_columns("text")])
    loss = float(trainer.compute_loss(student.train(), batch).detach())

    total = count = 0.0
    for row, text in zip(tagged(slice(0, 6)), TEXTS, strict=False):
        encoding = tokenizer(text)
        with torch.no_grad():
            taught = teacher(input_ids=torch.tensor([encoding["input_ids"]])).logits[0]
            said = student(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        start = 0
        for number, word in enumerate(text.split()):
            token = encoding.char_to_token(start)
            total += 4 * float(
                kl_div((said[number + 1] / 2).log_softmax(-1), (taught[token] / 2).softmax(-1), reduction="sum")
            )
            count += 1
            start += len(word) + 1
    assert loss == pytest.approx(total / count, rel=1e-5)
    trainer.train()


# Words, of which each model may have other tokens

KIND = TokenLabels(["O", "B-x", "I-x"])
WORDS = ["the film was never quite superb", "a plot", "the actor is not very good but fine"]


def rows_of_words(max_length, unread=()):
    """A row per text: what a student reads, a label for every word, and a teacher's answer to every word."""
    tokens = KIND.tokenize(TOKENIZER, WORDS, None, max_length)
    random = torch.Generator().manual_seed(0)
    rows = []
    for row, text in enumerate(WORDS):
        logits = torch.randn(len(text.split()), 3, generator=random)
        logits[[word for of, word in unread if of == row and word < len(logits)]] = UNREAD
        columns = {name: tokens[name][row] for name in ("input_ids", "token_type_ids", "attention_mask", UNITS)}
        rows.append(columns | {"labels": [word % 3 for word in range(len(text.split()))], "teacher_logits": logits})
    return rows


def expected_of_words(student, rows, alpha):
    hard = soft = 0.0
    count = 0
    with torch.no_grad():
        for row in rows:
            logits = student(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            for token, word in enumerate(row[UNITS]):
                if word >= 0:
                    count += 1
                    hard -= float(logits[token].log_softmax(-1)[row["labels"][word]])
                    taught = row["teacher_logits"][word]
                    if taught.isfinite().all():
                        said = (logits[token] / 2).log_softmax(-1)
                        soft += 4 * float(kl_div(said, (taught / 2).softmax(-1), reduction="sum"))
    return (alpha * hard + (1 - alpha) * soft) / count


@pytest.mark.parametrize("max_length", [24, 6])
@pytest.mark.parametrize(
    "unread", [(), ((0, 0), (0, 5), (2, 2)), [(row, word) for row in range(3) for word in range(8)]]
)
@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_the_soft_loss_is_that_of_the_words_which_both_models_read(tmp_path, max_length, unread, padding_side):
    """Words that one of them did not read add nothing, and the others weigh as they do everywhere."""
    student, rows = tagger(1), rows_of_words(max_length, unread)
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.padding_side = padding_side
    arguments = DistillationTrainingArguments(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, alpha=0.3, temperature=2.0
    )
    trainer = DistillationTrainer(student, arguments, train_dataset=rows, processing_class=tokenizer, kind=KIND)
    batch = trainer.data_collator([dict(row) for row in rows])
    if padding_side == "left":  # BERT's positions would be others
        batch["position_ids"] = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    loss = float(trainer.compute_loss(student.train(), batch).detach())
    assert loss == pytest.approx(expected_of_words(student, rows, 0.3), rel=1e-5)


def test_words_that_are_cut_off_are_evaluated_as_unread(tmp_path):
    rows = [{name: value for name, value in row.items() if name != "teacher_logits"} for row in rows_of_words(6)]
    found = {}

    def measure(prediction):
        answers, labels = KIND.units_of_rows(prediction.predictions, prediction.label_ids)
        found.update(answers=answers, labels=labels)
        return KIND.metrics(answers, labels)

    trainer = DistillationTrainer(
        tagger(1),
        DistillationTrainingArguments(
            output_dir=str(tmp_path), report_to="none", use_cpu=True, alpha=1.0, per_device_eval_batch_size=1
        ),
        eval_dataset=rows,
        processing_class=TOKENIZER,
        compute_metrics=measure,
        kind=KIND,
    )
    metrics = trainer.evaluate()
    num_words = [len(text.split()) for text in WORDS]
    assert found["labels"].lengths.tolist() == found["answers"].lengths.tolist() == num_words
    read = [min(number, 4) for number in num_words]  # six tokens, two of them special
    assert metrics["eval_unread"] == pytest.approx(1 - sum(read) / sum(num_words))
    assert found["answers"].read.tolist() == [word < 4 for number in num_words for word in range(number)]
