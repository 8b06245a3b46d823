"""A file of answers for tasks that ask for something else than one class: labels, numbers."""

import numpy as np
import pandas as pd
import pytest
import torch

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.loss.base import Outputs
from kdexp.loss.logit import MSE
from kdexp.task.kinds.multi_label import MultiLabel
from kdexp.task.kinds.regression import Regression
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Scale, refuse_unfit_answers
from kdexp.teacher.causal import load_causal
from kdexp.teacher.chat.teacher import load_chat
from kdexp.teacher.config import CausalTeacherConfig, ChatTeacherConfig, PredictionsTeacherConfig
from kdexp.teacher.predictions.teacher import load_predictions
from kdexp.teacher.translated import translated

TEXTS = ["icy and wet", "warm", "dull"]


def task(kind, labels) -> Task:
    split = Split.from_lists(TEXTS, labels=labels)
    return Task(name="t", kind=kind, train=split, validation=split, test=split, transfer=None)


LABELS = task(MultiLabel(["cold", "rain"]), [[1, 1], [0, 0], [0, 1]])
NUMBERS = task(Regression(["score"], mean=10.0, scale=4.0), [6.0, 14.0, 10.0])


@pytest.fixture
def load(tmp_path):
    def open_it(asked, table, **settings):
        table.assign(text=TEXTS).to_parquet(tmp_path / "scores.parquet")
        config = PredictionsTeacherConfig(name="p", path=str(tmp_path / "scores.parquet"), **settings)
        return translated(*load_predictions("teacher", config, asked, Cache(tmp_path / "cache")), asked)

    return open_it


def test_probabilities_of_labels_become_their_logits_exactly(load):
    table = pd.DataFrame({"cold": [0.9, 0.1, 0.3], "rain": [0.8, 0.0, 0.6]})
    teacher = load(LABELS, table)
    values = teacher.answer(LABELS.train, "train").answers.values
    assert np.allclose(values.sigmoid(), table, atol=1e-5)
    assert teacher.scale == Scale.logits
    refuse_unfit_answers(MSE(centered=False), teacher)
    assert teacher.notices[1].endswith("nearer to certain than 1e-06, and are taken for that")
    assert torch.allclose(
        load(LABELS, table * 4 - 2, values="logits").answer(LABELS.train, "").answers.values,
        torch.tensor((table * 4 - 2).to_numpy(), dtype=torch.float32),
    )


def test_a_softmax_file_for_a_task_of_labels_and_back(load):
    table = pd.DataFrame({"cold": [0.6, 0.1, 0.2], "rain": [0.3, 0.1, 0.5], "neither": [0.1, 0.8, 0.3]})
    teacher = load(LABELS, table, outputs=Outputs.classes, label_map={"neither": None})
    assert np.allclose(teacher.answer(LABELS.train, "").answers.values.sigmoid(), table[["cold", "rain"]], atol=1e-5)
    assert teacher.tags["conversion"] == "softmax-to-sigmoid"


def test_numbers_are_in_the_unit_of_the_labels(load):
    teacher = load(NUMBERS, pd.DataFrame({"score": [7.0, np.nan, 12.0]}))
    answers = teacher.answer(NUMBERS.train, "train").answers
    assert NUMBERS.kind.decisions(answers)[::2] == [7.0, 12.0]
    assert answers.values[0] == pytest.approx(-0.75)
    assert answers.answered_rows.tolist() == [0, 2]
    assert teacher.scale == Scale.logits


def test_what_cannot_be_is_refused_in_one_line(load, tmp_path):
    with pytest.raises(UserError, match=r"teacher\.label: a label with a confidence says which one of several"):
        load(LABELS, pd.DataFrame({"said": ["cold"] * 3}), label="said", confidence=0.9)
    with pytest.raises(UserError, match=r"teacher: answers classes, and the task asks for number"):
        load(NUMBERS, pd.DataFrame({"score": [1.0, 2.0, 3.0]}), outputs=Outputs.classes)
    chat = ChatTeacherConfig(name="c", url="http://127.0.0.1:9", model="m", prompt="{text}")
    with pytest.raises(UserError, match=r"teacher: chooses one of several classes .* of kind regression"):
        load_chat("teacher", chat, NUMBERS, Cache(tmp_path))
    causal = CausalTeacherConfig(name="c", checkpoint="nowhere", prompt="{text}")
    with pytest.raises(UserError, match=r"teacher: chooses one of several classes .* of kind regression"):
        load_causal("teacher", causal, NUMBERS, None)
