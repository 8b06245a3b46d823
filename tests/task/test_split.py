"""Splits and their rows in Arrow: what is chosen, kept and recognised, however it is stored."""

import pickle
from random import Random

import numpy as np
import pyarrow as pa
import pytest
import torch

from kdexp.arrow import BATCH_ROWS, Ragged, Rows, map_table, write_table
from kdexp.fingerprint import texts_fingerprint
from kdexp.task import arrange
from kdexp.task.kinds.base import Answers
from kdexp.task.split import Split, write_split

FIRST = [f"text {i}" for i in range(2 * BATCH_ROWS + 7)]
SECOND = [f"other {i % 5}" for i in range(len(FIRST))]
LABELS = np.arange(len(FIRST)) % 3


def batches(texts, size=BATCH_ROWS):
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def test_a_split_reads_back_what_was_written(tmp_path):
    split = write_split(tmp_path / "a.arrow", [([batches(FIRST), batches(SECOND)], LABELS)])
    assert (list(split.first), list(split.second)) == (FIRST, SECOND)
    assert list(split.texts) == FIRST + SECOND
    assert len(split.texts) == 2 * len(split) == 2 * len(FIRST)
    assert split.labels.dtype == np.int64
    np.testing.assert_array_equal(split.labels, LABELS)
    assert split.head(2) == [("text 0", "other 0"), ("text 1", "other 1")]
    sizes = [(len(first), len(second)) for first, second in split.text_batches(1500)]
    assert sizes == [(1500, 1500), (507, 507)]
    single = Split.from_lists(["a", "b"])
    assert (single.second, single.labels, single.is_pair, single.is_labelled) == (None, None, False, False)
    assert single.head(5) == ["a", "b"]
    assert list(single.text_batches()) == [(["a", "b"], None)]


def test_digests_are_of_the_content_and_not_of_how_it_is_stored(tmp_path):
    stored = write_split(tmp_path / "a.arrow", [([batches(FIRST, 300), batches(SECOND, 300)], LABELS)])
    shards = [([[FIRST[:5]], [SECOND[:5]]], LABELS[:5]), ([[FIRST[5:]], [SECOND[5:]]], LABELS[5:])]
    joined = write_split(tmp_path / "b.arrow", shards)
    in_memory = Split.from_lists(FIRST, SECOND, LABELS.tolist())
    assert stored == joined == in_memory
    assert len({stored, joined, in_memory}) == 1
    assert stored.text_digest == texts_fingerprint(FIRST, SECOND)
    assert Split.from_lists(FIRST, SECOND).text_digest == stored.text_digest
    others = [
        Split.from_lists(FIRST, SECOND),
        Split.from_lists(FIRST, SECOND, LABELS[::-1]),
        Split.from_lists(FIRST, SECOND, LABELS.astype(float)),
        Split.from_lists(SECOND, FIRST, LABELS),
        Split.from_lists(FIRST, labels=LABELS),
    ]
    assert len({split.digest for split in [stored, *others]}) == 6


def test_labels_may_be_lists(tmp_path):
    labels = [[i] * (i % 4) for i in range(len(FIRST))]
    split = write_split(tmp_path / "a.arrow", [([batches(FIRST)], labels)])
    assert [row.tolist() for row in split.labels] == labels
    assert split.labels.flat.tolist() == [label for row in labels for label in row]
    assert split.labels.lengths.tolist() == [len(row) for row in labels]
    assert split == Split.from_lists(FIRST, labels=labels)
    assert split != Split.from_lists(FIRST, labels=[*labels[:-2], labels[-2] + labels[-1], []])


def test_answers_of_several_units_are_views_row_by_row():
    values, lengths = torch.arange(12.0).view(6, 2), np.array([2, 0, 3, 1])
    rows = Answers(values, lengths).by_row()
    assert len(rows) == 4
    for row, expected in zip(rows, values.split(lengths.tolist()), strict=True):
        assert torch.equal(row, expected)
        assert row.untyped_storage().data_ptr() == values.untyped_storage().data_ptr()
    assert Answers(values).by_row() is values


def test_selected_rows_lie_together_in_a_file_of_their_own(tmp_path):
    split = write_split(tmp_path / "a.arrow", [([batches(FIRST, 10)], LABELS)])
    rows = np.arange(1, len(split), 2)
    split.write(tmp_path / "b.arrow", rows)
    half = Split.from_file(tmp_path / "b.arrow")
    assert half == Split.from_lists(FIRST[1::2], labels=LABELS[1::2])
    assert half.data.data.column("text").num_chunks == 2
    split.write(tmp_path / "c.arrow", np.arange(0))
    none = Split.from_file(tmp_path / "c.arrow")
    assert (len(none), list(none.first), none.labels.tolist()) == (0, [], [])


def test_text_keys_are_equal_for_the_same_text_or_pair_alone():
    keys = Split.from_lists(["a", " a\n", "b", "a"], ["x", "x ", "x", "xx"]).text_keys
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    # What separates the texts of a pair may stand in a text.
    tricky = Split.from_lists(["a\0b", "a", "a\0"], ["c", "b\0c", "b\0c"]).text_keys
    assert len(set(tricky)) == 3


def stratified_order(labels, stream):
    """As it was written first, with lists."""
    random = Random(stream)
    rows_of: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        rows_of.setdefault(label, []).append(row)
    places = []
    for label in sorted(rows_of):
        rows = rows_of[label]
        random.shuffle(rows)
        places += [((rank + 0.5) / len(rows), label, row) for rank, row in enumerate(rows)]
    return [row for *_, row in sorted(places)]


@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_the_order_of_rows_stays_what_it_always_was(num_classes):
    labels = np.random.default_rng(num_classes).integers(0, num_classes, 500)
    for stream in ("test/0", "train/3"):
        assert arrange._stratified_order(labels, stream).tolist() == stratified_order(labels.tolist(), stream)


def ragged(folder, lists, size):
    schema = pa.schema([("ids", pa.list_(pa.int32()))])
    records = (pa.record_batch([pa.array(part, schema.field(0).type)], schema=schema) for part in batches(lists, size))
    write_table(folder / f"{size}.arrow", schema, records)
    return Ragged(map_table(folder / f"{size}.arrow").column("ids"))


def test_rows_are_plain_and_may_come_from_several_parts(tmp_path):
    ids = [list(range(i % 6)) for i in range(25)]
    logits = np.random.default_rng(0).standard_normal((25, 2)).astype(np.float32)
    columns = {"input_ids": ragged(tmp_path, ids, 4), "labels": np.arange(25), "teacher_logits": torch.tensor(logits)}
    more = {"input_ids": ragged(tmp_path, ids[:3], 2), "labels": np.full(3, -100), "teacher_logits": torch.zeros(3, 2)}
    rows = Rows(columns, more)
    assert len(rows) == 28
    assert rows.lengths.tolist() == [len(row) for row in ids + ids[:3]]
    asked = [27, 3, 25, 24, 3]
    for row, number in zip(rows.__getitems__(asked), asked, strict=True):
        assert row["input_ids"] == ids[number if number < 25 else number - 25]
        assert row["labels"] == (number if number < 25 else -100)
        assert type(row["labels"]) is int
        assert {type(token) for token in row["input_ids"]} <= {int}
        np.testing.assert_array_equal(row["teacher_logits"], logits[number] if number < 25 else [0, 0])
    assert [row["input_ids"] for row in rows] == ids + ids[:3]
    copy = pickle.loads(pickle.dumps(rows))
    assert copy[26]["input_ids"] == ids[1]
    with pytest.raises(ValueError, match="different lengths"):
        Rows(columns | {"labels": np.arange(3)})
