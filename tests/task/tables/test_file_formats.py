"""Files as other programs leave them."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from kdexp.arrow import BATCH_ROWS
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.task.config import FileTaskConfig, PublicTaskConfig, Quoting
from kdexp.task.load import Task, load_task
from kdexp.task.tables.file import Reading, read_table

TEXTS = ['he said "x"', "plain", 'a "quoted" word, and more', "two\nlines", "a\ttab"]
ROWS = [{"text": text, "label": index % 2} for index, text in enumerate(TEXTS)]


def read(path: Path, **reading):
    return read_table(
        path, ["text", "label"], path.parent / "table.arrow", setting="task.train", reading=Reading(**reading)
    )


def texts(path: Path, **reading) -> list[str]:
    return list(read(path, **reading).column("text", "task.text"))


def task_of(train: Path, **settings) -> Task:
    config = FileTaskConfig(name="file", train=str(train), **{"text": "text", "label": "label"} | settings)
    return load_task(config, Cache(train.parent / "cache"))


def numbered(count: int = 40) -> list[dict]:
    return [{"text": f"text {i}", "label": i % 2} for i in range(count)]


# Quotes


@pytest.mark.parametrize("quoting", [0, 1, 2])  # minimal, all, non-numeric
@pytest.mark.parametrize("texts_given", [TEXTS, ['he said "x"', "plain"], ["two\nlines", "plain"]])
def test_a_tsv_that_pandas_wrote_is_read_back(tmp_path, quoting, texts_given):
    path = tmp_path / "a.tsv"
    frame = pd.DataFrame({"text": texts_given, "label": range(len(texts_given))})
    frame.to_csv(path, sep="\t", index=False, quoting=quoting)
    table = read(path)
    assert list(table.column("text", "task.text")) == texts_given
    assert "its fields are quoted" in table.notes[0]


def test_a_tsv_without_quoting_keeps_its_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    plain = ['"Good"', 'he said "x"', '"never closed', '""']
    path.write_text("text\tlabel\n" + "".join(f"{text}\t1\n" for text in plain))
    assert texts(path) == plain
    assert not read(path).notes
    path.write_text('text\tlabel\n"Good"\t1\n')
    assert texts(path) == ['"Good"']
    assert texts(path, quoting=Quoting.quoted) == ["Good"]


def test_quoting_can_be_said(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"he said ""x"""\t1\n')
    assert texts(path, quoting=Quoting.plain) == ['"he said ""x"""']
    other = tmp_path / "a.csv"
    other.write_text('text,label\na "loose" quote,1\n"open,2\n')
    assert texts(other, quoting=Quoting.plain) == ['a "loose" quote', '"open']


# Encodings and compression


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "gb18030"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_text_in_its_own_encoding(tmp_path, encoding, name):
    text = "漢字" if encoding == "gb18030" else "café"
    content = {"a.csv": f"text,label\n{text},1\n", "a.tsv": f"text\tlabel\n{text}\t1\n"}.get(
        name, json.dumps({"text": text, "label": 1}, ensure_ascii=False) + "\n"
    )
    (tmp_path / name).write_bytes(content.encode(encoding))
    assert texts(tmp_path / name, encoding=encoding) == [text]
    with pytest.raises(UserError, match=r"not UTF-8; say what it is, for example task.encoding="):
        read(tmp_path / name)


@pytest.mark.parametrize("encoding", ["klingon", "rot13", "base64"])
def test_an_encoding_that_is_none_is_refused(encoding):
    with pytest.raises(UserError, match=rf"encoding: got {encoding}; expected utf-8, latin-1"):
        FileTaskConfig(name="file", train="a.csv", text="text", label="label", encoding=encoding)


