"""student.vocab=trim: fewer tokens, by which the training text is read exactly as before."""

import json
import os
from pathlib import Path

import pytest
import torch
from compact import build_compact_model
from in_process import commands
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast

import kdexp
from kdexp.errors import UserError
from kdexp.identity import config_hash
from kdexp.model.encoder import Encoder
from kdexp.model.families import FAMILIES, compact_config, train_tokenizer
from kdexp.model.forward import accepted_inputs
from kdexp.model.vocabulary import kept_tokens, trimmed, trimmed_tokenizer
from kdexp.task.embedded.reviews import generate_splits
from kdexp.task.kinds.single_label import SingleLabel

ALL_TEXTS = [text for text, _ in generate_splits({"train": 400}, seed=0, label_noise=0.0)["train"]]
ALL_TEXTS += [
    "Übergrößenträger, naïve façade; 3½ %",
    "日本語の文 と 中文",
    "aaaa aaa aaaaaaa abab ababab",
    "ﬃ ﬁne e\u0301",
]
TEXTS = [*ALL_TEXTS[:20], "aaaa aaa", "naïve"]
LENGTH = 48


def encoder_of(family: str, vocab_size=900) -> Encoder:
    torch.manual_seed(1)
    tokenizer = train_tokenizer(family, ALL_TEXTS, vocab_size=vocab_size, max_length=LENGTH)
    size = {"num_layers": 1, "hidden_size": 8, "num_heads": 2, "max_length": LENGTH}
    config = compact_config(family, tokenizer, **size, head=SingleLabel(["no", "yes"]).head_config())
    return Encoder(build_compact_model(config).eval(), tokenizer, LENGTH, answers_task=True)


def trim(encoder: Encoder, texts=TEXTS) -> Encoder:
    used = {number for row in encoder.tokenizer(texts)["input_ids"] for number in row}
    return trimmed(encoder, kept_tokens(encoder.tokenizer, used))


