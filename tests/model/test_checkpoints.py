"""Checkpoints as people have them: incomplete, of another family, with a tokenizer of other ideas."""

import json
import logging
import shutil

import pytest
import torch
from compact import build_compact_model
from transformers import (
    AutoTokenizer,
    ByT5Tokenizer,
    CamembertConfig,
    CamembertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
)

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.hardware import Hardware
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import Encoder, predict
from kdexp.model.families import FAMILIES, compact_config, train_tokenizer
from kdexp.model.legibility import Legibility
from kdexp.model.load import load_encoder
from kdexp.model.tokens import tokenize
from kdexp.task.embedded.reviews import generate_splits
from kdexp.task.kinds.base import Answers
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split

ROWS = generate_splits({"train": 60, "validation": 20, "test": 20}, seed=0, label_noise=0.0)
TEXTS = [text for text, _ in ROWS["train"]]
LENGTH = 32


def task_of(texts: list[str], labels: list[int] | None = None) -> Task:
    split = Split.from_lists(texts, None, labels or [index % 2 for index in range(len(texts))])
    return Task("mine", SingleLabel(["no", "yes"]), split, split, split, None)


TASK = task_of(TEXTS)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A folder with a compact checkpoint of each family."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for family in FAMILIES:
        torch.manual_seed(0)
        tokenizer = train_tokenizer(family, TEXTS, vocab_size=400, max_length=LENGTH)
        size = {"num_layers": 1, "hidden_size": 8, "num_heads": 2}
        config = compact_config(family, tokenizer, **size, max_length=LENGTH, head=TASK.kind.head_config())
        build_compact_model(config).save_pretrained(folder / family)
        tokenizer.save_pretrained(folder / family)
    return folder


@pytest.fixture
def mine(checkpoints, tmp_path):
    """Copies one of them, to be damaged."""

    def copy(family: str):
        return shutil.copytree(checkpoints / family, tmp_path / family)

    return copy


def load(
    folder, family: str, *, task: Task = TASK, new_head: bool = False, role: str = "teacher", **settings
) -> Encoder:
    config = ModelConfig(name=family, family=family, checkpoint=str(folder), **{"max_length": LENGTH} | settings)
    return load_encoder(role, config, task, Cache(folder.parent / "cache"), seed=0, new_head=new_head)


def answers(encoder: Encoder, folder) -> Answers:
    cache = Cache(folder.parent / "cache")
    tokens = tokenize(encoder.tokenizer, TASK.train, encoder.max_length, TASK.kind, cache)
    hardware = Hardware(torch.device("cpu"), bfloat16=False, num_threads=1, num_workers=0)
    return predict(encoder.model, encoder.tokenizer, tokens, hardware, batch_size=8, description="")


# No tokenizer


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_checkpoint_without_tokenizer_files_is_refused(mine, family, role):
    folder = mine(family)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(UserError, match=rf"^{role}\.checkpoint: .* has no tokenizer files"):
        load(folder, family, role=role, new_head=role == "student")


def test_a_tokenizer_config_alone_is_no_tokenizer(mine):
    folder = mine("bert")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer files"):
        load(folder, "bert")


def test_a_vocabulary_of_special_tokens_is_none(mine):
    folder = mine("distilbert")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(UserError, match="has no tokenizer files"):
        load(folder, "distilbert")


def test_a_tokenizer_without_a_fast_version_is_refused_in_one_line(mine):
    folder = mine("bert")
    (folder / "tokenizer.json").unlink()
    ByT5Tokenizer().save_pretrained(folder)
    with pytest.raises(UserError, match="has no fast version"):
        load(folder, "bert")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_damaged_files_are_told_in_one_line(mine, name, share):
    folder = mine("bert")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match=r"^teacher.checkpoint: cannot load") as caught:
        load(folder, "bert")
    assert "\n" not in str(caught.value)


# Another family, another question


@pytest.mark.parametrize(
    ("said", "own"), [("roberta", "bert"), ("bert", "roberta"), ("roberta", "xlm_roberta"), ("bert", "deberta")]
)
def test_a_family_that_contradicts_the_checkpoint_is_refused(checkpoints, said, own):
    with pytest.raises(
        UserError, match=rf"^teacher.family: is {said}, but .* is a {own} model; .*teacher.family={own}"
    ):
        load(checkpoints / own, said)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_own_checkpoint_is_read(checkpoints, family):
    encoder = load(checkpoints / family, family)
    assert encoder.answers_task
    assert encoder.legibility == Legibility("teacher", len(TEXTS), 0.0, encoder.legibility.truncation_rate, LENGTH)


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_head_for_another_question_is_refused_unless_it_is_made_anew(mine, problem):
    folder = mine("bert")
    config = json.loads((folder / "config.json").read_text()) | {"problem_type": problem}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=rf"trained for {problem}, .* teacher.finetune=true"):
        load(folder, "bert")
    encoder = load(folder, "bert", new_head=True)
    assert encoder.model.config.problem_type == "single_label_classification"


# What it can read


