"""A task: splits of texts with class labels, whatever they come from.

`load_task` tells the whole story: embedded tasks are generated, public ones come from the hub or from a
local copy, and `task=file` reads a person's own tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from kdexp.errors import UserError
from kdexp.fingerprint import texts_fingerprint
from kdexp.task import inference, reviews
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, PublicTaskConfig, TaskConfig
from kdexp.task.file import Table, read_table, texts_of
from kdexp.task.kind import Labels, TaskKind
from kdexp.task.public import public_tables
from kdexp.task.single_label import SingleLabel

HELD_OUT = "held out of train"


@dataclass(frozen=True)
class Split:
    """The rows of one split.

    Attributes:
        first: Texts.
        second: The other text of each pair; None when the task has single texts.
        labels: Class indices into `Task.label_names`; None when the rows are unlabelled.
    """

    first: list[str]
    second: list[str] | None
    labels: list[int] | None

    def __len__(self) -> int:
        return len(self.first)

    @property
    def text_digest(self) -> str:
        """SHA-256 of the texts."""
        return texts_fingerprint(self.first, self.second)


@dataclass(frozen=True)
class Task:
    """Everything that a run knows about its data.

    Attributes:
        kind: What is asked of a text, and everything that follows from it.
        transfer: Unlabelled text that the teacher may label; None when there is none.
        notes: One-line announcements of what was decided about the splits, for the log.
        tags: The same facts for MLflow (`kdexp.validation_split`, `kdexp.test_split`).
    """

    name: str
    kind: TaskKind
    train: Split
    validation: Split
    test: Split
    transfer: Split | None
    notes: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def label_names(self) -> Sequence[str]:
        return self.kind.label_names

    @property
    def primary_metric(self) -> str:
        return self.kind.primary_metric

    def labels(self, name: str) -> Labels:
        """The gold labels of a split that has them."""
        split: Split = getattr(self, name)
        assert split.labels is not None
        return self.kind.labels(split.labels)

    def fingerprint(self, *names: str) -> str:
        """SHA-256 of label names, texts and labels of the named splits."""
        columns: list[list[str] | None] = [list(self.label_names)]
        for name in names:
            split: Split = getattr(self, name)
            labels = None if split.labels is None else [str(label) for label in split.labels]
            columns += [split.first, split.second, labels]
        return texts_fingerprint(*columns)


def load_task(config: TaskConfig, *, kind: type[TaskKind] = SingleLabel) -> Task:
    """Load the splits that a configuration describes.

    Args:
        kind: Of a task read from files.

    Raises:
        UserError: A file, column, label, text or size is not what the configuration says.
    """
    match config:
        case EmbeddedTaskConfig():
            return _load_embedded(config)
        case PublicTaskConfig():
            return _load_public(config)
        case FileTaskConfig():
            return _load_file(config, kind)
        case _:
            raise TypeError(f"no loader for {type(config).__name__}")


def _load_embedded(config: EmbeddedTaskConfig) -> Task:
    sizes = {
        "train": config.train_size,
        "validation": config.validation_size,
        "test": config.test_size,
        "transfer": config.transfer_size,
    }
    label_names = _EMBEDDED[_require_embedded(config.name)].LABELS
    rows = _generated(config.name, tuple(sizes.items()), config.seed, config.label_noise)
    return Task(
        name=config.name,
        kind=SingleLabel(list(label_names)),
        train=_split_of_rows(rows["train"]),
        validation=_split_of_rows(rows["validation"]),
        test=_split_of_rows(rows["test"]),
        transfer=replace(_split_of_rows(rows["transfer"]), labels=None) if config.transfer_size else None,
        notes=[f"task {config.name}: generated text (seed {config.seed}), no download"],
        tags={"kdexp.validation_split": "generated", "kdexp.test_split": "generated"},
    )


_EMBEDDED = {"reviews": reviews, "inference": inference}


def _require_embedded(name: str) -> str:
    if name not in _EMBEDDED:
        raise UserError("task.name", f"no embedded task is called '{name}'", f"use {' or '.join(_EMBEDDED)}")
    return name


@lru_cache(maxsize=2)
def _generated(
    name: str, sizes: tuple[tuple[str, int], ...], seed: int, label_noise: float
) -> Mapping[str, Sequence[tuple]]:
    """The rows of every split, written once for all jobs of a sweep."""
    return _EMBEDDED[name].generate_splits(dict(sizes), seed=seed, label_noise=label_noise)


def _split_of_rows(rows: Sequence[tuple]) -> Split:
    """Turn generated rows (text, label) or (premise, hypothesis, label) into columns."""
    *texts, labels = (list(column) for column in zip(*rows, strict=True))
    return Split(texts[0], texts[1] if len(texts) == 2 else None, labels)


def _load_public(config: PublicTaskConfig) -> Task:
    text = _text_columns(config.text, config.label)
    tables = public_tables(config, [*text, config.label])
    kind = SingleLabel(config.labels)
    splits = {name: _join([_public_split(t, text, config, kind) for t in tables[name]]) for name in tables}
    train, validation, test = splits["train"], splits["validation"], splits.get("test")
    for name, split in (("train", train), ("validation", validation)):
        if split.labels is None:
            problem = f"the split {name} of {config.name} has no labels"
            raise UserError("task.path" if config.path else "task.dataset", problem, "name one that has them")
    if test is not None and test.labels is not None:
        sources = ("public dev set", "public test set")
        task = _arrange(config, kind, train, validation, test, None, sources)
        why = "task.validation_size is not used: the data set has a dev set and a labelled test set"
        return replace(task, notes=[why, *task.notes])
    task = _arrange(config, kind, train, None, validation, None, (HELD_OUT, "public dev set"))
    why = "test: the public dev set is used, because the labels of the public test set are hidden"
    return replace(task, notes=[why, *task.notes])


def _public_split(table: Table, text: list[str], config: PublicTaskConfig, kind: TaskKind) -> Split:
    first, second = texts_of(table, text)
    # GLUE hides its test labels: TSV files have no such column, the hub's files have -1.
    if config.label not in table.names or all(str(value) == "-1" for value in table.columns[config.label]):
        return Split(first, second, None)
    return Split(first, second, list(kind.encode(table, config.label, by_number=True)))


def _join(splits: list[Split]) -> Split:
    """Put the shards of one split together."""
    seconds, labels = [split.second for split in splits], [split.labels for split in splits]
    return Split(
        [text for split in splits for text in split.first],
        None if None in seconds else [text for column in seconds for text in column or []],
        None if None in labels else [label for column in labels for label in column or []],
    )


def _load_file(config: FileTaskConfig, kind_class: type[TaskKind]) -> Task:
    text = _text_columns(config.text, config.label)
    tables = {
        name: read_table(Path(path), [*text, config.label], setting=f"task.{name}", header=config.header)
        for name, path in (
            ("train", config.train),
            ("validation", config.validation),
            ("test", config.test),
            ("transfer", config.transfer),
        )
        if path is not None
    }
    kind = kind_class.from_table(tables["train"], config.label, config.labels)
    splits = {
        name: Split(
            *texts_of(table, text),
            list(kind.encode(table, config.label)) if name != "transfer" else None,
        )
        for name, table in tables.items()
    }
    sources = ("own file" if config.validation else HELD_OUT, "own file" if config.test else HELD_OUT)
    return _arrange(
        config,
        kind,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        splits.get("transfer"),
        sources,
    )


def _text_columns(text: Any, label: str) -> list[str]:
    """Read the setting task.text: a column, or a list of one or two."""
    columns = [str(name) for name in text] if isinstance(text, list | tuple) else [str(text)]
    if not 1 <= len(columns) <= 2:
        problem = f"{len(columns)} columns ({', '.join(columns)})"
        raise UserError("task.text", problem, "name one column, or two for pairs: task.text=[premise,hypothesis]")
    if len({*columns, label}) <= len(columns):
        problem = f"columns are named twice: text {', '.join(columns)}, label {label}"
        raise UserError("task.text", problem, "name different columns for each text and for the label")
    return columns


def _arrange(
    config: PublicTaskConfig | FileTaskConfig,
    kind: TaskKind,
    train: Split,
    validation: Split | None,
    test: Split | None,
    transfer: Split | None,
    sources: tuple[str, str],
) -> Task:
    """Hold out what is missing, keep test and validation texts out of train, cut to the sizes asked for.

    The test rows are settled first, then the validation rows, and `train_size` cuts last: so a smaller
    `train_size` keeps both, and takes its rows from among those of a larger one.

    Args:
        sources: Where the validation and the test split come from, as the tags say it.
    """
    num_rows, seed = len(train), config.seed
    if test is None:
        size = config.test_size or max(1, round(0.2 * num_rows))
        test, train = _hold_out(train, size, "test", seed)
    elif config.test_size is not None:
        test = _sample(test, config.test_size, "test", seed)
    train, num_in_test = _without_texts_of(test, train)
    if validation is None:
        size = config.validation_size or max(1, round(0.1 * num_rows))
        validation, train = _hold_out(train, size, "validation", seed)
    elif config.validation_size is not None and isinstance(config, FileTaskConfig):
        validation = _sample(validation, config.validation_size, "validation", seed)
    train, num_in_validation = _without_texts_of(validation, train)
    if config.train_size is not None:
        train = _sample(train, config.train_size, "train", seed)
    kind.refuse_untrainable(kind.labels(train.labels or []))

    notes = [f"train: {len(train):,} of {num_rows:,} rows"]
    for name, split, source in zip(("validation", "test"), (validation, test), sources, strict=True):
        how = f" (stratified, seed {seed})" if source == HELD_OUT else ""
        notes.append(f"{name}: {len(split):,} rows, {source}{how}")
    if num_in_test or num_in_validation:
        where = f"in test ({num_in_test:,}) or validation ({num_in_validation:,})"
        notes.append(f"train: {num_in_test + num_in_validation:,} rows dropped, because their text is also {where}")
    if transfer is not None:
        transfer, num_in_test = _without_texts_of(test, transfer)
        transfer, num_in_validation = _without_texts_of(validation, transfer)
        notes.append(
            f"transfer: {len(transfer):,} rows, after {num_in_test + num_in_validation:,} were dropped, "
            "because their text is also in test or validation"
        )
    tags = {"kdexp.validation_split": sources[0], "kdexp.test_split": sources[1]}
    return Task(config.name, kind, train, validation, test, transfer, notes=notes, tags=tags)


def _stratified_order(labels: Sequence[int], stream: str) -> list[int]:
    """Order rows at random so that every prefix holds each class in its share, to within one row."""
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


def _hold_out(train: Split, size: int, name: str, seed: int) -> tuple[Split, Split]:
    """Take `size` rows out of train; return them and the rest."""
    if size >= len(train):
        problem = f"{size:,} rows asked, but train has {len(train):,}"
        raise UserError(f"task.{name}_size", problem, f"ask for fewer, or name a file of its own in task.{name}")
    order = _stratified_order(train.labels or [], f"{name}/{seed}")
    return _pick(train, order[:size]), _pick(train, order[size:])


def _sample(split: Split, size: int, name: str, seed: int) -> Split:
    if size > len(split):
        problem = f"{size:,} rows asked, but {name} has {len(split):,}"
        raise UserError(f"task.{name}_size", problem, "ask for fewer, or leave it out to use all of them")
    return _pick(split, _stratified_order(split.labels or [], f"{name}/{seed}")[:size])


def _pick(split: Split, rows: Sequence[int]) -> Split:
    """Keep some rows, in the order of the file."""
    rows = sorted(rows)
    return Split(
        [split.first[row] for row in rows],
        [split.second[row] for row in rows] if split.second is not None else None,
        [split.labels[row] for row in rows] if split.labels is not None else None,
    )


def _without_texts_of(other: Split, split: Split) -> tuple[Split, int]:
    """Drop the rows of a split whose text, or pair of texts, also occurs in another; also say how many."""
    known = set(_texts(other))
    rows = [row for row, text in enumerate(_texts(split)) if text not in known]
    return _pick(split, rows), len(split) - len(rows)


def _texts(split: Split) -> list[tuple[str, str]]:
    """The texts of each row, without the white space around them, where copies of a data set differ."""
    seconds = split.second or [""] * len(split)
    return [(first.strip(), second.strip()) for first, second in zip(split.first, seconds, strict=True)]
