"""Tokens from the cache: the same batches, in the same order, as from lists of what the tokenizer returns."""

import json
from pathlib import Path

import pytest
import torch
from compact import build_compact_model
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding, set_seed

from kdexp.cache import Cache
from kdexp.model.families import compact_config, train_tokenizer
from kdexp.model.tokens import longest_first, tokenize
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.split import Split
from kdexp.training.trainer import DistillationTrainer, DistillationTrainingArguments

FIRST = ["the soup was cold " * (1 + i % 7) + str(i) for i in range(150)]
SECOND = [f"a waiter {i}" for i in range(150)]
PAIRS = Split.from_lists(FIRST, SECOND, [i % 2 for i in range(150)])
SINGLE = Split.from_lists(FIRST, labels=[i % 2 for i in range(150)])
MAX_LENGTH = 16
KIND = SingleLabel(["a", "b"])


def tokenizer_of(family: str):
    return train_tokenizer(family, PAIRS.texts, vocab_size=350, max_length=MAX_LENGTH)


def as_lists(tokenizer, split: Split) -> list[dict]:
    """Rows as Python objects: what the tokenizer returns, in one call."""
    columns = [list(texts) for texts in (split.first, split.second) if texts is not None]
    tokens = tokenizer(*columns, truncation=True, max_length=MAX_LENGTH)
    rows = [dict(zip(tokens, values, strict=True)) for values in zip(*tokens.values(), strict=True)]
    return [row | {"labels": label} for row, label in zip(rows, split.labels.tolist(), strict=True)]


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("split", [SINGLE, PAIRS])
def test_batches_are_those_of_the_tokenizer_itself(tmp_path, family, split):
    tokenizer = tokenizer_of(family)
    expected = as_lists(tokenizer, split)
    tokens = tokenize(tokenizer, split, MAX_LENGTH, KIND, Cache(tmp_path))
    rows = tokens.rows(labels=split.labels)
    collate = DataCollatorWithPadding(tokenizer)
    for numbers in ([3], [0, 149, 6, 70], list(range(150))):
        left, right = collate(rows.__getitems__(numbers)), collate([dict(expected[number]) for number in numbers])
        assert left.keys() == right.keys()
        for name in left:
            assert torch.equal(left[name], right[name])
            assert left[name].dtype == right[name].dtype
    order = sorted(range(150), key=lambda row: -len(expected[row]["input_ids"]))
    assert longest_first(rows).tolist() == order
    assert tokens.largest("input_ids") == max(max(row["input_ids"]) for row in expected)
    assert tokens.largest("token_type_ids") == max(max(row.get("token_type_ids", [0])) for row in expected)
    whole = tokenizer(*([list(split.first)] + ([list(split.second)] if split.second else [])))["input_ids"]
    assert tokens.num_truncated == sum(len(row) > MAX_LENGTH for row in whole) > 0


@pytest.mark.parametrize("sampling", ["group_by_length", "random"])
def test_a_training_takes_the_rows_in_the_same_order(tmp_path, sampling):
    tokenizer = tokenizer_of("bert")
    size = {"num_layers": 1, "hidden_size": 8, "num_heads": 2, "max_length": MAX_LENGTH}
    model = build_compact_model(compact_config("bert", tokenizer, head=SingleLabel(["a", "b"]).head_config(), **size))

    def batches(rows) -> list[torch.Tensor]:
        set_seed(3)
        arguments = DistillationTrainingArguments(
            output_dir=str(tmp_path / "out"), report_to="none", use_cpu=True, alpha=1.0,
            per_device_train_batch_size=4, gradient_accumulation_steps=2, train_sampling_strategy=sampling,
        )  # fmt: skip
        trainer = DistillationTrainer(model, arguments, train_dataset=rows, processing_class=tokenizer)
        loader: DataLoader = trainer.get_train_dataloader()
        return [batch["input_ids"] for batch in loader]

    rows = tokenize(tokenizer, SINGLE, MAX_LENGTH, KIND, Cache(tmp_path)).rows(labels=SINGLE.labels)
    left, right = batches(rows), batches(as_lists(tokenizer, SINGLE))
    assert len(left) == len(right) == 38
    assert all(torch.equal(*pair) for pair in zip(left, right, strict=True))


def entries(cache: Cache) -> list[Path]:
    return [path for path in (cache.root / "tokens").iterdir() if path.is_dir()]


def test_each_text_is_tokenized_once_for_each_tokenizer_and_length(tmp_path):
    cache, bert, roberta = Cache(tmp_path), tokenizer_of("bert"), tokenizer_of("roberta")
    for _ in range(2):
        tokenize(bert, SINGLE, MAX_LENGTH, KIND, cache)
        tokenize(bert, Split.from_lists(FIRST), MAX_LENGTH, KIND, cache)  # the same text, unlabelled
    assert len(entries(cache)) == 1
    for tokenizer, split, length in ((roberta, SINGLE, MAX_LENGTH), (bert, PAIRS, MAX_LENGTH), (bert, SINGLE, 9)):
        tokenize(tokenizer, split, length, KIND, cache)
    assert len(entries(cache)) == 4
    facts = {json.loads((path / "files" / "facts.json").read_text())["num_truncated"] for path in entries(cache)}
    assert len(facts) > 1


def test_a_split_may_be_empty(tmp_path):
    tokens = tokenize(tokenizer_of("bert"), Split.from_lists([]), MAX_LENGTH, KIND, Cache(tmp_path))
    assert (len(tokens), tokens.num_truncated, tokens.largest("input_ids")) == (0, 0, 0)
    assert longest_first(tokens.rows()).tolist() == []
