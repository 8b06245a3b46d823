"""Public tasks by name: on the real files where a folder holds them, the others from a hub with documented columns."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, serving

from kdexp import compose
from kdexp.cache import Cache
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.errors import UserError
from kdexp.task.config import PublicTaskConfig
from kdexp.task.load import load_task

DATA = Path(os.environ.get("KDEXP_DATA", "/nonexistent"))
PUBLIC = sorted(path.stem for path in (CONF_DIR / "task").glob("*.yaml") if "schema/task/public" in path.read_text())


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEXP_CACHE_DIR", str(tmp_path / "cache"))
    return lambda *settings: load_task(compose(*settings).task, Cache(tmp_path / "cache"))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("task", "folder", "sizes", "text"),
    [
        # train, validation, test; the first text
        (
            "cola",
            "cola",
            (7532, 1000, 1043),
            "Our friends won't buy this analysis, let alone the next one we propose.",
        ),
        ("sst2", "sst2", None, None),
        # The row that GLUE's train.tsv lacks is there; the 408 of its dev set are taken out of train.
        ("mrpc", "mrpc", (3668, 408, 1725), None),
        ("banking77", "banking77", (8997, 1000, 3080), None),
        ("go_emotions", "goemotions", None, None),
        ("stsb", "stsb/original", None, None),
        ("stsb", "stsb", None, None),
        ("wnut_17", "wnut17", None, None),
        ("tweet_eval", "xlmt_sentiment/english", (1839, 324, 870), None),
        ("tweet_eval", "xlmt_sentiment/arabic", (1839, 324, 870), None),
    ],
)
def test_the_distributors_files_are_read(load, task, folder, sizes, text):
    if not (DATA / folder).is_dir():
        pytest.skip(f"KDEXP_DATA does not name a folder that holds {folder}/")
    if task not in PUBLIC:
        pytest.skip(f"no task {task} yet")
    found = load(f"task={task}", f"task.path={DATA / folder}")
    counts = tuple(len(split) for split in (found.train, found.validation, found.test))
    assert sizes in (None, counts), found.notes
    assert text is None or text in set(found.train.first) | set(found.validation.first)
    assert found.kind.labels(found.test.labels).num_rows == counts[2]


@pytest.mark.parametrize("task", PUBLIC)
def test_each_says_what_it_is_and_where_it_is_from(task):
    lines = (CONF_DIR / "task" / f"{task}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    config = compose(f"task={task}").task
    assert isinstance(config, PublicTaskConfig)
    assert config.name == task
    assert config.dataset.count("/") == 1


COLUMNS = {
    "cola": {"sentence": "text", "label": 2},
    "qqp": {"question1": "text", "question2": "text", "label": 2},
    "mnli": {"premise": "text", "hypothesis": "text", "label": 3},
    "qnli": {"question": "text", "sentence": "text", "label": 2},
    "rte": {"sentence1": "text", "sentence2": "text", "label": 2},
    "trec": {"text": "text", "coarse_label": 6, "fine_label": 50},
    "ag_news": {"text": "text", "label": 4},
    "imdb": {"text": "text", "label": 2},
    "banking77": {"text": "text", "label": 77},
    "clinc150": {"text": "text", "intent": 151},
    "tweet_eval": {"text": "text", "label": 3},
    "tweet_eval_emotion": {"text": "text", "label": 4},
    "xnli": {"premise": "text", "hypothesis": "text", "label": 3},
    "go_emotions": {"text": "text", "labels": [28], "id": "text"},
    "wnut_17": {"id": "text", "tokens": ["text"], "ner_tags": [13]},
    "stsb": {"sentence1": "text", "sentence2": "text", "label": "number"},
}
"""The documented columns: how many classes a label has."""

SPLITS = {
    "mnli": ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched"),
    "imdb": ("train", "test", "unsupervised"),
    **dict.fromkeys(("trec", "ag_news", "banking77"), ("train", "test")),
}
HIDDEN = {"cola", "qqp", "mnli", "qnli", "rte", "stsb"}

LOAD = """
import json, os, sys
from pathlib import Path
from kdexp import compose
from kdexp.cache import Cache
from kdexp.task.load import load_task
found = {}
for settings in json.loads(sys.argv[1]):
    try:
        task = load_task(compose(*settings).task, Cache(Path(os.environ["KDEXP_CACHE_DIR"])))
        sizes = [len(split) for split in (task.train, task.validation, task.test)]
        told = {"sizes": sizes, "labels": len(task.label_names), "transfer": len(task.transfer or [])}
        found[" ".join(settings)] = told | {"first": list(task.test.first)[0]}
    except ValueError as error:
        found[" ".join(settings)] = str(error)