def spelled(encoder: Encoder, *texts) -> list[list[str]]:
    return [encoder.tokenizer.convert_ids_to_tokens(row) for row in encoder.tokenizer(*texts)["input_ids"]]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_training_text_is_read_as_before(family):
    full = encoder_of(family)
    small = trim(full)
    assert len(small.tokenizer) == small.model.get_input_embeddings().num_embeddings == small.model.config.vocab_size
    assert len(small.tokenizer) < 0.9 * len(full.tokenizer)
    for texts in ((TEXTS,), (TEXTS, TEXTS[::-1])):
        assert spelled(small, *texts) == spelled(full, *texts)
        ours, theirs = (
            encoder.tokenizer(*texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
            for encoder in (small, full)
        )
        torch.testing.assert_close(
            small.model(**accepted_inputs(small.model, ours)).logits,
            full.model(**accepted_inputs(full.model, theirs)).logits,
            rtol=0,
            atol=0,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_becomes_unknown_that_was_known(family):
    full = encoder_of(family)
    small = trim(full)
    texts = [*ALL_TEXTS, *(word[::-1] for text in ALL_TEXTS for word in text.split()), "unseen 😀 ζ"]
    unknown = full.tokenizer.unk_token
    before = [row.count(unknown) for row in spelled(full, texts)]
    assert [row.count(unknown) for row in spelled(small, texts)] == before


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_saved_loads_in_transformers(family, tmp_path):
    small = trim(encoder_of(family))
    small.save(tmp_path)
    tokenizer, model = AutoTokenizer.from_pretrained(tmp_path), AutoModel.from_pretrained(tmp_path)
    assert tokenizer(TEXTS, TEXTS)["input_ids"] == small.tokenizer(TEXTS, TEXTS)["input_ids"]
    assert tokenizer.pad_token_id == model.config.pad_token_id == small.tokenizer.pad_token_id
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_special_tokens_keep_their_embeddings_and_positions_their_place():
    full = encoder_of("roberta")
    small = trim(full)
    for role in ("cls", "sep", "pad", "unk", "mask"):
        old, new = (getattr(encoder.tokenizer, f"{role}_token_id") for encoder in (full, small))
        tables = (encoder.model.get_input_embeddings().weight for encoder in (full, small))
        torch.testing.assert_close(*(table[row] for table, row in zip(tables, (old, new), strict=True)))
    assert small.model.config.pad_token_id == full.model.config.pad_token_id


def byte_fallback_tokenizer() -> PreTrainedTokenizerFast:
    """Like a Llama's: BPE over characters, bytes for what it lacks, and tokens of a person's own."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend.train_from_iterator(ALL_TEXTS[:-4], trainers.BpeTrainer(vocab_size=700, special_tokens=special))
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][:4]
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
    )  # fmt: skip
    made.add_tokens(["<mine>"])
    return made


def test_bytes_stand_in_for_what_has_no_letter():
    tokenizer = byte_fallback_tokenizer()
    full = Encoder(build_compact_model(_sized(tokenizer)), tokenizer, LENGTH, answers_task=True)
    small = trim(full)
    assert spelled(small, TEXTS) == spelled(full, TEXTS)
    assert spelled(small, ["<mine> 😀"]) == spelled(full, ["<mine> 😀"])
    assert small.tokenizer.unk_token not in spelled(small, ["😀"])[0]


def _sized(tokenizer):
    size = {"num_layers": 1, "hidden_size": 8, "num_heads": 2, "max_length": LENGTH}
    return compact_config("bert", tokenizer, **size, head=SingleLabel(["no", "yes"]).head_config())


def test_whole_words_cannot_be_trimmed():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    with pytest.raises(UserError, match="vocab: is trim, but a WordLevel tokenizer does not spell words"):
        kept_tokens(tokenizer, [2])


RUN = [
    *("task.train_size=80", "task.validation_size=40", "task.test_size=40", "train.max_steps=6", "hardware=cpu"),
    *("teacher.train.max_steps=2", "teacher.chance_check=false", "teacher.num_layers=2", "teacher.hidden_size=16"),
    *("hardware.num_threads=1", "tracking=none", "train.learning_rate=1e-3", "train.select=last"),
]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "family", ["roberta", pytest.param("bert", marks=SLOW), pytest.param("xlm_roberta", marks=SLOW)]
)
def test_with_all_its_tokens_it_is_the_student_that_was_not_trimmed(family, tmp_path):
    encoder_of(family).save(tmp_path / "mine")
    lines = [*RUN, f"cache_dir={tmp_path}/cache", f"student={family}", f"student.checkpoint={tmp_path}/mine"]
    settings = [kdexp.compose(*lines, f"student.max_length={LENGTH}", vocab) for vocab in VOCABS]
    plain, small = (kdexp.distil(config).metrics() for config in settings)
    for name in ("validation/nll", "test/nll", "test/accuracy"):
        assert small[f"control/full_vocab/{name}"] == pytest.approx(plain[name], abs=1e-3)
    assert small["cost/student_parameters"] < plain["cost/student_parameters"]
    assert len({config_hash(config) for config in settings}) == 2


VOCABS = ("student.vocab=full", "student.vocab=trim")


@pytest.mark.parametrize(
    "student",
    [
        ["student=static", "task=inference"],
        pytest.param(["student.init=teacher_layers", "student.num_layers=1"], marks=SLOW),
    ],
)
def test_what_is_made_of_the_teacher_can_be_trimmed(student, tmp_path):
    plain, small = (
        kdexp.distil(kdexp.compose(*RUN, *student, vocab, f"cache_dir={tmp_path}")).metrics() for vocab in VOCABS
    )
    assert small["control/full_vocab/test/nll"] == pytest.approx(plain["test/nll"], abs=1e-3)


call = pytest.fixture(commands)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["student.vocab=trim"], "student.vocab: is trim, but the vocabulary of a compact student is made from the"),
        (["student.vocab=small"], "student.vocab: got 'small'; expected one of full, trim"),
    ],
)
def test_a_run_refuses_before_it_trains(call, lines, told):
    assert told in call(*RUN, *lines).refusal


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["models/bert-minilm-l6", "models/roberta-minilm-l6", "tokenizers/xlm-roberta-base"])
def test_published_vocabularies(name):
    data = Path(os.environ.get("KDEXP_DATA", "/nonexistent"))
    texts = data / "sst2_sentence" / "dev.tsv"
    if not (data.parent / name).is_dir() or not texts.is_file():
        pytest.skip(f"no {name} beside the data sets that KDEXP_DATA names")
    rows = [line.split("\t")[0] for line in texts.read_text(encoding="utf-8").splitlines()]
    train, others = rows[:400], [*rows[400:], "Zoë's 日本語 façade — ½ 😀", "ПРИВЕТ, мир"]
    tokenizer = AutoTokenizer.from_pretrained(data.parent / name)
    kept = kept_tokens(tokenizer, {number for row in tokenizer(train)["input_ids"] for number in row})
    numbers = {old: new for new, old in enumerate(kept)}
    small = trimmed_tokenizer(tokenizer, numbers)
    assert len(small) == len(kept) < len(tokenizer) / 2
    for texts in ((train,), (train, train[::-1])):
        expected = [[numbers[number] for number in row] for row in tokenizer(*texts)["input_ids"]]
        assert small(*texts)["input_ids"] == expected
    unknown = [row.count(tokenizer.unk_token_id) for row in tokenizer(others)["input_ids"]]
    assert [row.count(small.unk_token_id) for row in small(others)["input_ids"]] == unknown
