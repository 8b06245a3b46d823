"""Tasks from real files: which rows end up in which split, and what the log says of it."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import perf_counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unmeasured import measured_environment

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.task import load
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, PublicTaskConfig, TaskConfig
from kdexp.task.load import Task
from kdexp.task.split import Split


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    """Each test has a cache of its own."""
    monkeypatch.setenv("KDEXP_CACHE_DIR", str(tmp_path / "cache"))


def load_task(config: TaskConfig) -> Task:
    return load.load_task(config, Cache(Path(os.environ["KDEXP_CACHE_DIR"])))


def rows_of(split: Split) -> list[tuple]:
    seconds = split.second or [None] * len(split)
    labels = [None] * len(split) if split.labels is None else split.labels.tolist()
    return list(zip(split.first, seconds, labels, strict=True))


def write_csv(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    return str(path)


def numbered(prefix: str, count: int) -> list[tuple[str, str]]:
    """Three quarters of class a, a quarter of class b."""
    return [(f"{prefix} {i}", "b" if i % 4 == 0 else "a") for i in range(count)]


def file_task(train: str, **settings):
    return load_task(FileTaskConfig(name="file", train=train, **{"text": "text", "label": "label"} | settings))


@pytest.mark.parametrize(("name", "pairs", "num_classes"), [("reviews", False, 5), ("inference", True, 3)])
def test_embedded_tasks_have_the_sizes_asked_for(name, pairs, num_classes):
    sizes = {"train_size": 60, "validation_size": 20, "test_size": 30, "transfer_size": 40}
    task = load_task(EmbeddedTaskConfig(name=name, **sizes, label_noise=0.0, seed=0))
    assert [len(split) for split in (task.train, task.validation, task.test, task.transfer)] == [
        60,
        20,
        30,
        40,
    ]
    assert (task.train.second is not None) == pairs
    assert set(task.train.labels) == set(range(num_classes)) == set(range(len(task.label_names)))
    assert task.transfer.labels is None
    no_transfer = EmbeddedTaskConfig(name=name, **sizes | {"transfer_size": 0}, label_noise=0.0, seed=0)
    assert load_task(no_transfer).transfer is None


def test_an_unknown_embedded_task_is_refused():
    sizes = {"train_size": 10, "validation_size": 10, "test_size": 10, "transfer_size": 0}
    config = EmbeddedTaskConfig(name="poems", **sizes, label_noise=0.0)
    with pytest.raises(UserError, match="no embedded task is called 'poems'; use reviews or inference"):
        load_task(config)


def test_own_files_are_taken_as_they_are(tmp_path):
    task = file_task(
        write_csv(tmp_path / "a.csv", numbered("train", 8)),
        validation=write_csv(tmp_path / "b.csv", numbered("validation", 4)),
        test=write_csv(tmp_path / "c.csv", numbered("test", 5)),
        transfer=write_csv(tmp_path / "d.csv", [*numbered("more", 3), ("test 1", "")]),
    )
    assert task.label_names == ["a", "b"]
    assert rows_of(task.train)[:2] == [("train 0", None, 1), ("train 1", None, 0)]
    assert [len(task.train), len(task.validation), len(task.test)] == [8, 4, 5]
    assert task.transfer == Split.from_lists(["more 0", "more 1", "more 2"])
    assert task.tags == {"kdexp.validation_split": "own file", "kdexp.test_split": "own file"}


def test_missing_splits_are_held_out_in_proportion(tmp_path):
    train = write_csv(tmp_path / "a.csv", numbered("row", 400))
    task = file_task(train)
    assert [len(task.train), len(task.validation), len(task.test)] == [280, 40, 80]
    assert Counter(task.validation.labels.tolist()) == {0: 30, 1: 10}
    assert Counter(task.test.labels.tolist()) == {0: 60, 1: 20}
    texts = [*task.train.first, *task.validation.first, *task.test.first]
    assert sorted(texts) == sorted(text for text, _ in numbered("row", 400))
    assert task.tags["kdexp.validation_split"] == task.tags["kdexp.test_split"] == "held out of train"
    assert "test: 80 rows, held out of train (stratified, seed 0)" in task.notes
    assert file_task(train) == task
    assert file_task(train, seed=1).test != task.test


def test_files_are_read_once_for_their_content_and_settings(tmp_path):
    def num_entries() -> int:
        return len([path for path in (tmp_path / "cache" / "tasks").iterdir() if path.is_dir()])

    train = write_csv(tmp_path / "a.csv", numbered("row", 40))
    task = file_task(train)
    (tmp_path / "moved").mkdir()
    assert file_task(write_csv(tmp_path / "moved" / "a.csv", numbered("row", 40))) == task
    assert num_entries() == 1
    assert file_task(train, seed=1) != task
    assert file_task(write_csv(tmp_path / "a.csv", numbered("line", 40))) != task
    assert num_entries() == 3
    with pytest.raises(UserError, match="no column 'kind'"):
        file_task(train, label="kind")
    left = [path.name for path in (tmp_path / "cache" / "tasks").rglob("*") if "arrow" in path.name]
    assert sorted(left) == sorted(3 * ["train.arrow", "validation.arrow", "test.arrow"])  # and nothing half made


def test_a_smaller_train_size_keeps_the_other_rows(tmp_path):
    train = write_csv(tmp_path / "a.csv", numbered("row", 400))
    large, small = file_task(train, train_size=200), file_task(train, train_size=40)
    assert (large.validation, large.test) == (small.validation, small.test)
    assert set(small.train.first) < set(large.train.first)
    assert Counter(small.train.labels.tolist()) == {0: 30, 1: 10}


def test_sizes_cut_own_files_too(tmp_path):
    own = {name: write_csv(tmp_path / f"{name}.csv", numbered(name, 40)) for name in ("validation", "test")}
    train = write_csv(tmp_path / "a.csv", numbered("row", 40))
    task = file_task(train, **own, train_size=20, validation_size=8, test_size=12)
    assert [len(task.train), len(task.validation), len(task.test)] == [20, 8, 12]


def test_texts_of_test_and_validation_leave_train(tmp_path):
    task = file_task(
        write_csv(tmp_path / "a.csv", [*numbered("row", 8), ("seen in test", "a"), ("seen in validation", "b")]),
        validation=write_csv(tmp_path / "b.csv", [("seen in validation ", "b"), ("x", "a")]),
        test=write_csv(tmp_path / "c.csv", [("seen in test", "b"), ("y", "a")]),
    )
    assert list(task.train.first) == [text for text, _ in numbered("row", 8)]
    expected = "train: 2 rows dropped, because their text is also in test (1) or validation (1)"
    assert expected in task.notes


def test_held_out_rows_share_no_text_with_train(tmp_path):
    rows = [(f"text {i % 200}", "ab"[i % 2]) for i in range(300)]
    task = file_task(write_csv(tmp_path / "a.csv", rows))
    held_out = {*task.validation.first, *task.test.first}
    assert len(task.train) > 0
    assert held_out.isdisjoint(task.train.first)
    assert set(task.validation.first).isdisjoint(task.test.first)


def test_pairs_count_as_the_same_text_only_when_both_are(tmp_path):
    lines = [json.dumps({"premise": "p", "hypothesis": f"h {i}", "kind": i % 2}) for i in range(4)]
    for name in ("train", "validation", "test"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines if name == "train" else lines[3:]))
    task = load_task(
        FileTaskConfig(
            name="file",
            train=str(tmp_path / "train.jsonl"),
            validation=str(tmp_path / "validation.jsonl"),
            test=str(tmp_path / "test.jsonl"),
            text=["premise", "hypothesis"],
            label="kind",
        )
    )
    assert rows_of(task.train) == [("p", "h 0", 0), ("p", "h 1", 1), ("p", "h 2", 0)]


def test_given_labels_fix_the_order_of_classes(tmp_path):
    train = write_csv(tmp_path / "a.csv", numbered("row", 40))
    assert file_task(train, labels=["b", "a"]).label_names == ["b", "a"]
    with pytest.raises(UserError, match=r"line 3: unknown label 'a'; the classes are: b, c"):
        file_task(train, labels=["b", "c"])


def test_files_without_header_take_column_numbers(tmp_path):
    (tmp_path / "a.tsv").write_text("".join(f"{label}\tx\t{text}\n" for text, label in numbered("row", 40)))
    task = file_task(str(tmp_path / "a.tsv"), text=2, label="0", header=False)
    assert task.label_names == ["a", "b"]
    assert task.train.head(1)[0].startswith("row ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "label"}, "task.text: columns are named twice"),
        ({"text": ["text", "text"]}, "task.text: columns are named twice"),
        ({"text": ["a", "b", "c"]}, "task.text: 3 columns"),
        ({"text": []}, "task.text: 0 columns"),
        ({"text": "question"}, "task.text: no column 'question' in .*its columns are: text, label"),
        ({"label": "kind"}, "task.label: no column 'kind'"),
        ({"train_size": 29}, r"task.train_size: 29 rows asked, but train has 28"),
        ({"validation_size": 40}, r"task.validation_size: 40 rows asked, but train has 32"),
        ({"test_size": 40}, r"task.test_size: 40 rows asked, but train has 40"),
        ({"train_size": 1}, "task.train_size: of the 1 rows left to train on, all have the label 'a'"),
    ],
)
def test_settings_that_do_not_fit_the_file_are_refused(tmp_path, settings, message):
    train = write_csv(tmp_path / "a.csv", numbered("row", 40))
    with pytest.raises(UserError, match=message):
        file_task(train, **settings)


def test_labels_unknown_to_train_are_refused(tmp_path):
    train = write_csv(tmp_path / "a.csv", numbered("row", 40))
    test = write_csv(tmp_path / "b.csv", [("x", "a"), ("y", "c")])
    with pytest.raises(UserError, match=r"b\.csv, line 3: unknown label 'c'; the classes are: a, b"):
        file_task(train, test=test)
    with pytest.raises(UserError, match=r"task.test: no file .*nothing\.csv"):
        file_task(train, test=str(tmp_path / "nothing.csv"))


def test_a_train_file_inside_the_test_file_leaves_nothing(tmp_path):
    train = write_csv(tmp_path / "a.csv", numbered("row", 40))
    with pytest.raises(UserError, match="each of its 40 texts is also in test, so that none is left to train on"):
        file_task(train, validation=train, test=train)


def sst2(path: Path | None, **settings) -> PublicTaskConfig:
    return PublicTaskConfig(
        name="sst2",
        dataset="nyu-mll/glue",
        subset="sst2",
        path=None if path is None else str(path),
        text="sentence",
        label="label",
        labels=["negative", "positive"],
        **{"validation_size": 10} | settings,
    )


def write_glue(folder: Path) -> None:
    rows = [(f"phrase {i} ", i % 2) for i in range(100)]
    (folder / "train.tsv").write_text("sentence\tlabel\n" + "".join(f"{t}\t{y}\n" for t, y in rows))
    (folder / "dev.tsv").write_text("sentence\tlabel\nphrase 7\t1\nother\t0\n")
    (folder / "test.tsv").write_text("index\tsentence\n0\thidden\n")


def test_hidden_test_labels_make_the_dev_set_the_test_set(tmp_path):
    write_glue(tmp_path)
    task = load_task(sst2(tmp_path))
    assert task.label_names == ["negative", "positive"]
    assert rows_of(task.test) == [("phrase 7", None, 1), ("other", None, 0)]
    assert [len(task.train), len(task.validation)] == [89, 10]
    assert "phrase 7 " not in {*task.train.first, *task.validation.first}
    expected = {"kdexp.validation_split": "held out of train", "kdexp.test_split": "public dev set"}
    assert task.tags == expected
    assert "labels of the public test set are hidden" in task.notes[0]
    small = load_task(sst2(tmp_path, train_size=20))
    assert (small.validation, len(small.train)) == (task.validation, 20)


def test_the_layout_without_header_has_a_labelled_test_set(tmp_path):
    for name, count in (("train", 20), ("dev", 4), ("test", 6)):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{name} {i}\t{i % 2}\n" for i in range(count)))
    task = load_task(sst2(tmp_path))
    assert [len(task.train), len(task.validation), len(task.test)] == [20, 4, 6]
    assert rows_of(task.train)[0] == ("train 0", None, 0)
    assert task.notes[0].startswith("task.validation_size is not used")
    expected = {"kdexp.validation_split": "public dev set", "kdexp.test_split": "public test set"}
    assert task.tags == expected


@pytest.mark.parametrize("place", ["data", "sst2", "."])
def test_the_hub_layout_is_read_shard_by_shard(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    write_hub_files(folder)
    task = load_task(sst2(tmp_path))
    assert [len(task.train), len(task.validation), len(task.test)] == [50, 10, 4]
    assert task.tags["kdexp.test_split"] == "public dev set"
    (folder / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(UserError, match="has 1 files for the split train, expected 2"):
        load_task(sst2(tmp_path))


def write_hub_files(folder: Path) -> None:
    for name, prefix, labels in (
        ("train-00000-of-00002", "first", [0, 1] * 15),
        ("train-00001-of-00002", "second", [0, 1] * 15),
        ("validation-00000-of-00001", "dev", [0, 1, 0, 1]),
        ("test-00000-of-00001", "test", [-1, -1]),
    ):
        sentences = [f"{prefix} {i}" for i in range(len(labels))]
        table = pa.table({"sentence": sentences, "label": labels, "idx": range(len(labels))})
        pq.write_table(table, folder / f"{name}.parquet")


def test_class_names_and_csv_files_do_as_well(tmp_path):
    (tmp_path / "train.csv").write_text("sentence,label\n" + "".join(f"t {i},positive\nu {i},0\n" for i in range(20)))
    (tmp_path / "validation.csv").write_text("sentence,label\nx,negative\n")
    task = load_task(sst2(tmp_path))
    assert task.test.labels.tolist() == [0]
    assert Counter(task.validation.labels.tolist()) == {0: 5, 1: 5}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dev.tsv", None, r"no file for the split validation .* holds: test\.tsv, train\.tsv"),
        ("train.csv", "sentence,label\nx,1\n", r"has 2 files for the split train.*train\.csv, train\.tsv"),
        ("train.tsv", "sentence\tlabel\nx\t2\n", r"train\.tsv, line 2: unknown label '2'"),
        ("train.tsv", "text\tlabel\nx\t1\n", r"no column 'sentence' .* its columns are: text, label"),
        ("train.tsv", "sentence\nx\n", "the split train of sst2 has no labels"),
        ("dev.tsv", "sentence\tlabel\nx\t-1\n", "the split validation of sst2 has no labels"),
    ],
)
def test_a_folder_that_lacks_something_is_told(tmp_path, name, content, message):
    write_glue(tmp_path)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        load_task(sst2(tmp_path))


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"task.path: no folder .*nowhere; name the folder that holds"):
        load_task(sst2(tmp_path / "nowhere"))


# The hub client reads its address and its cache folder when it is imported: hence processes of their own.
LOAD = """
import os, sys
from pathlib import Path
from kdexp.cache import Cache
from kdexp.task.config import PublicTaskConfig
from kdexp.task.load import load_task
exec(os.environ.pop("KDEXP_TESTS_MEASURE", ""))
revision = sys.argv[1] or None
config = PublicTaskConfig(name="sst2", dataset="org/glue", subset="sst2", revision=revision, text="sentence",
                          label="label", labels=["negative", "positive"], validation_size=10)
