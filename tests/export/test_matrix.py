"""Every family, as a student of every kind of task, becomes a file that answers padded batches as torch does.

The whole matrix takes minutes, and runs where KDEXP_MATRIX is set; each family once, with the kinds taking turns, is
what the slow tests have. Students are untrained: a graph does not depend on what its weights have learned.
"""

import json
import os

import numpy as np
import pytest
import torch

from kdexp import compose
from kdexp.cache import Cache
from kdexp.export.config import Onnx, OnnxInt8
from kdexp.export.files import TOLERANCE, Source, export_student
from kdexp.export.unsure import row_scores
from kdexp.hardware import Hardware
from kdexp.model.encoder import predict
from kdexp.model.families import FAMILIES
from kdexp.model.tokens import tokenize
from kdexp.student.load import load_student
from kdexp.task.load import load_task
from kdexp.tracking.served.pyfunc import load_student as load_served

KINDS = ("single_label", "multi_label", "regression", "token_labels")
TEXT = "the soup was cold and nobody cared about our warm bread in that small cafe by the river"
WORDS = TEXT.split()
LABELS = {
    "single_label": lambda number, length: ["no", "yes"][number % 2],
    "multi_label": lambda number, length: ["", "a", "b", "a+b"][number % 4],
    "regression": lambda number, length: str(number % 5),
    "token_labels": lambda number, length: " ".join(["B-food", *["O"] * (length - 1)]),
}
TINY = ("student.num_layers=1", "student.hidden_size=16", "student.num_heads=2", "student.vocab_size=300")
matrix = pytest.mark.skipif(
    not os.environ.get("KDEXP_MATRIX"), reason="the whole matrix: minutes, with KDEXP_MATRIX=1"
)


@pytest.fixture
def made(tmp_path):
    """Make a student of some settings on a task of some kind, export it, and compare what ships with torch."""

    def make(kind, *settings):
        config = compose("task=file", *own_task(kind, tmp_path), f"cache_dir={tmp_path}/cache", *settings)
        cache = Cache(tmp_path / "cache")
        task = load_task(config.task, cache)
        student = load_student(config.student, task, cache, seed=0)
        torch.manual_seed(0)
        for parameter in student.model.parameters():  # else a new head answers next to nothing
            parameter.data += 0.05 * torch.randn_like(parameter)
        student.save(tmp_path / "student")
        splits = {name: getattr(task, name) for name in ("train", "validation", "test")}
        tokens = {name: tokenize(student.tokenizer, split, 32, task.kind, cache) for name, split in splits.items()}
        cpu = Hardware(torch.device("cpu"), False, 1, 0)
        answers = {
            name: predict(student.model, student.tokenizer, tokens[name], cpu, batch_size=8, description=name)
            for name in ("validation", "test")
        }
        source = Source(tmp_path / "student", task, 32, tokens, answers, cpu)
        return task, answers, export_student({"onnx": Onnx(), "onnx_int8": OnnxInt8()}, source, cache)

    return make


def own_task(kind, folder):
    """Texts of one word beside texts of many."""
    lengths = [1 + 5 * number % len(WORDS) for number in range(80)]
    rows = [
        f"{' '.join([f'n{number}', *WORDS][:length])},{LABELS[kind](number, length)}"
        for number, length in enumerate(lengths)
    ]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]))
    words = [f"task.train={folder}/rows.csv", f"task.kind={kind}", "task.validation_size=16", "task.test_size=40"]
    return [*words, *(["task.separator=+"] if kind == "multi_label" else [])]


def answers_alike(task, answers, files):
    """The file in batches, and the folder as a server loads it, beside torch."""
    spread = float(answers["test"].values.std())
    assert spread > 0.01
    parity = files["onnx"].parity
    assert parity.largest_logit_difference <= TOLERANCE
    assert parity.changed_predictions == pytest.approx(0, abs=1e-9)  # of numbers it is one minus a correlation
    # It was made, loaded and asked, and is the same model in other numbers.
    assert 0 < files["onnx_int8"].parity.largest_logit_difference < 3 * spread
    served = load_served(str(files["onnx"].folder)).predict(list(task.test.texts))
    column = {"single_label": "label", "multi_label": "labels", "regression": "value", "token_labels": "tags"}
    told = served[column[task.kind.name]].tolist()
    decided = task.kind.decided(answers["test"], answers["validation"], task.labels("validation"))
    expected = task.kind.decisions(decided)
    if task.kind.name == "regression":
        np.testing.assert_allclose(told, expected, atol=1e-4)
    else:
        assert told == expected
    sure = task.kind.row_scores(decided)
    if sure is not None:
        np.testing.assert_allclose(row_scores(served), sure, atol=1e-4)
    assert json.loads((files["onnx"].folder / "student.json").read_text())["kind"] == task.kind.name


def cell(place, family, kind):
    """Each family once; the others on request."""
    marks = [pytest.mark.slow] if KINDS.index(kind) == place % len(KINDS) else [pytest.mark.slow, matrix]
    return pytest.param(family, kind, marks=marks, id=f"{family}-{kind}")


@pytest.mark.parametrize(
    ("family", "kind"), [cell(place, family, kind) for place, family in enumerate(FAMILIES) for kind in KINDS]
)
def test_every_family_answers_every_kind_as_torch_does(made, family, kind):
    answers_alike(*made(kind, f"student={family}", *TINY))


@pytest.mark.slow
@pytest.mark.measured
@pytest.mark.parametrize(
    "kind", [kind if kind == "multi_label" else pytest.param(kind, marks=matrix) for kind in KINDS[:3]]
)
def test_a_static_student_does(made, kind):
    answers_alike(*made(kind, "student=static", "student.vocab_size=300", "student.hidden_size=16"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with an encoder and more tokens than the task's text needs."""
    folder = tmp_path_factory.mktemp("checkpoint")
    rows = [f"{TEXT} n{number} word{number} {number * 7919},{'no' if number % 2 else 'yes'}" for number in range(80)]
    (folder / "rows.csv").write_text("\n".join(["text,label", *rows]))

    def student(family):
        words = (f"task.train={folder}/rows.csv", f"cache_dir={folder}/cache", f"student={family}", *TINY)
        config, cache = compose("task=file", *words), Cache(folder / "cache")
        return load_student(config.student, load_task(config.task, cache), cache, seed=0)

    student("bert").save(folder / "bert")
    student("roberta").tokenizer.save_pretrained(folder / "tokens")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        pytest.param("token_labels", ["student=bert", "student.vocab=trim"], id="trimmed"),
        pytest.param("single_label", ["student=roberta", "student.transplant={folder}/tokens"], id="transplanted"),
    ],
)
def test_a_student_with_other_tokens_does(made, checkpoint, kind, settings):
    words = [word.format(folder=checkpoint) for word in settings]
    answers_alike(*made(kind, *words, f"student.checkpoint={checkpoint}/bert"))
