"""A causal language model as the teacher: its scores are plain ones, and a run of it is a run."""

import inspect
import json
import random
import shutil

import pytest
import torch
from compact_lm import byte_level_tokenizer, save, train, untrained

from kdexp import compose
from kdexp.errors import UserError
from kdexp.model import past_adapter
from kdexp.model.scoring import WordScorer
from kdexp.run import run
from kdexp.task.split import Split
from kdexp.teacher.causal import CONTENT_FREE, CausalTeacher
from kdexp.teacher.config import CausalTeacherConfig
from kdexp.teacher.prompt import Prompt

HEAT = {"warm": "hot", "scorching": "hot", "icy": "cold", "freezing": "cold"}
ROWS = [(f"it is {word} at {place}", label) for place in range(40) for word, label in HEAT.items()]
PROMPT = "Say how it feels. {text}\nOne word for it:"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer([f"{PROMPT.replace('{text}', text)} {label}" for text, label in ROWS])


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory):
    model = untrained("gpt2", tokenizer)
    prompts = [PROMPT.replace("{text}", text) for text, _ in ROWS]
    train(model, tokenizer, prompts, [f" {label}" for _, label in ROWS], steps=200)
    return save(model, tokenizer, tmp_path_factory.mktemp("lm") / "tiny-lm")


def prompts(scorer, count=30):
    chosen = random.Random(0)
    texts = [" ".join(chosen.choices(list(HEAT), k=chosen.randint(1, 12))) for _ in range(count)]
    return [scorer._ids(PROMPT.replace("{text}", text)) for text in texts]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_what_is_kept_gives_the_numbers_of_plain_scoring(tokenizer, kind):
    model = untrained(kind, tokenizer).double().eval()
    scorer = WordScorer(model, tokenizer, [" hot", " cold and icy", " w", " freezing at"], 128)
    assert scorer.keeps_past
    asked = prompts(scorer)
    with torch.inference_mode():
        kept, num_tokens = scorer._kept(asked)
        plain, num_plain = scorer._plain(asked)
    assert (kept - plain).abs().max() < 1e-9
    assert scorer._num_shared(asked) >= 5
    assert num_tokens < num_plain / 2
    model.float()
    with torch.inference_mode():
        kept, plain = (compute(asked)[0] for compute in (scorer._kept, scorer._plain))
        mean = scorer.scores(asked, normalise=True).values
    assert (kept.softmax(-1) - plain.softmax(-1)).abs().max() < 1e-6
    lengths = torch.tensor([len(word) for word in scorer.words])
    assert torch.allclose(mean, kept / lengths)


def test_one_prompt_and_equal_prompts_keep_a_token_of_their_own(tokenizer):
    scorer = WordScorer(untrained("gpt2", tokenizer).double().eval(), tokenizer, [" hot", " cold and icy"], 128)
    asked = prompts(scorer, 1)
    for batch in (asked, asked * 3, [[5], [5]]):
        with torch.inference_mode():
            assert torch.allclose(scorer._kept(batch)[0], scorer._plain(batch)[0])


@torch.inference_mode()
def test_the_past_has_a_name_that_the_adapter_knows(tokenizer):
    """A release that renames it again fails here."""
    for kind in ("gpt2", "llama"):
        model = untrained(kind, tokenizer)
        assert past_adapter._name(model) in inspect.signature(model.forward).parameters
        ids = torch.tensor([[1, 2]])
        _, past = past_adapter.forward_with_past(model, ids, torch.ones_like(ids), torch.tensor([[0, 1]]), None)
        assert past.get_seq_length() == 2
        assert past_adapter.for_batch(past, 3).get_seq_length() == 2


def test_a_model_whose_past_slides_is_scored_plainly(tokenizer):
    model = untrained("gpt2", tokenizer).eval()
    scorer = WordScorer(model, tokenizer, [" hot"], 128)
    scorer.keeps_past = False
    asked = prompts(scorer, 3)
    with torch.inference_mode():
        assert torch.equal(scorer.scores(asked, normalise=False).values, scorer._plain(asked)[0])


def teacher(scorer, **settings) -> CausalTeacher:
    config = CausalTeacherConfig(name="lm", checkpoint="x", prompt=PROMPT, **settings)
    from kdexp.hardware import HardwareConfig, prepare_hardware

    hardware = prepare_hardware(HardwareConfig(device="cpu", num_threads=1))
    made = CausalTeacher("teacher", config, Prompt(PROMPT, [" hot", " cold"]), scorer, hardware)
    made.prepare()
    return made