try:
    task = load_task(config, Cache(Path(os.environ["KDEXP_CACHE_DIR"])))
    sizes = [len(split) for split in (task.train, task.validation, task.test)]
    sys.stdout.write(f"{sizes} {task.tags['kdexp.test_split']}")
except ValueError as error:
    sys.stdout.write(f"{error}")
"""


def load_from_hub(endpoint: str, home: Path, revision: str = "") -> str:
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "no_proxy": "127.0.0.1"}
    environment |= measured_environment()
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", LOAD, revision]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300).stdout


def test_without_network_the_alternatives_are_named_at_once(tmp_path):
    line = load_from_hub("http://127.0.0.1:9", tmp_path)  # how long it takes: tests/test_hub.py
    assert line.startswith("task.dataset: cannot load org/glue: http://127.0.0.1:9 does not answer; use task.path=")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = """---
configs:
- config_name: sst2
  data_files:
  - {split: train, path: sst2/train-*}
  - {split: validation, path: sst2/validation-*}
  - {split: test, path: sst2/test-*}
---
"""


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as load_dataset asks for: one data set, served from `folder`."""

    folder: Path

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        files = sorted(f for f in self.folder.rglob("*") if f.is_file())
        if f"/resolve/{COMMIT}/" in path:
            file = self.folder / path.split(f"/resolve/{COMMIT}/")[1]
            found = file.is_file()
            content = file.read_bytes() if found else b""
            code = {} if found else {"X-Error-Code": "EntryNotFound"}
            headers = {"ETag": f'"{file.name}"', "X-Repo-Commit": COMMIT, **code}
            self.answer(200 if found else 404, content, headers)
        elif "/tree/" in path:
            under = self.folder / path.split(f"/tree/{COMMIT}")[1].strip("/")
            entries = [
                {
                    "type": "directory" if entry.is_dir() else "file",
                    "path": str(entry.relative_to(self.folder)),
                }
                | {"oid": entry.name, "size": entry.stat().st_size}
                for entry in sorted(under.iterdir())
            ]
            self.answer(200, json.dumps(entries).encode(), {})
        elif path.startswith("/api/datasets/org/glue"):
            siblings = [{"rfilename": str(file.relative_to(self.folder))} for file in files]
            info = {"id": "org/glue", "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
            self.answer(200, json.dumps(info | {"downloads": 0, "likes": 0, "disabled": False}).encode(), {})
        else:
            self.answer(404, b"", {})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.mark.slow
def test_the_hub_is_asked_once_and_the_cache_serves_after_that(tmp_path):
    folder, home = tmp_path / "served", tmp_path / "home"
    (folder / "sst2").mkdir(parents=True)
    write_hub_files(folder / "sst2")
    (folder / "README.md").write_text(CARD)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (Hub,), {"folder": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        assert load_from_hub(endpoint, home, COMMIT) == "[50, 10, 4] public dev set"
    finally:
        server.shutdown()
        server.server_close()
    start = perf_counter()
    assert load_from_hub(endpoint, home, COMMIT) == "[50, 10, 4] public dev set"
    assert perf_counter() - start < 60  # on a machine with much else to do
    assert f"is of {COMMIT}, not of fedcba" in load_from_hub(endpoint, home, "fedcba" + COMMIT[6:])


def real_data(name: str) -> Path:
    folder = Path(os.environ.get("KDEXP_DATA", "/nonexistent")) / name
    if not folder.is_dir():
        pytest.skip(f"KDEXP_DATA does not name a folder that holds {name}/")
    return folder


@pytest.mark.real_data
def test_the_real_glue_copy_loads_in_about_a_second():
    start = perf_counter()
    task = load_task(sst2(real_data("sst2"), validation_size=2000))
    seconds = perf_counter() - start
    assert [len(task.validation), len(task.test)] == [2000, 872]
    assert 64_000 < len(task.train) <= 67_349 - 2000
    assert Counter(task.test.labels.tolist()) == {1: 444, 0: 428}
    assert seconds < 5


@pytest.mark.real_data
def test_the_real_sentences_have_a_labelled_test_set():
    task = load_task(sst2(real_data("sst2_sentence")))
    assert [len(task.validation), len(task.test)] == [872, 1821]
    assert 6900 < len(task.train) <= 6920
    assert task.tags["kdexp.test_split"] == "public test set"
