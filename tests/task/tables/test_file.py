"""Tables from real files: what is accepted, and the line that a mistake is told with."""

import bz2
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kdexp.arrow import BATCH_ROWS
from kdexp.errors import UserError
from kdexp.task.kinds.labels import class_indices, class_names
from kdexp.task.tables.file import Reading, read_table
from kdexp.task.tables.table import Table, texts_of

COLUMNS = ["text", "label"]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path: Path, header: bool = True):
    columns = COLUMNS if header else ["0", "1"]
    return read_table(path, columns, path.parent / "table.arrow", setting="task.train", reading=Reading(header))


def values_of(table: Table) -> dict[str, list]:
    return {name: list(table.column(name, "task.text")) for name in table.columns}


CSV, TSV = "text,label\ngood,1\nbad,0\n", "text\tlabel\ngood\t1\nbad\t0\n"
JSON = '{"text": "good", "label": "1"}\n{"label": "0", "text": "bad"}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", CSV),
        ("a.CSV", CSV.replace("\n", "\r\n")),
        ("a.csv", b"\xef\xbb\xbf" + CSV.encode()),
        ("a.csv", "label, text\n1,good\n\n0,bad"),
        ("a.tsv", TSV),
        ("a.txt", b"\xef\xbb\xbf" + TSV.replace("\n", "\r\n").encode()),
        ("a.tsv.gz", gzip.compress(TSV.encode(), mtime=0)),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)),
        ("a.jsonl", JSON),
        ("a.ndjson", b"\xef\xbb\xbf" + JSON.replace("\n", "\r\n\r\n").encode()),
        ("a.json", JSON),
    ],
)
def test_every_text_format_gives_the_same_columns(tmp_path, name, content):
    table = read(write(tmp_path, name, content))
    assert values_of(table) == {"text": ["good", "bad"], "label": ["1", "0"]}


def test_parquet_keeps_types_and_reads_only_what_is_asked(tmp_path):
    path = tmp_path / "a.parquet"
    vectors = [[0.0] * 4, [1.0] * 4]
    pq.write_table(pa.table({"text": ["good", "bad"], "label": [1.0, None], "vector": vectors}), path)
    table = read(path)
    assert values_of(table) == {"text": ["good", "bad"], "label": [1.0, None]}
    assert table.names == ["text", "label", "vector"]
    assert table.where(1) == f"{path}, row 2"


def test_csv_fields_hold_commas_line_breaks_and_quotes(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"a, ""b""\nc",x\n"d\r\n",y\nlast,z\n')
    table = read(path)
    assert values_of(table)["text"] == ['a, "b"\nc', "d\r\n", "last"]
    assert list(table.lines) == [2, 4, 6]


def test_tsv_takes_quotes_and_unicode_line_ends_as_text(tmp_path):
    texts = ['"never closed', "a\u2028b\x85c\x0bd\x0ce\x1cf", '""']
    path = write(tmp_path, "a.tsv", "text\tlabel\n" + "".join(f"{text}\tx\n" for text in texts))
    assert values_of(read(path))["text"] == texts


def test_without_a_header_columns_are_numbered(tmp_path):
    table = read(write(tmp_path, "a.tsv", "good\t1\nbad\t0\n"), header=False)
    assert values_of(table) == {"0": ["good", "bad"], "1": ["1", "0"]}
    assert table.where(0).endswith("line 1")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_text_of_a_million_characters_is_read_whole(tmp_path, name):
    text = "word " * 200_000 + "."
    row = json.dumps({"text": text, "label": "x"})
    mark = "," if name == "a.csv" else "\t"
    content = row if name == "a.jsonl" else f"text{mark}label\n{text}{mark}x\n"
    assert list(texts_of(read(write(tmp_path, name, content)), ["text"])[0]) == [text]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.jsonl", "a.parquet"])
def test_many_rows_keep_their_order_and_places(tmp_path, name):
    texts = [f"row {i}, é" for i in range(2 * BATCH_ROWS + 3)]
    labels = [str(i % 3) for i in range(len(texts))]
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"text": texts, "label": labels}), path)
    elif name == "a.jsonl":
        write(
            tmp_path, name, "\n".join(json.dumps({"text": t, "label": y}) for t, y in zip(texts, labels, strict=True))
        )
    elif name == "a.csv":
        write(tmp_path, name, "text,label\n" + "".join(f'"{t}",{y}\n' for t, y in zip(texts, labels, strict=True)))
    else:
        content = "text\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in zip(texts, labels, strict=True))
        write(tmp_path, name, gzip.compress(content.encode()))
    table = read(path)
    assert values_of(table) == {"text": texts, "label": labels}
    first_line = {"a.jsonl": 1, "a.parquet": None}.get(name, 2)
    place = f"row {len(texts)}" if first_line is None else f"line {len(texts) - 1 + first_line}"
    assert table.where(len(texts) - 1) == f"{path}, {place}"


