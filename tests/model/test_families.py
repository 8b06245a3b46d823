"""Compact models read what their own tokenizers write, and both are the same in every process."""

import hashlib
import json
import subprocess
import sys
from random import Random

import pytest
import torch
from command_line import ROOT
from compact import build_compact_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from kdexp.errors import UserError
from kdexp.model.families import FAMILIES, compact_config, train_tokenizer
from kdexp.task.kinds.single_label import SingleLabel

MAX_LENGTH = 24
WITH_TOKEN_TYPES = {"bert", "electra", "albert", "deberta"}
DOUBLED_SEPARATOR = {"roberta", "xlm_roberta"}
UNCASED = {"bert", "distilbert", "electra", "albert"}

TEXTS = [
    "The soup was cold, and the waiter didn't care.",
    "An unforgettable evening: warm bread, good wine.",
    "Ünder the bridge  we found\ta café; its walls were blue.",
    "料理はとても美味しかった。",
    "I would not come back 😀 for 100 dollars!",
] * 20


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerFast]:
    return {family: train_tokenizer(family, TEXTS, vocab_size=400, max_length=MAX_LENGTH) for family in FAMILIES}


def build(family: str, tokenizer: PreTrainedTokenizerFast, **changes):
    size = {"num_layers": 3, "hidden_size": 16, "num_heads": 2, "max_length": MAX_LENGTH} | changes
    config = compact_config(
        family, tokenizer, head=SingleLabel(["negative", "neutral", "positive"]).head_config(), **size
    )
    torch.manual_seed(0)
    return build_compact_model(config)


@pytest.mark.parametrize("family", FAMILIES)
def test_pair_format_is_the_familys_own(family, tokenizers):
    tokenizer = tokenizers[family]
    encoded = tokenizer("warm bread", "good wine")
    tokens = tokenizer.convert_ids_to_tokens(encoded["input_ids"])
    cls, sep = tokenizer.cls_token, tokenizer.sep_token

    assert (cls, sep) == (("<s>", "</s>") if family in DOUBLED_SEPARATOR else ("[CLS]", "[SEP]"))
    assert tokens[0] == cls
    assert tokens[-1] == sep
    inside = tokens.index(sep)
    num_between = 2 if family in DOUBLED_SEPARATOR else 1
    assert tokens.count(sep) == num_between + 1
    assert tokens[inside : inside + num_between] == [sep] * num_between
    assert ("token_type_ids" in encoded) == (family in WITH_TOKEN_TYPES)
    if family in WITH_TOKEN_TYPES:
        second = len(tokens) - inside - 1
        assert encoded["token_type_ids"] == [0] * (inside + 1) + [1] * second


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_are_set_and_apart(family, tokenizers):
    tokenizer = tokenizers[family]
    ids = [
        tokenizer.cls_token_id,
        tokenizer.sep_token_id,
        tokenizer.pad_token_id,
        tokenizer.unk_token_id,
        tokenizer.mask_token_id,
    ]
    assert sorted(ids) == [0, 1, 2, 3, 4]
    assert tokenizer.model_max_length == MAX_LENGTH
    assert len(tokenizer) <= 400


def test_special_token_ids_are_in_the_familys_order(tokenizers):
    first = {family: tokenizers[family].convert_ids_to_tokens([0, 1, 2, 3]) for family in FAMILIES}
    assert first["roberta"] == first["xlm_roberta"] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert first["bert"] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    assert first["deberta"] == ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    assert first["albert"] == ["<pad>", "<unk>", "[CLS]", "[SEP]"]


@pytest.mark.parametrize("family", FAMILIES)
def test_case_matters_where_it_does_in_the_family(family, tokenizers):
    tokenizer = tokenizers[family]
    same = tokenizer("THE SOUP")["input_ids"] == tokenizer("the soup")["input_ids"]
    assert same == (family in UNCASED)


@pytest.mark.parametrize("family", ["roberta", "modernbert"])
def test_byte_level_families_know_every_text(family, tokenizers):
    text = "Ωmega ∑ 漢字 \U0001f680"  # characters that the training texts lack
    ids = tokenizers[family](text, add_special_tokens=False)["input_ids"]
    assert tokenizers[family].unk_token_id not in ids
    assert tokenizers[family].decode(ids) == text


