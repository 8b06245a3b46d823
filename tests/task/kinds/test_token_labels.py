"""Token labels: what is read, what is measured, and that every word counts."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from nervaluate import Evaluator
from transformers import AutoTokenizer

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.hardware import HardwareConfig, prepare_hardware
from kdexp.model.encoder import model_class, predict
from kdexp.model.families import FAMILIES, compact_config, train_tokenizer
from kdexp.model.forward import accepted_inputs
from kdexp.model.tokens import tokenize
from kdexp.task.config import FileTaskConfig, KindName
from kdexp.task.kinds.answers import UNREAD, Answers, Labels
from kdexp.task.kinds.base import NUM_UNITS, UNITS
from kdexp.task.kinds.tags import Scheme, as_bio, scheme_of
from kdexp.task.kinds.token_labels import TokenLabels
from kdexp.task.load import load_task
from kdexp.task.split import Split

TAGS = ["O", "B-person", "I-person", "B-place", "I-place"]
SENTENCES = [
    (["Ann", "Lee", "left", "New", "York", "."], ["B-person", "I-person", "O", "B-place", "I-place", "O"]),
    (["it", "rained", "in", "Bath", "."], ["O", "O", "O", "B-place", "O"]),
    (["nobody", "came"], ["O", "O"]),
]


def conll(sentences=SENTENCES, separator="\t", between="\n", repeated=6):
    """As many sentences as a split needs, each a little different."""
    rows = [
        "".join(f"{word}{separator}{tag}\n" for word, tag in zip([*words, str(i)], [*tags, "O"], strict=True))
        for i in range(repeated)
        for words, tags in sentences
    ]
    return between.join(rows)


def task_of(file, **settings):
    config = FileTaskConfig(
        **{"name": "file", "train": str(file), "text": "text", "label": "label", "kind": KindName.token_labels}
        | settings
    )
    return load_task(config, Cache(file.parent / "cache"))


def write(folder, content, name="a.conll"):
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def rows_of(task):
    """(words, tags) of all splits, in the order of the file's sentences."""
    rows = {}
    for name in ("train", "validation", "test"):
        split = getattr(task, name)
        for text, tags in zip(split.first, task.kind.gold(task.labels(name)), strict=True):
            rows[text] = tags
    return rows


# Reading


@pytest.mark.parametrize(
    ("content", "settings"),
    [
        (conll(), {}),
        (conll(between="\t\n"), {}),  # a tab alone parts sentences too
        (conll(between=" \n\n"), {}),
        (conll(separator=" "), {}),
        (conll().replace("\n", "\r\n"), {}),
        ("-DOCSTART-\tO\n\n" + conll(), {}),
        ("-DOCSTART- O\n\n" + conll(separator=" "), {}),
        ("# sent_id = 1\n" + conll(), {}),
        (conll(separator=" NNP B-NP "), {}),  # the last column
        (conll(separator="\tNNP\t"), {"label": "2"}),
        (conll(separator="\tNNP\t"), {"label": "-1", "text": "0"}),
    ],
)
def test_conll_files_are_read_whatever_parts_their_fields_and_sentences(tmp_path, content, settings):
    task = task_of(write(tmp_path, content), **settings)
    rows = rows_of(task)
    assert len(rows) == 18
    assert rows["Ann Lee left New York . 3"] == [*SENTENCES[0][1], "O"]
    assert task.label_names == TAGS


def test_a_column_in_the_middle_can_be_the_tags(tmp_path):
    lines = [f"{word}\t{tag}\tx{number}" for number, (word, tag) in enumerate([("a", "DT"), ("dog", "NN")] * 2)]
    path = write(tmp_path, "\n\n".join("\n".join([*lines, f"{i}\tCD\tx"]) for i in range(12)) + "\n")
    task = task_of(path, label="1")
    assert task.label_names == ["CD", "DT", "NN"]
    assert task.primary_metric == "accuracy"  # parts of speech are no entities
    assert "of its 3 columns the last is taken for the tags (task.label=2)" in " ".join(task_of(path).notes)