@pytest.mark.parametrize("character", ["é", "漢", "😀"])
def test_what_is_not_utf8_is_found_far_into_a_file(tmp_path, character):
    # Characters of several bytes that the pieces in which a file is read cut in two.
    for shift in range(4):
        good = "text,label\n" + "x" * shift + f"{character * 1000},1\n" * 1500
        path = write(tmp_path, "a.csv", good)
        assert values_of(read(path))["text"][1] == character * 1000
        path = write(tmp_path, "a.csv", good.encode() + b"caf\xe9,2\n")
        with pytest.raises(UserError, match=rf"line 1502 \(byte {len(good.encode()) + 3}\): not UTF-8"):
            read(path)
        path = write(tmp_path, "a.csv", good.encode() + character.encode()[:-1])
        with pytest.raises(UserError, match=rf"line 1502 \(byte {len(good.encode())}\): not UTF-8"):
            read(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv is empty"),
        ("a.tsv", "\n\n", r"a\.tsv is empty"),
        ("a.jsonl", "\n", r"a\.jsonl is empty"),
        ("a.csv", "text,label\n", "has a header but no rows"),
        ("a.csv", "text,label\nx,1\n\na,b,1\n", r"a\.csv, line 4: 3 columns where the first line has 2"),
        ("a.csv", 'text,label\n"x\ny",1\nz\n', r"line 4: 1 columns where the first line has 2"),
        ("a.tsv", "text\tlabel\nx\n", r"line 2: 1 columns"),
        ("a.csv", 'text,label\nx,1\n"never closed,1\ny,2\n', r"line 3: unexpected end of data"),
        ("a.csv", 'text,label\n"x"y,1\n', r"line 2: ',' expected after '\"'"),
        ("a.csv", "text,label,text\nx,1,y\n", "several columns called 'text'"),
        ("a.jsonl", '{"text": "x", "label": 1}\n\n{"text": "y"\n', r"a\.jsonl, line 3: not JSON"),
        ("a.jsonl", "[" * 100_000, r"line 1: not JSON"),
        ("a.json", '["x", 1]\n["y", 0]', r"line 1: a JSON list, not an object"),
        ("a.csv", b"text,label\nx,1\ncaf\xe9,2\n", r"line 3 \(byte 18\): not UTF-8; .*iconv -f cp1252"),
        ("a.tsv", TSV.encode("utf-16"), r"line 1 \(byte 0\): not UTF-8; .*iconv -f utf-16"),
        ("a.csv.gz", gzip.compress(CSV.encode(), mtime=0)[:-12], "cannot read"),
        ("a.csv.bz2", bz2.compress(CSV.encode())[:-12], "cannot read"),
        ("a.parquet", b"PAR1 nonsense", "cannot read .* whole Parquet file"),
        ("a.xlsx", b"", r"unknown kind of file; use one of \.csv, "),
    ],
)
def test_a_broken_file_is_told_with_its_place(tmp_path, name, content, message):
    with pytest.raises(UserError, match=r"^task.train: ") as caught:
        read(write(tmp_path, name, content))
    assert caught.match(message)


def test_an_empty_parquet_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())}), path)
    with pytest.raises(UserError, match="has no rows"):
        read(path)