def test_calibration_divides_by_what_is_said_of_no_text(tokenizer):
    scorer = WordScorer(untrained("gpt2", tokenizer).eval(), tokenizer, [" hot", " cold"], 128)
    asked = Split.from_lists([text for text, _ in ROWS[:7]])
    raw, calibrated = (teacher(scorer, calibrate=how).answer(asked, "").answers.values for how in (False, True))
    empty = teacher(scorer).answer(Split.from_lists(list(CONTENT_FREE)), "").answers.values.exp().mean(dim=0)
    expected = raw.exp() / empty
    assert torch.allclose(calibrated.exp(), expected / expected.sum(dim=-1, keepdim=True), atol=1e-6)
    assert (
        len({teacher(scorer, **other).fingerprint() for other in ({}, {"calibrate": True}, {"normalise": False})}) == 3
    )


def test_a_long_text_is_cut_and_the_prompt_around_it_is_not(tokenizer, caplog):
    scorer = WordScorer(untrained("gpt2", tokenizer).eval(), tokenizer, [" hot", " cold"], 40)
    ids, is_cut = scorer.prompt_ids(Prompt(PROMPT, [" hot", " cold"]), "icy " * 60, None)
    assert is_cut
    assert len(ids) <= 39
    shown = tokenizer.decode(ids)
    assert shown.startswith("Say how it feels. icy icy")
    assert shown.endswith("\nOne word for it:")
    made = teacher(scorer)
    made.answer(Split.from_lists(["icy " * 60, "icy"]), "train")
    assert made.notices == ["the text was cut to fit 40 tokens in 1 of 2 rows of train"]
    with pytest.raises(UserError, match=r"teacher\.prompt: the prompt leaves no room for a text in the 8 tokens"):
        WordScorer(scorer.model, tokenizer, [" hot"], 8).refuse_unfit("teacher", Prompt(PROMPT, [" hot"]))


def settings(folder, checkpoint, *overrides):
    (folder / "rows.csv").write_text("\n".join(["text,label", *map(",".join, ROWS)]) + "\n")
    return compose(
        *("task=file", f"task.train={folder}/rows.csv", "hardware=cpu", "hardware.num_threads=1", "train.epochs=1"),
        *(f"cache_dir={folder}/cache", "tracking=none", "teacher=causal_lm", f"teacher.checkpoint={checkpoint}"),
        *(f'teacher.prompt="{PROMPT}"', *overrides),
    )


@pytest.mark.usefixtures("own_folder")
def test_a_language_model_teaches_and_stands_beside_others(tmp_path, checkpoint):
    record = run(settings(tmp_path, checkpoint))
    assert record.score("test", "teacher") > 0.9
    assert record.costs["teacher_tokens_per_1000_rows"] > 1000
    assert record.costs["teacher_rows_forwarded"] == 160
    again = run(settings(tmp_path, checkpoint, "seed=1"))
    assert again.costs["teacher_rows_forwarded"] == 0  # cached as any answers are
    assert again.costs["teacher_tokens_per_1000_rows"] == record.costs["teacher_tokens_per_1000_rows"]
    two = ("more_teachers=[bert]", "more_teachers.bert.num_layers=1", "more_teachers.bert.train.epochs=1")
    mixed = run(settings(tmp_path, checkpoint, *two))
    assert set(mixed.scores) >= {"teacher", "teacher_causal_lm", "teacher_bert"}
    with pytest.raises(UserError, match=r"loss\.terms: .* causal_lm shows only its answers"):
        run(settings(tmp_path, checkpoint, "terms=[rkd]"))


@pytest.mark.usefixtures("own_folder")
def test_what_cannot_be_asked_is_refused(tmp_path, checkpoint):
    for words, line in {
        ("teacher.checkpoint=nowhere/at/all",): r"teacher\.checkpoint: no folder",
        ("teacher.verbalizers={hot: h}",): r"teacher\.verbalizers: no word for the class 'cold'",
        ("teacher.max_length=12",): r"teacher\.prompt: the prompt leaves no room",
        ("teacher.prompt=How?",): r"teacher\.prompt: does not say where the text stands",
    }.items():
        with pytest.raises(UserError, match=line):
            run(settings(tmp_path, checkpoint, *words))
    encoder = tmp_path / "encoder"
    shutil.copytree(checkpoint, encoder)
    config = json.loads((encoder / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (encoder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"teacher\.checkpoint: .* is no causal language model .*BertForMaskedLM"):
        run(settings(tmp_path, encoder))


def test_a_template_is_filled_in_once():
    prompt = Prompt.of("teacher", "{text}|{text_pair}|{classes}|{x}", None, ["a", "b"], is_pair=True)
    assert prompt.fill("{text_pair}", "{classes}") == "{text_pair}|{classes}|a, b|{x}"
    with pytest.raises(UserError, match=r"teacher\.prompt: .* no \{text_pair\}"):
        Prompt.of("teacher", "{text}", None, ["a", "b"], is_pair=True)
