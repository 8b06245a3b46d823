"""The logged student of token labels tags texts and words, in every form that MLflow's clients know."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from kdexp.model.families import train_tokenizer
from kdexp.task.kinds.token_labels import TokenLabels
from kdexp.tracking.student_model import StudentFiles, write_student

TAGS = ["O", "B-place", "I-place"]
TEXTS = ["Ann left New York .", "it rained", "a very long text that goes on and on and on until it is cut off"]
WORDS = [text.split(" ") for text in TEXTS]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    import mlflow.pyfunc

    folder = tmp_path_factory.mktemp("tagger")
    tokenizer = train_tokenizer("bert", TEXTS, vocab_size=120, max_length=24)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForTokenClassification(
        BertConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=24, num_labels=3, initializer_range=1.0)
    ).eval()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    logged = SimpleNamespace(artifact_location=str(folder / "logged"), source_run_id="0" * 32, model_id="m-0")
    files = StudentFiles(folder / "model", TAGS, 16, TEXTS[:2], "token_labels", is_pair=False)
    write_student(files, logged, folder / "logged")
    return SimpleNamespace(
        model=model, tokenizer=tokenizer, loaded=mlflow.pyfunc.load_model(str(folder / "logged")), folder=folder
    )


@pytest.fixture(scope="module")
def expected(student: SimpleNamespace) -> list[dict]:
    """As the run itself answers: one row at a time."""
    rows, kind = [], TokenLabels(TAGS)
    for text in TEXTS:
        tokens = kind.tokenize(student.tokenizer, [text], None, 16)
        with torch.inference_mode():
            scores = student.model(input_ids=torch.tensor(tokens["input_ids"])).logits[0].softmax(-1)
        tags, told = ["O"] * tokens["num_units"][0], [None] * tokens["num_units"][0]
        for token, word in enumerate(tokens["units"][0]):
            if word >= 0:
                tags[word], told[word] = TAGS[int(scores[token].argmax())], float(scores[token].max())
        rows.append({"words": text.split(" "), "tags": tags, "scores": told})
    return rows


INPUTS = {
    "texts": TEXTS,
    "an array": np.array(TEXTS, dtype=object),
    "a series": pd.Series(TEXTS),
    "lists of words": WORDS,
    "a table of texts": pd.DataFrame({"text": TEXTS, "more": 1}),
    "a table of words": pd.DataFrame({"text": WORDS}),
    "records": [{"text": text} for text in TEXTS],
    "columns": {"text": TEXTS},
    "columns of words": {"text": WORDS},
    "white space of all kinds": [text.replace(" ", "\t \n") for text in TEXTS],
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_form_is_answered_alike(student, expected, name):
    answers = student.loaded.predict(INPUTS[name])
    assert list(answers.columns) == ["words", "tags", "scores"]
    for answer, row in zip(answers.to_dict("records"), expected, strict=True):
        assert (answer["words"], answer["tags"]) == (row["words"], row["tags"])
        for told, score in zip(answer["scores"], row["scores"], strict=True):
            assert told == (None if score is None else pytest.approx(score, abs=1e-5))
    assert answers["scores"][2][-1] is None  # behind the student's max_length
    assert len({tag for tags in answers["tags"] for tag in tags}) > 1


def test_one_text_and_no_words(student, expected):
    assert student.loaded.predict(TEXTS[0])["tags"].tolist() == [expected[0]["tags"]]
    assert student.loaded.predict(["  ", TEXTS[0]])["tags"].tolist() == [[], expected[0]["tags"]]
    assert len(student.loaded.predict([])) == 0
    table = pd.DataFrame({"text": TEXTS}, index=[7, 8, 9])
    assert student.loaded.predict(table).index.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ([3], "row 0 is the number 3, neither a text nor a list of words"),
        ([["a", None]], "a word of row 0 is empty, no text"),
        (pd.DataFrame({"words": TEXTS}), "expected a column 'text', got 'words'"),
        (7, "send texts, lists of words, or a table whose column 'text' holds them"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_sentence(student, sent, message):
    with pytest.raises(ValueError, match=message):
        student.loaded.predict(sent)


def test_it_says_what_it_answers(student):
    signature = student.loaded.metadata.signature
    assert [item.name for item in signature.outputs] == ["words", "tags", "scores"]
    assert Path(student.folder / "logged" / "config.json").exists()