def test_a_missing_file_lists_what_is_there(tmp_path):
    write(tmp_path, "b.csv", CSV)
    with pytest.raises(UserError, match=r"no file .*a\.csv; .* holds: b\.csv"):
        read(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        read(tmp_path / "nowhere" / "a.csv")
    (tmp_path / "c.csv").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path / "c.csv")


def test_a_missing_column_lists_the_columns(tmp_path):
    table = read_table(write(tmp_path, "a.csv", CSV), ["question"], tmp_path / "table.arrow", setting="task.train")
    with pytest.raises(UserError, match=r"no column 'question' in .*its columns are: text, label"):
        table.column("question", "task.text")
    table = read(write(tmp_path, "b.csv", "text;label\nx;1\n"))
    with pytest.raises(UserError, match="is it separated by ';'"):
        table.column("text", "task.text")
    # A quoted field is what the reader stumbles on first.
    with pytest.raises(UserError, match=r"is it separated by ';'\? write it with commas"):
        read(write(tmp_path, "c.csv", 'text;label\n"x, y";1\n'))


def test_names_of_columns_are_refused_where_there_are_other_names(tmp_path):
    with pytest.raises(UserError, match=r"task.header: false, but the columns of .* have names"):
        read(write(tmp_path, "a.jsonl", JSON), header=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "x"}, {"text": " \t"}, {"text": ""}], r"2 rows have no text .* first is .*line 2"),
        ([{"text": "x"}, {"label": 1}], r"1 rows have no text .* line 2"),
        ([{"text": "x"}, {"text": 12}], r"line 2: column 'text' holds 12, not a text"),
        ([{"text": "x"}, {"text": ["y"]}], r"line 2: column 'text' holds \['y'\], not a text"),
        ([{"text": "x"}, {"text": "\ud83d"}], r"line 2: half of a surrogate pair"),
    ],
)
def test_text_that_is_none_is_refused(tmp_path, rows, message):
    table = read(write(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))))
    with pytest.raises(UserError, match=message):
        texts_of(table, ["text"])


def column_of_labels(folder: Path, labels: list):
    rows = [json.dumps({"text": f"text {i}", "label": label}) for i, label in enumerate(labels)]
    return read(write(folder, "labels.jsonl", "\n".join(rows))).column("label", "task.label")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b", "C"], ["C", "a", "b"]),
        ([10, 9, 2], ["2", "9", "10"]),
        (["10", "9", " 2 "], ["2", "9", "10"]),
        ([1.0, 0.0, 1], ["0", "1"]),
        (["1.0", "0", "-1.00"], ["-1", "0", "1"]),
        ([1.5, 1.0], ["1", "1.5"]),
        ([True, False], ["false", "true"]),
        (["v1.0", "2.0"], ["2", "v1.0"]),
    ],
)
def test_class_names_are_the_labels_as_strings(tmp_path, labels, names):
    column = column_of_labels(tmp_path, labels)
    assert class_names(column, None) == names
    indices = class_indices(column, {name: index for index, name in enumerate(names)})
    assert set(indices) == set(range(len(names)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "every row has the same label 'a'"),
        (["a", None, " ", "b"], r"2 rows have no label, the first is .*line 2"),
        (["a", float("nan")], r"1 rows have no label, the first is .*line 2"),
        (["a", ["b"]], r"line 2: column 'label' holds \['b'\], not one label"),
        ([i / 7 for i in range(40)], "40 different numbers such as .*scores, not classes"),
        ([f"id{i}" for i in range(40)], "40 different values in 40 rows: not classes"),
    ],
)
def test_a_column_that_holds_no_classes_is_refused(tmp_path, labels, message):
    with pytest.raises(UserError, match=message):
        class_names(column_of_labels(tmp_path, labels), None)


def test_given_labels_keep_their_order_and_refuse_others(tmp_path):
    column = column_of_labels(tmp_path, ["pos", "neg", "other"])
    assert class_names(column, ["pos", "neg"]) == ["pos", "neg"]
    with pytest.raises(UserError, match=r"line 3: unknown label 'other'; the classes are: pos, neg"):
        class_indices(column, {"pos": 0, "neg": 1})
    for labels in (["pos"], ["pos", "pos"], []):
        with pytest.raises(UserError, match="name two classes or more"):
            class_names(column, labels)