def written(name: str) -> bytes:
    frame = pd.DataFrame({"text": ["good", "bad"], "label": [1, 0]})
    buffer = io.BytesIO()
    match name:
        case "csv":
            frame.to_csv(buffer, index=False)
        case "tsv":
            frame.to_csv(buffer, index=False, sep="\t")
        case "parquet":
            return bytes(frame.to_parquet())
        case _:
            frame.to_json(buffer, orient="records", lines=name == "jsonl")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["csv", "tsv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize(("suffix", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)])
def test_every_format_may_be_compressed_whatever_its_name_says(tmp_path, name, suffix, pack):
    for path, content in (
        (tmp_path / f"a.{name}{suffix}", pack(written(name))),
        (tmp_path / f"b.{name}", pack(written(name))),
        (tmp_path / f"c.{name}{suffix}", written(name)),  # unpacked on the way
    ):
        path.write_bytes(content)
        assert texts(path) == ["good", "bad"]


# Columns


@pytest.mark.parametrize(
    "header", ["text,label,id,id", "text,label,,", ",text,label,", "id,text,label,id", "Unnamed: 0,text,label,text2"]
)
def test_columns_that_are_not_asked_for_may_be_called_as_they_like(tmp_path, header):
    names = header.split(",")
    row = ",".join({"text": "good", "label": "1"}.get(name, "x") for name in names)
    (tmp_path / "a.csv").write_text(f"{header}\n{row}\n")
    assert texts(tmp_path / "a.csv") == ["good"]


def test_columns_that_are_asked_for_have_to_be_one(tmp_path):
    (tmp_path / "a.csv").write_text("text,label,label\nx,1,2\n")
    with pytest.raises(UserError, match="several columns called 'label'"):
        read(tmp_path / "a.csv")
    import pyarrow.parquet as pq

    table = pa.table([["x"], [1], [2], [3]], names=["text", "label", "id", "id"])
    pq.write_table(table, tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == ["x"]


# JSON


@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.0", "data": ROWS, "labels": [{"id": 0}]},
        {"rows": ROWS},
        {"text": TEXTS, "label": [0, 1, 0, 1, 0]},
        json.loads(pd.DataFrame(ROWS).to_json()),
        json.loads(pd.DataFrame(ROWS).to_json(orient="table")),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_document_holds_rows_in_any_form(tmp_path, document, indent):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(document, indent=indent))
    table = read(path)
    assert list(table.column("text", "task.text")) == TEXTS
    assert [int(value) for value in table.column("label", "task.label")] == [0, 1, 0, 1, 0]
    assert table.where(1) == f"{path}, row 2"


def test_a_single_line_of_json_is_a_row(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": "x", "label": 1, "spans": [{"start": 0}]}))
    assert texts(path) == ["x"]


def test_a_list_of_many_rows_is_written_in_batches(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(numbered(2 * BATCH_ROWS + 3)))
    assert texts(path)[-1] == f"text {2 * BATCH_ROWS + 2}"


# What `datasets` saved


FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=["ham", "spam"]), "idx": Value("int32")})


def labelled(count: int, prefix: str = "text") -> Dataset:
    rows = {"text": [f"{prefix} {i}" for i in range(count)], "label": [i % 2 for i in range(count)]}
    return Dataset.from_dict(rows | {"idx": list(range(count))}, features=FEATURES)


def test_a_saved_dataset_is_read_with_its_class_names(tmp_path):
    labelled(40).select(range(39, -1, -1)).save_to_disk(str(tmp_path / "saved"))
    assert texts(tmp_path / "saved")[:2] == ["text 39", "text 38"]
    task = task_of(tmp_path / "saved")
    assert task.label_names == ["ham", "spam"]
    labelled(40, "other").save_to_disk(str(tmp_path / "other"))
    assert task_of(tmp_path / "other").train != task.train


def test_each_split_of_saved_splits_is_found_by_its_setting(tmp_path):
    folder = tmp_path / "saved"
    DatasetDict({name: labelled(20, name) for name in ("train", "validation", "test")}).save_to_disk(str(folder))
    task = task_of(folder, validation=str(folder), test=str(folder / "test"))
    assert [len(task.train), len(task.validation), len(task.test)] == [20, 20, 20]
    assert task.validation.head(1) == ["validation 0"]
    assert any("each split is asked for by its setting (test, train, validation)" in note for note in task.notes)
    with pytest.raises(UserError, match=r"has no split transfer; .* one of its splits: test, train, validation"):
        task_of(folder, transfer=str(folder))
    public = PublicTaskConfig(
        name="mine", dataset="x/y", path=str(folder), text="text", label="label", labels=["ham", "spam"],
        validation_size=5,
    )  # fmt: skip
    assert load_task(public, Cache(tmp_path / "cache")).test.head(1) == ["test 0"]


