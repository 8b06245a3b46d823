"""Text that only the teacher labels: the rest of train, a file, a further split; and which rows are labelled."""

from pathlib import Path

import numpy as np
import pytest

import kdexp
from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.identity import config_hash
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, PublicTaskConfig
from kdexp.task.load import load_task


@pytest.fixture
def load(tmp_path):
    return lambda config: load_task(config, Cache(tmp_path / "cache"))


def csv(path: Path, texts: list[str]) -> str:
    lines = [f"{text},{'b' if place % 4 == 0 else 'a'}\n" for place, text in enumerate(texts)]
    path.write_text("text,label\n" + "".join(lines), encoding="utf-8")
    return str(path)


def of_file(tmp_path, **settings):
    texts = [*(f"row {number}" for number in range(200)), "row 1", "row 2"]
    return FileTaskConfig(
        name="file", train=csv(tmp_path / "a.csv", texts), **{"text": "text", "label": "label", "seed": 3} | settings
    )


def of_reviews(**settings):
    sizes = {"train_size": 40, "validation_size": 20, "test_size": 30, "transfer_size": 60, "label_noise": 0.0}
    return EmbeddedTaskConfig(name="reviews", **sizes | settings)


def test_the_rest_of_train_is_text_whose_labels_are_known_and_not_learned_from(tmp_path, load):
    without = load(of_file(tmp_path, train_size=30))
    task = load(of_file(tmp_path, train_size=30, transfer="rest"))
    assert (task.train, task.validation, task.test) == (without.train, without.validation, without.test)
    assert task.transfer.labels is None
    assert task.pool.is_labelled
    labelled, rest, pool = (set(split.first) for split in (task.train, task.transfer, task.pool))
    assert labelled | rest == pool
    assert not labelled & rest  # one of the two rows "row 1" may be labelled: the other is no new text
    assert not pool & {*task.validation.first, *task.test.first}
    assert sum("only the teacher labels" in note for note in task.notes) == 1
    assert without.pool is None


def test_a_subset_seed_draws_other_rows_and_nothing_else(tmp_path, load):
    tasks = [load(of_file(tmp_path, train_size=30, transfer="rest", subset_seed=seed)) for seed in (3, 4, 5)]
    assert tasks[0].train == load(of_file(tmp_path, train_size=30)).train  # by default the task's own seed
    assert len({task.train.digest for task in tasks}) == 3
    assert len({task.pool.digest for task in tasks}) == 1
    assert len({task.test.digest for task in tasks}) == len({task.validation.digest for task in tasks}) == 1
    # Each class keeps its share.
    assert all(abs(task.train.labels.mean() - tasks[0].train.labels.mean()) < 1.5 / 30 for task in tasks)


def test_embedded_tasks_draw_rows_and_text_from_the_same(load):
    whole = load(of_reviews(train_size=100, transfer_size=0))
    tasks = [load(of_reviews(subset_seed=seed)) for seed in (0, 1)] + [load(of_reviews(transfer="rest"))]
    assert tasks[0].train == tasks[2].train != tasks[1].train
    for task in tasks:
        assert (task.pool, task.test, task.validation) == (whole.train, whole.test, whole.validation)
        assert (len(task.train), len(task.transfer)) == (40, 60)
        assert {*task.train.first, *task.transfer.first} == {*task.pool.first}
    larger = load(of_reviews(train_size=80, transfer_size=20, subset_seed=0))
    assert larger.pool == tasks[0].pool
    assert {*tasks[0].train.first} < {*larger.train.first}


def test_text_of_other_splits_is_counted_and_removed(tmp_path, load):
    more = [f"more {number}" for number in range(6)]
    test, validation = ([f"{name} {number}" for number in range(8)] for name in ("test", "validation"))
    task = load(
        of_file(
            tmp_path,
            test=csv(tmp_path / "t.csv", test),
            validation=csv(tmp_path / "v.csv", validation),
            transfer=csv(tmp_path / "m.csv", [*more, " test 1 ", "validation 2", "validation 3", "row 5"]),
        )
    )
    assert list(task.transfer.first) == more
    said = "transfer: 6 rows that only the teacher labels, after 4 were dropped, because their text is also in "
    assert said + "test (1), validation (2) or train (1)" in task.notes


