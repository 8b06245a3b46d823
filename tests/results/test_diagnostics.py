"""What differs between families besides their embeddings, counted by hand."""

import math

import pytest
import torch

from kdexp.model.families import train_tokenizer
from kdexp.results.diagnostics import calibration, calibration_table, tokenizer_statistics, tokenizer_table
from kdexp.task.kinds.base import Answers
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split

KIND = SingleLabel(["no", "yes"])
TEXTS = ["The soup was cold.", "THE SOUP was warm, and the waiter kind."] * 30


@pytest.mark.parametrize(("family", "is_cased"), [("bert", False), ("roberta", True), ("xlm_roberta", True)])
def test_tokenizer_statistics_are_those_of_the_tokenizer(family, is_cased):
    tokenizer = train_tokenizer(family, TEXTS, vocab_size=400, max_length=8)
    split = Split.from_lists(["The soup was cold.", "soup"], ["warm", "the waiter kind kind kind kind"], [0, 1])
    habits = tokenizer_statistics(tokenizer, split, 8, KIND)

    def count(*texts, **options):
        return len(tokenizer(*texts, **options)["input_ids"])

    texts = [*split.first, *split.second]
    assert habits.tokens_per_word == pytest.approx(
        sum(count(text, add_special_tokens=False) for text in texts) / (4 + 1 + 1 + 6)
    )
    pairs = zip(split.first, split.second, strict=True)
    assert habits.truncation_rate == sum(count(*pair, truncation=False) > 8 for pair in pairs) / 2 > 0
    assert habits.is_cased == is_cased
    assert habits.vocab_size == len(tokenizer)


def test_unknown_tokens_are_counted():
    tokenizer = train_tokenizer("bert", TEXTS, vocab_size=400, max_length=8)
    habits = tokenizer_statistics(tokenizer, Split.from_lists(["soup 漢 soup soup"]), max_length=8, kind=KIND)
    assert (habits.unknown_rate, habits.tokens_per_word, habits.truncation_rate) == (0.25, 1.0, 0.0)


def test_habits_do_not_depend_on_what_was_read_before():
    tokenizer = train_tokenizer("bert", TEXTS, vocab_size=400, max_length=8)
    split = Split.from_lists(TEXTS)
    before = tokenizer_statistics(tokenizer, split, 8, KIND)
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)
    assert tokenizer_statistics(tokenizer, split, 8, KIND) == before


def task_of(labels):
    split = Split.from_lists(["text"] * len(labels), None, labels)
    return Task("task", KIND, split, split, split, None)


def test_confidence_by_hand():
    # Probabilities 0.9 and 0.1, one of the two answers right: accuracy 0.5, calibration error 0.4.
    logits = torch.tensor([[math.log(0.9), math.log(0.1)], [math.log(0.9), math.log(0.1)]])
    result = calibration(task_of([0, 1]), Answers(logits), temperature=2.0)
    assert result.accuracy == 0.5
    assert result.ece == pytest.approx(0.4, abs=1e-6)
    assert result.mean_entropy == pytest.approx(-0.9 * math.log(0.9) - 0.1 * math.log(0.1), abs=1e-6)
    # At temperature 2: proportional to the square roots, 3 to 1.
    assert result.mean_soft_entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), abs=1e-6)
    assert result.max_entropy == pytest.approx(math.log(2))


def test_tables_have_a_row_for_each():
    tokenizer = train_tokenizer("bert", TEXTS, vocab_size=400, max_length=8)
    habits = {"bert": tokenizer_statistics(tokenizer, Split.from_lists(TEXTS), 8, KIND)}
    assert tokenizer_table(habits)["case"].tolist() == ["uncased"]
    answers = calibration(task_of([0, 0, 1, 1]), Answers(torch.zeros(4, 2)), temperature=4.0)
    row = calibration_table({"bert": answers}).iloc[0]
    assert (row["accuracy"], row["mean entropy there"]) == ("50.00%", "0.693 of 0.693")