def test_same_texts_give_the_same_tokenizers_in_another_process():
    # Characters that occur once are all worth the same: there the order of a hash map decides, if it may.
    random = Random(0)
    words = ["".join(random.choices("abcdefghiklmnoprstuvwé", k=random.randint(2, 8))) for _ in range(300)]
    rare = [chr(code) for code in range(ord("Α"), ord("ω"))]
    texts = [" ".join([*random.choices(words, k=8), letter + random.choice(words)]) for letter in rare * 3]
    script = (
        "import sys, json, hashlib\n"
        "from kdexp.model.families import FAMILIES, train_tokenizer\n"
        "texts = json.load(sys.stdin)\n"
        "for family in FAMILIES:\n"
        "    tokenizer = train_tokenizer(family, texts, vocab_size=700, max_length=24)\n"
        "    print(hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest())\n"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    here = [
        hashlib.sha256(
            train_tokenizer(family, texts, vocab_size=700, max_length=24).backend_tokenizer.to_str().encode()
        ).hexdigest()
        for family in FAMILIES
    ]
    assert elsewhere.stdout.split() == here


@pytest.mark.parametrize("family", FAMILIES)
def test_tiny_corpora_and_huge_vocabularies_are_fine(family):
    for texts in (["a"], ["", "   "], ["one two"]):
        tokenizer = train_tokenizer(family, texts, vocab_size=30_000, max_length=MAX_LENGTH)
        assert len(tokenizer("one two three")["input_ids"]) > 2


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_student_reads_the_same_after_loading(family, tokenizers, tmp_path):
    tokenizer = tokenizers[family]
    model = build(family, tokenizer).eval()
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    loaded_model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()

    assert loaded.model_input_names == tokenizer.model_input_names
    assert loaded.model_max_length == MAX_LENGTH
    firsts = [*TEXTS[:5], "  Two  spaces ", "unseen wörds & <odd> [MASK] ``quotes''"]
    seconds = list(reversed(firsts))
    for pair in ([firsts], [firsts, seconds]):
        before = tokenizer(*pair, padding=True, truncation=True, return_tensors="pt")
        after = loaded(*pair, padding=True, truncation=True, return_tensors="pt")
        assert before.keys() == after.keys()
        for name in before:
            assert torch.equal(before[name], after[name]), name
        with torch.inference_mode():
            torch.testing.assert_close(loaded_model(**after).logits, model(**before).logits, rtol=0, atol=1e-6)
    assert loaded_model.config.id2label == {0: "negative", 1: "neutral", 2: "positive"}
    assert loaded_model.config.label2id == {"negative": 0, "neutral": 1, "positive": 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_no_answer(family, tokenizers):
    tokenizer = tokenizers[family]
    model = build(family, tokenizer).eval()
    pair = ("warm bread", "good wine")
    alone = tokenizer(*pair, return_tensors="pt")
    padded = tokenizer(*pair, padding="max_length", return_tensors="pt")
    assert padded["input_ids"].shape[1] == MAX_LENGTH > alone["input_ids"].shape[1]
    # What is written under the padding must not matter either.
    disturbed = dict(padded)
    disturbed["input_ids"] = torch.where(padded["attention_mask"].bool(), padded["input_ids"], 7)
    if family in DOUBLED_SEPARATOR:  # these number their positions by where the padding token stands
        disturbed = dict(padded)
    with torch.inference_mode():
        expected = model(**alone).logits
        torch.testing.assert_close(model(**padded).logits, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(model(**disturbed).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_learns_from_its_longest_texts(family, tokenizers):
    tokenizer = tokenizers[family]
    model = build(family, tokenizer)
    batch = tokenizer([TEXTS[0] * 9, TEXTS[1]], padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape == (2, MAX_LENGTH)
    model(**batch, labels=torch.tensor([0, 2])).loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    embedding = next(name for name in gradients if "word_embeddings" in name or "tok_embeddings" in name)
    assert gradients[embedding].abs().sum() > 0
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("family", FAMILIES)
def test_seed_decides_the_weights(family, tokenizers):
    first, second = (build(family, tokenizers[family]).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_size_is_as_asked(family, tokenizers):
    config = build(family, tokenizers[family], num_layers=2, hidden_size=32, num_heads=4).config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (2, 32, 4)
    assert config.vocab_size == len(tokenizers[family])
    assert config.pad_token_id == tokenizers[family].pad_token_id


def test_impossible_requests_name_the_setting(tokenizers):
    with pytest.raises(UserError, match=r"hidden_size: 30 .* 4 heads"):
        build("bert", tokenizers["bert"], hidden_size=30, num_heads=4)
    with pytest.raises(UserError, match=r"family: .*gpt2.*bert, roberta, distilbert"):
        train_tokenizer("gpt2", TEXTS, vocab_size=400, max_length=MAX_LENGTH)
    with pytest.raises(UserError, match=r"family: .*gpt2.*modernbert"):
        build("gpt2", tokenizers["bert"])
