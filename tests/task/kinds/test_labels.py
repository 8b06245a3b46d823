"""Labels as people write them: which classes they are, and what is said of them."""

import numpy as np
import pyarrow as pa
import pytest

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.task.config import FileTaskConfig
from kdexp.task.kinds.base import Labels
from kdexp.task.kinds.classes import class_order
from kdexp.task.kinds.labels import class_indices, class_names, label_notices
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import load_task
from kdexp.task.tables.table import Column, Table


def column(values: list, class_names: list[str] | None = None) -> Column:
    named = {"label": class_names} if class_names else {}
    table = Table("a.parquet", ["label"], {"label": pa.chunked_array([values])}, class_names=named)
    return Column("label", table)


def indices(values: list, labels: list[str] | None, names: list[str] | None = None) -> list[int]:
    known = {name: index for index, name in enumerate(class_names(column(values, names), labels))}
    return class_indices(column(values, names), known).tolist()


@pytest.mark.parametrize(
    ("teacher", "task", "order"),
    [
        (["-1", "0", "1"], ["-1", "0", "1"], [0, 1, 2]),
        (["1", "-1"], ["-1", "1"], [1, 0]),
        (["+1", "-1.0"], ["-1", "1"], [1, 0]),
        (["A-", "A", "A+"], ["A", "A+", "A-"], [1, 2, 0]),
        (["yes", "Yes"], ["Yes", "yes"], [1, 0]),
        (["temp -1", "temp 1"], ["temp_1", "temp_-1"], [1, 0]),
        (["LABEL_0", "LABEL_1"], ["0", "1"], [0, 1]),
        (["LABEL_0", "LABEL_1"], ["1.0", "0.0"], [1, 0]),
        (["0", "1"], ["LABEL_1", "LABEL_0"], [1, 0]),
        (["True", "False"], ["false", "true"], [1, 0]),
        (["Very-Negative", "class 1"], ["class-1", "very_negative"], [1, 0]),
    ],
)
def test_classes_are_matched_by_what_their_names_mean(teacher, task, order):
    assert class_order(teacher, task) == order


@pytest.mark.parametrize(
    ("teacher", "task"),
    [
        (["1", "-1"], ["0", "1"]),
        (["LABEL_0", "LABEL_1"], ["negative", "positive"]),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["-1", "0", "1"]),
        (["LABEL_0", "LABEL_1"], ["1", "2"]),
    ],
)
def test_classes_that_are_others_are_refused(teacher, task):
    with pytest.raises(UserError, match="are not the task's"):
        class_order(teacher, task)


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([0, 1, 0], ["0.0", "1.0"], [0, 1, 0]),
        ([0.0, 1.0], ["1", "0"], [1, 0]),
        (["0.5", "1.50"], ["0.50", "1.5"], [0, 1]),
        ([False, True], ["False", "True"], [0, 1]),
        (["TRUE", "False"], ["false", "true"], [1, 0]),
        (["-1", "+1"], ["-1", "1"], [0, 1]),
    ],
)
def test_given_labels_count_by_value(values, labels, expected):
    assert indices(values, labels) == expected


def test_other_spellings_of_given_names_are_still_refused():
    with pytest.raises(UserError, match="unknown label 'Yes'; the classes are: no, yes"):
        indices(["Yes", "no"], ["no", "yes"])


@pytest.mark.parametrize("labels", [None, ["negative", "positive"], ["0", "1"]])
def test_classes_that_a_file_numbers_and_names(labels):
    assert indices([0, 1, 1], labels, ["negative", "positive"]) == [0, 1, 1]
    if labels is None:
        assert class_names(column([1, 0], ["negative", "positive"]), None) == ["negative", "positive"]
        with pytest.raises(UserError, match="1 rows have no label"):
            indices([0, 1, -1], labels, ["negative", "positive"])


@pytest.mark.parametrize(
    "names",
    [
        ["14", "2", "2,14"],
        ["anger", "joy", "joy anger", "sadness"],
        ["['a', 'b']", "['a']", "['b']"],
        ["0 1 0", "1 0 0", "0 0 1"],
        ["a|b", "b", "a|c", "c", "b|c"],
    ],
)
def test_several_labels_per_row_are_noticed(names):
    (notice,) = label_notices(names)
    assert "look like several in one row" in notice


@pytest.mark.parametrize(
    "names",
    [
        ["good", "very good", "bad", "very bad"],
        ["world, politics", "sports", "science, nature"],
        ["n/a", "yes", "no"],
        ["A", "A+", "B", "B+"],
        ["card arrival", "card linking", "lost card"],
        ["-1", "0", "1"],
    ],
)
def test_ordinary_names_are_not_suspected(names):
    assert label_notices(names) == []


@pytest.mark.parametrize("names", [["Yes", "no", "yes"], ["spam ham", "spamham"], ["caf\u00e9", "cafe\u0301"]])
def test_classes_that_differ_by_case_or_blanks_are_noticed(names):
    (notice,) = label_notices(names)
    assert "differ only by case or blanks" in notice


def test_every_run_says_which_classes_there_are(tmp_path):
    kind = SingleLabel([f"class {i}" for i in range(9)])
    (line,) = kind.announcements(Labels(np.repeat(np.arange(9), np.arange(1, 10))))
    assert line == (
        "classes: 9, with rows in train: class 8: 9, class 7: 8, class 6: 7, class 5: 6, class 4: 5, class 3: 4, "
        "... the rarest of 3 more class 0: 1"
    )
    assert SingleLabel(["no", "yes"]).announcements(Labels(np.array([1, 1, 0]))) == [
        "classes: 2, with rows in train: yes: 2, no: 1"
    ]
    rows = [f"text {i},{'2,14' if i % 5 == 0 else 2 if i % 2 else 14}" for i in range(60)]
    (tmp_path / "a.tsv").write_text("\n".join(["text\tlabel", *(row.replace(",", "\t", 1) for row in rows)]))
    task = load_task(
        FileTaskConfig(name="file", train=str(tmp_path / "a.tsv"), text="text", label="label"),
        Cache(tmp_path / "cache"),
    )
    said = "\n".join(task.announcements)
    assert "classes: 3, with rows in train: 2: " in said
    assert "labels such as '2,14' look like several in one row" in said