def test_any_task_takes_a_file_of_text(tmp_path, load):
    texts = [f"a sentence of some length {number}" for number in range(5)]
    task = load(of_reviews(transfer=csv(tmp_path / "more.csv", texts)))
    assert list(task.transfer.first) == texts
    assert task.train == load(of_reviews()).train


def public(folder: Path, **settings):
    for name, size in (("train", 90), ("dev", 20), ("more", 12)):
        rows = "".join(f"{name} {number}\t{number % 2 if name != 'more' else -1}\n" for number in range(size))
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + rows, encoding="utf-8")
    named = {"name": "sst2", "dataset": "none", "path": str(folder), "text": "sentence", "label": "label"}
    return PublicTaskConfig(**named, labels=["no", "yes"], validation_size=10, **settings)


def test_a_public_task_takes_the_rest_a_split_or_a_file(tmp_path, load):
    assert list(load(public(tmp_path, transfer="more")).transfer.first) == [f"more {number}" for number in range(12)]
    rest = load(public(tmp_path, transfer="rest", train_size=20, subset_seed=1))
    assert (len(rest.train), len(rest.transfer), len(rest.pool)) == (20, 60, 80)
    other = tmp_path / "text.jsonl"
    other.write_text('{"sentence": "x y"}\n{"sentence": "more"}\n', encoding="utf-8")
    assert list(load(public(tmp_path, transfer=str(other))).transfer.first) == ["x y", "more"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"subset_seed": 1}, r"task\.subset_seed: is set, but all rows of train are labelled; say how many"),
        ({"transfer": "rest"}, r"task\.transfer: rest, but all 142 rows of train are labelled; label fewer"),
        ({"transfer": "nowhere.csv"}, r"task\.transfer: no file nowhere\.csv"),
        ({"train_size": 500, "transfer": "rest"}, r"task\.train_size: 500 rows asked"),
    ],
)
def test_mistakes_are_told(tmp_path, load, settings, problem):
    with pytest.raises(UserError, match=problem):
        load(of_file(tmp_path, **settings))


def test_text_that_is_all_known_is_refused(tmp_path, load):
    with pytest.raises(UserError, match=r"task\.transfer: each of its 2 texts is also in"):
        load(of_file(tmp_path, transfer=csv(tmp_path / "m.csv", ["row 5", "row 6"])))
    with pytest.raises(UserError, match=r"task\.transfer: no file for the split transfer in .*\(nothing,"):
        load(public(tmp_path, transfer="nothing"))


def test_hundreds_of_thousands_of_rows(tmp_path, load):
    """Hashes in arrays, no set of texts: a seventh of a million rows takes a second or two."""
    path = tmp_path / "many.csv"
    path.write_text("text,label\n" + "".join(f"text {number},\n" for number in range(150_000)), encoding="utf-8")
    task = load(of_file(tmp_path, transfer=str(path)))
    assert len(task.transfer) == 150_000
    assert task.transfer.text_keys.dtype == np.dtype("S16")


def test_a_run_takes_text_that_is_named_and_refuses_settings_of_none(compose_reviews):
    assert compose_reviews("task.transfer=rest").train.use_transfer is True
    assert compose_reviews().train.use_transfer is False
    assert compose_reviews("task.transfer=rest", "train.use_transfer=false").train.use_transfer is False
    for setting in ("train.transfer_ratio=0.5", "train.transfer_weight=2"):
        with pytest.raises(UserError, match=r"but train\.use_transfer is false; name text"):
            compose_reviews(setting)
    with pytest.raises(UserError, match=r"train\.use_transfer: got true, but task mrpc has no text .*; name some"):
        kdexp.compose("task=mrpc", "train.use_transfer=true")
    with pytest.raises(UserError, match=r"transfer_weight: got 2\.0, but dist relates the rows of a batch"):
        compose_reviews("task.transfer=rest", "train.transfer_weight=2", "loss=dist")
    with pytest.raises(UserError, match=r"train\.transfer_ratio: got 1\.0; expected a number between 0 and 1"):
        compose_reviews("task.transfer=rest", "train.transfer_ratio=1.0")
    hashes = {
        config_hash(compose_reviews("task.transfer=rest", *more))
        for more in ((), ("train.transfer_ratio=0.5",), ("train.transfer_weight=2",), ("task.subset_seed=1",))
    }
    assert len(hashes) == 4


@pytest.fixture
def compose_reviews():
    from kdexp import compose

    return compose