@pytest.mark.parametrize("test_labels", [["spam", "ham"], [1, 0]])
def test_parquet_names_its_classes(tmp_path, test_labels):
    labelled(40).to_parquet(str(tmp_path / "a.parquet"))
    pd.DataFrame({"text": ["x", "y"], "label": test_labels}).to_csv(tmp_path / "test.csv", index=False)
    task = task_of(tmp_path / "a.parquet", test=str(tmp_path / "test.csv"))
    assert task.label_names == ["ham", "spam"]
    assert task.test.labels.tolist() == [1, 0]
    assert task_of(tmp_path / "a.parquet", labels=["spam", "ham"]).label_names == ["spam", "ham"]
    assert task_of(tmp_path / "a.parquet", labels=["0", "1"]).label_names == ["0", "1"]


def test_a_folder_that_was_not_saved_says_what_to_name(tmp_path):
    with pytest.raises(UserError, match=r"is a folder; name a file in it; .* is empty"):
        read(tmp_path)


def test_a_folder_that_was_cloned_from_the_hub_is_read_by_its_splits(tmp_path):
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").touch()
    frame = pd.DataFrame(numbered())
    frame.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    frame[:4].to_csv(folder / "data" / "test.csv", index=False)
    assert len(task_of(folder).train) == 28
    assert len(task_of(folder, test=str(folder)).test) == 4
    with pytest.raises(UserError, match=r"^task\.validation: .* without a file of this split, such as dev"):
        task_of(folder, validation=str(folder))
    frame.to_parquet(folder / "data" / "train-00001-of-00002.parquet")
    with pytest.raises(UserError, match=r"has 2 files of this split: data/train-0.*save_to_disk\('joined'\)"):
        task_of(folder)


def test_an_archive_of_one_file_is_read_and_another_is_told(tmp_path):
    frame = pd.DataFrame(numbered())
    frame.to_csv(tmp_path / "a.csv.zip", index=False)
    assert len(task_of(tmp_path / "a.csv.zip").train) == 28
    frame.to_parquet(tmp_path / "a.parquet")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(tmp_path / "a.parquet", "folder/a.parquet")
        archive.writestr("__MACOSX/a.parquet", "")
    assert len(task_of(tmp_path / "b.zip").train) == 28
    with zipfile.ZipFile(tmp_path / "b.zip", "a") as archive:
        archive.writestr("c.csv", "")
    (tmp_path / "none.zip").write_bytes(b"PK\x03\x04 no archive")
    for name in ("b.zip", "none.zip"):
        with pytest.raises(UserError, match=r"is no archive of one file; unpack it"):
            task_of(tmp_path / name)


def test_files_of_the_same_texts_leave_nothing_to_train_on(tmp_path):
    pd.DataFrame(numbered()).to_csv(tmp_path / "a.csv", index=False)
    for name in ("test", "validation"):
        with pytest.raises(UserError, match=rf"each of its \d+ texts is also in {name}, so that none is left"):
            task_of(tmp_path / "a.csv", **{name: str(tmp_path / "a.csv")})


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    pd.DataFrame(numbered()).to_csv(tmp_path / "a.csv", index=False)
    config = FileTaskConfig(name="file", train="~/a.csv", text="text", label="label")
    assert len(load_task(config, Cache(tmp_path / "cache")).train) == 28


def test_validation_texts_that_are_in_test_are_noticed(tmp_path):
    pd.DataFrame(numbered()).to_csv(tmp_path / "a.csv", index=False)
    held = pd.DataFrame([{"text": f"held {i}", "label": i % 2} for i in range(8)])
    held.to_csv(tmp_path / "test.csv", index=False)
    pd.concat([held[:3], pd.DataFrame(numbered(2)).assign(text=["v 1", "v 2"])]).to_csv(
        tmp_path / "validation.csv", index=False
    )
    validation, test = str(tmp_path / "validation.csv"), str(tmp_path / "test.csv")
    expected = "validation: the texts of {} of its {} rows are also in test"
    notes = task_of(tmp_path / "a.csv", validation=validation, test=test).notes
    assert any(note.startswith(expected.format(3, 5)) for note in notes)
    notes = task_of(tmp_path / "a.csv", validation=test, test=test).notes
    assert any(note.startswith(expected.format(8, 8)) for note in notes)
    assert not any("are also in test" in note for note in task_of(tmp_path / "a.csv", test=test).notes)