@pytest.mark.parametrize("name", ["a.txt", "a.tsv", "emerging.test.annotated", "a.bio"])
def test_what_is_no_table_is_conll(tmp_path, name):
    assert len(rows_of(task_of(write(tmp_path, conll(), name)))) == 18


def test_lists_and_strings_of_words_are_read(tmp_path):
    rows = [([*words, str(i)], [*tags, "O"]) for i in range(6) for words, tags in SENTENCES]
    expected = {" ".join(words): tags for words, tags in rows}
    lines = [json.dumps({"tokens": words, "tags": tags}) for words, tags in rows]
    named = {"text": "tokens", "label": "tags"}
    assert rows_of(task_of(write(tmp_path, "\n".join(lines), "a.jsonl"), **named)) == expected

    test = write(tmp_path, lines[0] + "\n", "one.jsonl")  # a row of lists, and not columns of words
    columns = {"tokens": [words for words, _ in rows[3:]], "tags": [tags for _, tags in rows[3:]]}
    task = task_of(write(tmp_path, json.dumps(columns), "columns.json"), test=str(test), **named)
    assert list(task.test.first) == [" ".join(rows[0][0])]
    assert len(rows_of(task)) == 16
    assert rows_of(task).items() <= expected.items()

    numbers = [[TAGS.index(tag) for tag in tags] for _, tags in rows]
    features = Features({"tokens": List(Value("string")), "tags": List(ClassLabel(names=TAGS))})
    data = Dataset.from_dict({"tokens": [words for words, _ in rows], "tags": numbers}, features=features)
    data.to_parquet(tmp_path / "a.parquet")
    assert rows_of(task_of(tmp_path / "a.parquet", **named)) == expected

    frame = pd.DataFrame(
        {"tokens": [" ".join(words) for words, _ in rows], "tags": [" ".join(tags) for _, tags in rows]}
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert rows_of(task_of(tmp_path / "a.csv", **named)) == expected
    frame.to_csv(tmp_path / "b.tsv", index=False, sep="\t")  # a table all the same
    assert rows_of(task_of(tmp_path / "b.tsv", **named)) == expected


def test_a_word_with_a_space_stays_one_word(tmp_path):
    sentence = (["New York", "", "x\u00a0y", "Bath"], ["B-place", "O", "O", "B-place"])
    task = task_of(write(tmp_path, conll([*SENTENCES, sentence])))
    (text,) = (text for text in rows_of(task) if text.startswith("New\u00a0York") and text.endswith(" 3"))
    assert text.split(" ") == ["New\u00a0York", "\u00a0", "x\u00a0y", "Bath", "3"]
    assert "12 words are empty or hold a space, the first in" in " ".join(task.notes)


@pytest.mark.parametrize(
    ("tags", "expected", "note"),
    [
        ("I-x I-x O B-x I-x", "B-x I-x O B-x I-x", "entities begin with I-, the first in {file}, line 1, word 1: "),
        ("I-x I-x O I-x I-x", "B-x I-x O B-x I-x", "{file}: IOB1 tags, read as BIO"),
        ("I-x B-x I-y O I-y", "B-x B-x B-y O B-y", "{file}: IOB1 tags, read as BIO"),
        ("B-x I-x O B-x I-x", "B-x I-x O B-x I-x", None),
        ("B-x E-x O S-x O", "B-x E-x O S-x O", None),
        ("x x O y y", "x x O y y", None),
    ],
)  # fmt: skip
def test_the_way_of_writing_is_told(tmp_path, tags, expected, note):
    path = write(tmp_path, conll([(list("abcde"), tags.split())], repeated=12))
    task = task_of(path)
    assert rows_of(task)["a b c d e 3"] == [*expected.split(), "O"]
    told = [line for line in task.notes if "begin" in line]
    assert told[0].find(note.format(file=path)) >= 0 if note else told == []


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        ("a.conll", conll() + "\nlonely\n", {}, r"a.conll, line \d+: 1 columns where the first line has 2"),
        ("a.conll", "", {}, r"task.train: .*a.conll is empty"),
        ("a.conll", conll(), {"label": "tags"}, r"CoNLL, whose columns have no names, and so no 'tags'; .*0 to 1"),
        ("a.conll", conll(), {"label": "2"}, r"task.label: no column '2' in .*a.conll; its columns are: 0, 1"),
        ("a.conll", conll([(["a", "b"], ["O", "O"])]), {}, r"every word has the tag 'O' in column 'label'"),
        ("a.conll", "a\nb\n\nc\n", {}, r"task.label: no column 'label' in .*; its columns are: 0"),
        ("a.conll", conll(), {"header": False}, r"task.header: false, but .* is read as CoNLL; leave task.header out"),
        ("a.conll", conll(), {"labels": ["O", "B-person"]}, r"line 1, word 2: unknown tag 'I-person'; the tags are"),
        ("a.conll", conll(), {"labels": ["O", "O"]}, r"task.labels: \[O, O\]; name two tags or more, each once"),
        ("a.conll", conll(separator="\ta\t"), {"text": ["0", "1"], "label": "2"}, r"task.text: 2 columns"),
        ("a.jsonl", '{"text": ["a"], "label": ["O"]}\n{"text": ["a", "b"], "label": ["B-x"]}\n', {},
         r"task.label: .*a.jsonl, line 2: 2 words and 1 tags; give each word one tag"),
        ("a.jsonl", '{"text": ["a"], "label": ["O"]}\n{"text": [], "label": ["B-x"]}\n' * 2, {},
         r"task.text: 2 rows have no words in column 'text', the first is .*line 2"),
        ("a.jsonl", '{"text": ["a"], "label": ["O"]}\n{"text": [1], "label": ["B-x"]}\n', {},
         r"task.text: .*line 2: column 'text' holds \[1\], not a row of words"),
        ("a.jsonl", '{"text": ["a"], "label": ["O"]}\n{"text": ["a"], "label": 3}\n', {},
         r"task.label: .*line 2: column 'label' holds 3, not a row of tags"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_one_line(tmp_path, name, content, settings, message):
    with pytest.raises(UserError, match=message) as error:
        task_of(write(tmp_path, content, name), **settings)
    assert "\n" not in str(error.value)


def test_a_tag_that_only_the_test_file_has_is_told(tmp_path):
    train = write(tmp_path, conll())
    test = write(tmp_path, conll().replace("B-place", "B-planet"), "test.conll")
    with pytest.raises(
        UserError, match=r"test.conll, line 1, word 4: unknown tag 'B-planet'; the tags are: O, B-person"
    ):
        task_of(train, test=str(test))


def test_a_conll_file_says_which_kind_it_needs(tmp_path):
    with pytest.raises(UserError, match=r"CoNLL files are read with task.kind=token_labels"):
        task_of(write(tmp_path, conll()), kind=KindName.single_label)


def test_words_without_tags_can_be_transferred(tmp_path):
    transfer = write(tmp_path, "only\nwords\n\nand\nmore\n", "more.conll")
    task = task_of(write(tmp_path, conll()), transfer=str(transfer))
    assert list(task.transfer.first) == ["only words", "and more"]


# Metrics


def answers_of(rows, kind, unread=()):
    """Sure answers; words of a flat number in `unread` were not read."""
    numbers = [kind.label_names.index(tag) for row in rows for tag in row]
    values = 9.0 * torch.eye(kind.num_outputs)[numbers]
    values[list(unread)] = UNREAD
    return Answers(values, np.array([len(row) for row in rows]))


def labels_of(rows, kind):
    return Labels(
        np.array([kind.label_names.index(tag) for row in rows for tag in row]), np.array([len(row) for row in rows])
    )


@pytest.mark.parametrize(
    ("gold", "said", "counts"),
    [  # right, said, true
        ("B-person I-person O B-place", "B-person I-person O B-place", (2, 2, 2)),
        ("B-person I-person O B-place", "B-person O O B-place", (1, 2, 2)),  # too short
        ("B-person I-person O B-place", "B-place I-place O O", (0, 1, 2)),  # another type
        ("B-person B-person O O", "B-person I-person O O", (0, 1, 2)),  # two neighbours are one
        ("O B-place I-place O", "O I-place I-place O", (1, 1, 1)),  # I- after O begins, as conlleval has it
        ("B-person I-person O O", "B-person I-place O O", (0, 2, 1)),
        ("O O O O", "B-place O O I-place", (0, 2, 0)),
        ("B-place I-place I-place I-place", "O O O O", (0, 0, 1)),
    ],
)
def test_entities_are_counted_as_expected_and_as_the_library_reports(gold, said, counts):
    kind = TokenLabels(TAGS)
    gold, said = gold.split(), said.split()
    found = kind.entity_counts(answers_of([said], kind), labels_of([gold], kind))
    assert tuple(found[0]) == counts
    metrics = kind.metrics(answers_of([said], kind), labels_of([gold], kind))
    if counts[1] + counts[2]:
        strict = Evaluator([gold], [said], tags=["person", "place"], loader="list").evaluate()["overall"]["strict"]
        assert (metrics["precision"], metrics["recall"]) == (strict.precision, strict.recall)
        assert metrics["f1"] == pytest.approx(strict.f1)
    assert metrics["accuracy"] == np.mean(np.array(gold) == np.array(said))


@pytest.mark.parametrize(
    ("scheme", "tags", "bio"),
    [
        (Scheme.bioes, "B-x I-x E-x S-x O S-y", "B-x I-x I-x B-x O B-y"),
        (Scheme.bioes, "E-x I-x O I-y L-y U-y", "B-x B-x O B-y I-y B-y"),
        (Scheme.plain, "x x y O x", "B-x I-x B-y O B-x"),
        (Scheme.bio, "B-x I-y O", "B-x I-y O"),
    ],
)
def test_every_way_of_writing_spells_the_same_entities(scheme, tags, bio):
    assert as_bio(tags.split(), scheme) == bio.split()
    assert scheme_of(tags.split()) == scheme


def test_a_word_that_was_not_read_counts_as_outside():
    kind = TokenLabels(TAGS)
    gold = [["B-person", "I-person"], ["O", "B-place"]]
    answers = answers_of(gold, kind, unread=[1, 2, 3])
    assert kind.decisions(answers) == [["B-person", "O"], ["O", "O"]]
    metrics = kind.metrics(answers, labels_of(gold, kind))
    assert metrics["accuracy"] == 0.5  # one word was read, one is outside indeed
    assert metrics["unread"] == 0.75
    assert (metrics["f1"], metrics["precision"], metrics["recall"]) == (0, 0, 0)
    assert kind.agreement(answers, answers) == 1
    # Of parts of speech no tag is right for it.
    plain = TokenLabels(["NN", "VB"])
    told = plain.metrics(answers_of([["NN", "VB"]], plain, unread=[0]), labels_of([["NN", "VB"]], plain))
    assert told["accuracy"] == 0.5
    assert "f1" not in told


@pytest.mark.parametrize("metric", ["f1", "precision", "recall", "accuracy"])
def test_a_gain_is_that_of_the_metric_on_resampled_rows(metric):
    kind, random = TokenLabels(TAGS).with_primary(metric), np.random.default_rng(0)
    gold, student, baseline = ([list(random.choice(TAGS, 4)) for _ in range(30)] for _ in range(3))
    labels, pair = labels_of(gold, kind), [answers_of(said, kind) for said in (student, baseline)]
    samples = random.integers(0, 30, (5, 30))
    expected = [
        kind.metrics(pair[0].take(rows), labels.take(rows))[metric]
        - kind.metrics(pair[1].take(rows), labels.take(rows))[metric]
        for rows in samples
    ]
    assert kind.gain(*pair, labels, samples) == pytest.approx(expected)


def test_tags_can_be_weighted_and_chosen_by_another_metric():
    kind, gold = TokenLabels(TAGS), [["O", "O", "O", "B-person"]]
    labels, logits = labels_of(gold, kind), torch.zeros(4, 5)
    weighted = kind.weighted("balanced", labels)
    assert weighted.class_weights[:2] == pytest.approx((4 / 6, 2))
    loss = weighted.hard_loss(logits, torch.tensor(labels.values), num_examples=4, label_smoothing=0.0)
    assert float(loss) == pytest.approx(np.log(5))
    assert kind.weighted("none", labels).class_weights is None
    with pytest.raises(UserError, match=r"task.primary_metric: got f1, .* no O; expected accuracy"):
        TokenLabels(["NN", "VB"]).with_primary("f1")
    with pytest.raises(UserError, match=r"got macro_f1, which is none of a token_labels task's; expected one of f1"):
        kind.with_primary("macro_f1")


def test_a_teacher_that_finds_nothing_is_refused():
    kind = TokenLabels(TAGS)
    gold = [["B-person", "O"]] * 20
    labels = labels_of(gold, kind)
    assert kind.refuse_chance(answers_of(gold, kind), labels, "teacher") is None
    for rows, found in (([["O", "O"]] * 20, 0), ([["B-person", "O"]] * 3 + [["O", "O"]] * 17, 3)):
        with pytest.raises(
            UserError, match=f"teacher: finds an entity in {found} of the 20 validation rows that hold"
        ):
            kind.refuse_chance(answers_of(rows, kind), labels, "teacher")
    few = [["B-person", "O"]] * 4 + [["O", "O"]] * 16
    assert "too few rows to tell" in kind.refuse_chance(answers_of(few, kind), labels_of(few, kind), "teacher")
    plain, gold = TokenLabels(["NN", "VB"]), [["NN", "VB"]] * 40
    assert plain.refuse_chance(answers_of(gold, plain), labels_of(gold, plain), "teacher") is None
    with pytest.raises(UserError, match=r"answers 40 of 80 words correctly.*it has not learned the task; set teacher"):
        plain.refuse_chance(answers_of([["NN", "NN"]] * 40, plain), labels_of(gold, plain), "teacher")
    said = plain.refuse_chance(answers_of(gold[:3], plain), labels_of(gold[:3], plain), "teacher")
    assert said.endswith("too few rows to tell whether it is better than chance")  # six of six words


# Words and tokens

TEXTS = [
    "Unbelievably , Ann-Lee O'Hara left New York .",
    "it 's 12:30 (half past) in Bath",
    "naïve ﬁne ½ 東京 e\u0301",
]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_visible_token_of_each_word_answers_for_it(family):
    tokenizer = train_tokenizer(family, TEXTS * 3, vocab_size=320, max_length=128)
    tokens = TokenLabels(TAGS).tokenize(tokenizer, TEXTS, None, 128)
    for row, text in enumerate(TEXTS):
        words, units = text.split(" "), tokens[UNITS][row]
        assert tokens[NUM_UNITS][row] == len(words)
        assert [unit for unit in units if unit >= 0] == list(range(len(words)))
        starts = np.cumsum([0, *(len(word) + 1 for word in words)])
        for token, unit in enumerate(units):
            if unit >= 0:
                start, end = tokens.encodings[row].offsets[token]
                assert starts[unit] - 1 <= start <= starts[unit] < end <= starts[unit + 1]


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm_roberta"])
def test_words_that_are_cut_off_are_not_answered(family):
    tokenizer = train_tokenizer(family, TEXTS * 3, vocab_size=320, max_length=6)
    tokens = TokenLabels(TAGS).tokenize(tokenizer, TEXTS, None, 6)
    for row, text in enumerate(TEXTS):
        answered = [unit for unit in tokens[UNITS][row] if unit >= 0]
        assert answered == list(range(len(answered)))
        assert len(answered) < tokens[NUM_UNITS][row] == len(text.split(" "))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_compact_family_answers_for_words(tmp_path, family):
    kind, tokenizer = TokenLabels(TAGS), train_tokenizer(family, TEXTS * 3, vocab_size=320, max_length=24)
    size = {"num_layers": 1, "hidden_size": 16, "num_heads": 2, "max_length": 24}
    model = model_class(kind).from_config(compact_config(family, tokenizer, **size, head=kind.head_config()))
    hardware = prepare_hardware(HardwareConfig(device="cpu", num_threads=1))
    tokens = tokenize(tokenizer, Split.from_lists(TEXTS), 24, kind, Cache(tmp_path))
    answers = predict(model, tokenizer, tokens, hardware, batch_size=2, description="answers")
    assert answers.lengths.tolist() == [len(text.split(" ")) for text in TEXTS]
    assert answers.values.shape == (sum(answers.lengths), 5)
    for row, text in enumerate(TEXTS):  # one row at a time, without padding
        inputs = kind.tokenize(tokenizer, [text], None, 24)
        units = inputs.pop(UNITS)[0]
        ids = {name: torch.tensor(inputs[name]) for name in tokenizer.model_input_names}
        with torch.inference_mode():
            logits = model(**accepted_inputs(model, ids)).logits[0]
        own = answers.by_row()[row]
        read = [(token, unit) for token, unit in enumerate(units) if unit >= 0]
        torch.testing.assert_close(own[[unit for _, unit in read]], logits[[token for token, _ in read]])
        assert answers.take(np.array([row])).read.sum() == len(read)


def test_a_word_without_a_token_is_not_answered():
    tokenizer = train_tokenizer("bert", ["a b c"] * 3, vocab_size=320, max_length=16)  # it drops control characters
    tokens = TokenLabels(TAGS).tokenize(tokenizer, ["a \u200d b"], None, 16)
    assert [unit for unit in tokens[UNITS][0] if unit >= 0] == [0, 2]
    assert tokens[NUM_UNITS] == [3]


# Real files


def real(*places):
    folder = Path(os.environ.get("KDEXP_DATA", "/nonexistent"))
    for place in places:
        if (folder / place).is_dir():
            return folder / place
    pytest.skip(f"KDEXP_DATA names no folder that holds {places[0]}")


@pytest.fixture(scope="module")
def wnut17(tmp_path_factory):
    folder = real("wnut17", "data/wnut17")
    files = {"train": "wnut17train.conll", "validation": "emerging.dev.conll", "test": "emerging.test.annotated"}
    config = FileTaskConfig(
        name="file", kind=KindName.token_labels, text="text", label="label",
        **{split: str(folder / file) for split, file in files.items()},
    )  # fmt: skip
    return load_task(config, Cache(tmp_path_factory.mktemp("cache")))


@pytest.mark.real_data
def test_the_files_of_wnut17_are_read(wnut17):
    """Blank lines of a tab alone, no extension that says CoNLL, six types; its own counts."""
    assert [len(wnut17.train), len(wnut17.validation), len(wnut17.test)] == [3394, 1009, 1287]
    assert [len(wnut17.labels(name).values) for name in ("train", "validation", "test")] == [62730, 15733, 23394]
    types = ["corporation", "creative-work", "group", "location", "person", "product"]
    assert wnut17.label_names == ["O", *(f"{prefix}-{name}" for name in types for prefix in "BI")]
    begins = [wnut17.label_names[number][0] for number in wnut17.labels("test").values].count("B")
    gold = answers_of(wnut17.kind.gold(wnut17.labels("test")), wnut17.kind)
    assert wnut17.kind.entity_counts(gold, wnut17.labels("test")).sum(axis=0).tolist() == [begins] * 3 == [1079] * 3


@pytest.mark.real_data
@pytest.mark.parametrize(("model", "num_lost"), [("bert-minilm-l6", 3), ("roberta-minilm-l6", 0)])
def test_real_tokenizers_answer_for_all_words_but_those_they_drop(wnut17, model, num_lost):
    tokenizer = AutoTokenizer.from_pretrained(real(f"models/{model}", f"../models/{model}"))
    tokens = wnut17.kind.tokenize(tokenizer, list(wnut17.test.first), None, 512)
    words = [word for text in wnut17.test.first for word in text.split(" ")]
    answered = sum(unit >= 0 for row in tokens[UNITS] for unit in row)
    assert sum(tokens[NUM_UNITS]) == len(words)
    assert len(words) - answered == num_lost