sys.stdout.write(json.dumps(found))
"""


def write_split(path: Path, task: str, split: str, rows: int) -> None:
    import datasets

    def feature(kind):
        if isinstance(kind, list):
            return [feature(kind[0])]
        if isinstance(kind, int):
            return datasets.ClassLabel(names=[f"name {number}" for number in range(kind)])
        return datasets.Value("float32" if kind == "number" else "string")

    def value(kind, row):
        if isinstance(kind, list):
            return [value(kind[0], row), value(kind[0], row + 1)]
        if isinstance(kind, int):
            hidden = (task in HIDDEN and split.startswith("test")) or split == "unsupervised"
            return -1 if hidden else row % kind
        if kind == "number":
            return -1.0 if split == "test" else row % 6
        return f"{split} text {row}"

    columns = COLUMNS[task]
    data = {name: [value(kind, row) for row in range(rows)] for name, kind in columns.items()}
    features = datasets.Features({name: feature(kind) for name, kind in columns.items()})
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(data, features=features).to_parquet(str(path))


def write_hub(root: Path, tasks: list[str]) -> None:
    cards: dict[Path, list[str]] = {}
    for task in tasks:
        config = compose(f"task={task}").task
        folder, subset = root / "datasets" / config.dataset, config.subset or "default"
        lines = cards.setdefault(folder, ["---", "configs:"])
        lines += [f"- config_name: {subset}", "  data_files:"]
        for split in SPLITS.get(task, ("train", "validation", "test")):
            write_split(
                folder / subset / f"{split}-00000-of-00001.parquet", task, split, 240 if split == "train" else 160
            )
            lines.append(f"  - {{split: {split}, path: {subset}/{split}-*}}")
    for folder, lines in cards.items():
        (folder / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


@pytest.mark.slow
def test_every_task_is_loaded_from_a_hub_with_the_documented_columns(tmp_path):
    tasks = [task for task in COLUMNS if task in PUBLIC]
    write_hub(tmp_path / "served", tasks)
    revision = "task.revision=null"  # the commits and branches that are named are not served here
    calls = [[f"task={task}", revision, "task.validation_size=40"] for task in tasks]
    calls.append(["task=mnli", revision, "task.validation_size=40", "task.dev=mismatched"])
    calls.append(["task=imdb", revision, "task.validation_size=40", "task.transfer=unsupervised"])
    with serving(Hub(tmp_path / "served")) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        environment |= {"KDEXP_CACHE_DIR": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
        environment.pop("HF_HUB_OFFLINE", None)
        command = [sys.executable, "-c", LOAD, json.dumps(calls)]
        told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    found = json.loads(told.stdout or "{}")
    for task, call in zip(tasks, calls, strict=False):
        name = " ".join(call)
        assert isinstance(found.get(name), dict), (name, found.get(name), told.stderr[-2000:])
        hidden = task in HIDDEN
        assert found[name]["first"].startswith("validation" if hidden else "test") or task == "wnut_17"
        kinds = [kind for kind in COLUMNS[task].values() if isinstance(kind, int | list) and kind != ["text"]]
        assert (
            found[name]["labels"] in [kind if isinstance(kind, int) else kind[0] for kind in kinds] or task == "stsb"
        )
    assert found[" ".join(calls[-2])]["first"] == "validation_mismatched text 0"
    assert found[" ".join(calls[-1])]["transfer"] == 160


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_mnli_has_two_dev_sets(load, tmp_path):
    row = "{0}\t{0} premise {1}\t{0} hypothesis {1}\t{2}\n"
    labels = ("entailment", "neutral", "contradiction")
    for split in ("train", "dev_matched", "dev_mismatched"):
        rows = "".join(row.format(split, number, labels[number % 3]) for number in range(60))
        write(tmp_path / "mnli" / f"{split}.tsv", "index\tsentence1\tsentence2\tgold_label\n" + rows)
    settings = ("task=mnli", f"task.path={tmp_path / 'mnli'}", "task.validation_size=12")
    assert next(iter(load(*settings).test.first)) == "dev_matched premise 0"
    assert next(iter(load(*settings, "task.dev=mismatched").test.first)) == "dev_mismatched premise 0"
    with pytest.raises(UserError, match=r"no file for the split validation .*dev_other or validation_other"):
        load(*settings, "task.dev=other")


def test_rows_on_lines_of_two_files(load, tmp_path):
    folder = tmp_path / "sentiment"
    for split, size in (("train", 30), ("val", 9), ("test", 12)):
        write(folder / f"{split}_text.txt", "".join(f"{split}\u2028 {number}\n" for number in range(size)))
        write(folder / f"{split}_labels.txt", "".join(f"{number % 3}\n" for number in range(size)))
    task = load("task=tweet_eval", f"task.path={folder}")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [30, 9, 12]
    assert task.label_names == ["negative", "neutral", "positive"]
    write(folder / "val_labels.txt", "0\n1\n")
    with pytest.raises(UserError, match=r"task\.path: .*val_text\.txt has 9 lines, val_labels\.txt 2; each line"):
        load("task=tweet_eval", f"task.path={folder}")


def test_a_set_without_a_dev_set_has_validation_held_out(load, tmp_path):
    for split, size in (("train", 90), ("test", 20)):
        rows = "".join(f"{split} {number},{number % 4}\n" for number in range(size))
        write(tmp_path / "news" / f"{split}.csv", "text,label\n" + rows)
    task = load("task=ag_news", f"task.path={tmp_path / 'news'}", "task.validation_size=10")
    assert [len(split) for split in (task.train, task.validation, task.test)] == [80, 10, 20]
    assert task.tags == {"kdexp.validation_split": "held out of train", "kdexp.test_split": "public test set"}
    (tmp_path / "news" / "test.csv").unlink()
    with pytest.raises(UserError, match=r"task\.path: no file for the split validation in .* holds: train\.csv"):
        load("task=ag_news", f"task.path={tmp_path / 'news'}")