def test_text_that_is_mostly_unknown_is_refused(checkpoints):
    foreign = task_of(["日本語の文章です", "これは悪い映画"] * 10)
    with pytest.raises(UserError, match=r"^student.checkpoint: 100% of the training text's tokens are unknown to"):
        load(checkpoints / "bert", "bert", task=foreign, role="student")
    assert load(checkpoints / "roberta", "roberta", task=foreign).legibility.unknown_rate == 0  # it reads bytes


def test_a_compact_model_whose_vocabulary_is_too_small_is_refused(tmp_path):
    texts = [" ".join(chr(0x4E00 + 7 * row + place) for place in range(20)) for row in range(400)]
    config = ModelConfig(
        name="bert", family="xlm_roberta", num_layers=1, hidden_size=8, num_heads=2, vocab_size=300, max_length=LENGTH
    )
    with pytest.raises(UserError, match=r"^student.vocab_size: got 300: \d+% of the training text's tokens"):
        load_encoder("student", config, task_of(texts), Cache(tmp_path), seed=0)


def test_some_unknown_tokens_and_many_cut_texts_are_noticed(checkpoints):
    texts = [f"{text} 日 本" if row % 2 else f"{text} " * 9 for row, text in enumerate(TEXTS[:40])]
    found = load(checkpoints / "bert", "bert", task=task_of(texts)).legibility
    assert 0.5 <= found.truncation_rate < 0.9
    assert Legibility("student", 10, 0.06, 0.19, 64).notices == [
        "student: 6.0% of the training text's tokens are unknown to it"
    ]
    (notice,) = found.notices
    assert notice.startswith(
        f"teacher: {found.truncation_rate:.1%} of the training texts are longer than the 32 tokens"
    )
    assert not Legibility("student", 10, 0.05, 0.2, 64).notices


def test_a_sample_comes_from_all_over_the_text():
    split = Split.from_lists([f"text {i}" for i in range(5000)])
    first, second = split.sample(1000)
    assert second is None
    assert len(set(first)) == 1000
    assert (first[0], first[-1]) == ("text 0", "text 4999")
    assert Split.from_lists(["a", "b"], ["c", "d"]).sample(5) == (["a", "b"], ["c", "d"])


# Model and tokenizer that do not know of each other


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm_roberta"])
@pytest.mark.parametrize("new_head", [True, False])
def test_added_tokens_get_an_embedding(mine, caplog, family, new_head):
    folder = mine(family)
    plain = answers(load(folder, family, new_head=new_head), folder).values
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([text[:12] for text in TEXTS[:3]])
    tokenizer.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        encoder = load(folder, family, new_head=new_head)
    assert "3 tokens that its embedding lacks" in caplog.text
    assert encoder.model.get_input_embeddings().num_embeddings == len(tokenizer)
    assert answers(encoder, folder).values.shape == plain.shape


def test_heads_without_a_pad_token_answer_batches(checkpoints, tmp_path):
    folder = tmp_path / "gpt2"
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "roberta")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=8, n_layer=1, n_head=2, n_positions=LENGTH, num_labels=2,
        id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    GPT2ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    encoder = load(folder, "gpt2")
    assert encoder.tokenizer.pad_token_id == encoder.model.config.pad_token_id is not None
    together = answers(encoder, folder).values
    tokens = encoder.tokenizer(TEXTS[0], return_tensors="pt", truncation=True, max_length=LENGTH)
    alone = encoder.model(tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits
    torch.testing.assert_close(together[:1], alone.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_tokenizer_without_a_pad_token_takes_the_models(mine, family):
    folder = mine(family)
    expected = answers(load(folder, family), folder).values
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    torch.testing.assert_close(answers(load(folder, family), folder).values, expected)


@pytest.mark.parametrize(
    ("config_class", "model_class", "family"),
    [
        (CamembertConfig, CamembertForSequenceClassification, "camembert"),
        (MPNetConfig, MPNetForSequenceClassification, "mpnet"),
    ],
)
def test_positions_with_an_offset_are_counted_in_any_family(checkpoints, tmp_path, config_class, model_class, family):
    tokenizer = AutoTokenizer.from_pretrained(checkpoints / "roberta")
    size = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = config_class(
        vocab_size=len(tokenizer), **size, max_position_embeddings=LENGTH + 2, pad_token_id=1, num_labels=2,
        id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1},
    )  # fmt: skip
    folder = tmp_path / family
    model_class(config).save_pretrained(folder)
    tokenizer.model_max_length = 512
    tokenizer.save_pretrained(folder)
    assert load(folder, family).tokenizer.model_max_length == LENGTH  # and not beyond its table
    for length in (LENGTH + 1, LENGTH + 2):
        with pytest.raises(UserError, match=rf"^teacher.max_length: got {length}; .* reads at most {LENGTH}"):
            load(folder, family, max_length=length)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_longest_text_that_is_accepted_can_be_read(checkpoints, family):
    folder = checkpoints / family
    encoder = load(folder, family, task=task_of([" ".join(TEXTS)] * 4))
    assert answers(encoder, folder).values.isfinite().all()
    with pytest.raises(UserError, match=rf"reads at most {LENGTH}"):
        load(folder, family, max_length=LENGTH + 1)
