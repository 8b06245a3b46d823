"""A task: splits of texts with class labels, whatever they come from.

`load_task` tells the whole story: embedded tasks are generated, public ones come from the hub or from a
local copy, and `task=file` reads a person's own tables.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.fingerprint import file_sha256, path_digest, texts_fingerprint
from kdexp.ranges import established
from kdexp.task.arrange import HELD_OUT, Arrangement, Selection, arrange, clean_transfer, draw_subset
from kdexp.task.columns_of import gold_column, label_columns, refuse_label_settings, text_columns
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, PublicTaskConfig, TaskConfig
from kdexp.task.embedded import entities, inference, reviews
from kdexp.task.kinds.base import Labels, TaskKind
from kdexp.task.kinds.by_name import kind_class
from kdexp.task.public import PublicSources, public_sources
from kdexp.task.split import Split, write_split
from kdexp.task.tables.columnar import is_saved_dataset
from kdexp.task.tables.file import Reading, read_table, split_file
from kdexp.task.tables.table import Table, TextColumn, row_ids


@dataclass(frozen=True)
class Task:
    """Everything that a run knows about its data.

    Attributes:
        kind: What is asked of a text, and everything that follows from it.
        transfer: Unlabelled text that the teacher may label; None when there is none.
        pool: With their labels all rows that `train` was drawn from and `transfer` is the rest of; None where
            transfer text has no labels. No student learns from it but where all text is to have its gold label.
        notes: One-line announcements of what was decided about the splits, for the log.
        tags: The same facts for MLflow (`kdexp.validation_split`, `kdexp.test_split`).
    """

    name: str
    kind: TaskKind
    train: Split
    validation: Split
    test: Split
    transfer: Split | None
    pool: Split | None = None
    notes: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def label_names(self) -> Sequence[str]:
        return self.kind.label_names

    @property
    def primary_metric(self) -> str:
        return self.kind.primary_metric

    @property
    def announcements(self) -> list[str]:
        """What every run says of its data, in one line each."""
        return [*self.notes, *self.kind.announcements(self.labels("train"))]

    @property
    def selection_parts(self) -> dict[str, str]:
        """What decides a training beside its data, for keys: a primary metric that is not the kind's own."""
        own = type(self.kind)(self.label_names).primary_metric
        return {} if self.primary_metric == own else {"primary_metric": self.primary_metric}

    @property
    def known_text(self) -> Split:
        """All text that belongs to the task and to no other split: what tokenizers are trained on."""
        return self.pool or self.train

    def labels(self, name: str) -> Labels:
        """The gold labels of a split that has them."""
        split: Split = getattr(self, name)
        return self.kind.labels(split.labels)

    def fingerprint(self, *names: str) -> str:
        """SHA-256 of label names, texts and labels of the named splits."""
        splits: list[Split] = [getattr(self, name) for name in names]
        return texts_fingerprint([self.kind.name, *self.label_names], [split.digest for split in splits])


def load_task(config: TaskConfig, cache: Cache, *, kind: type[TaskKind] | None = None) -> Task:
    """Load the splits that a configuration describes.

    The splits are kept in the cache as Arrow tables, and mapped from there: by the content of the files that they are
    read from (or of the code that generates them), and by the settings.

    Args:
        kind: In place of the one that the configuration names (`kdexp/task/kinds/by_name.py`).

    Raises:
        UserError: A file, column, label, text or size is not what the configuration says.
    """
    kind = kind or kind_class(config)
    match config:
        case EmbeddedTaskConfig():
            task = _load_embedded(config, cache, kind)
        case PublicTaskConfig():
            task = _load_public(config, cache, kind)
        case FileTaskConfig():
            task = _load_file(config, cache, kind)
        case _:
            raise TypeError(f"no loader for {type(config).__name__}")
    return replace(task, kind=task.kind.with_primary(config.primary_metric).fitted(task.labels("train")))


def _load_embedded(config: EmbeddedTaskConfig, cache: Cache, kind: type[TaskKind]) -> Task:
    _require_embedded(config.name)
    modules = _BY_CLASS if config.name != "entities" else (reviews, entities)
    generators = {"generators": [file_sha256(Path(module.__file__ or "")) for module in modules]}
    digests = generators | _transfer_digest(config)
    return _kept(config, kind, digests, cache, lambda scratch: _arrange_embedded(config, kind, scratch))


def _arrange_embedded(config: EmbeddedTaskConfig, kind: type[TaskKind], scratch: Path) -> Arrangement:
    generated = _generate(config, kind)
    notes = [f"task {config.name}: generated text (seed {config.seed}), no download"]
    if config.has_pool:
        pool = generated.splits["train"]
        seed = config.seed if config.subset_seed is None else config.subset_seed
        train, rest = draw_subset(generated.kind, pool, config.train_size, seed)
        generated.splits.update(pool=pool, train=train, transfer=rest)
        notes.append(f"train: {len(train):,} of {len(pool):,} rows, the others are text that only the teacher labels")
    if config.transfer_file is not None:
        text = ["text", "text_pair"] if generated.splits["train"].split.is_pair else ["text"]
        transfer = _read_transfer(config.transfer_file, text, kind, scratch)
        generated.splits["transfer"], note = clean_transfer(Selection.of(transfer), generated.splits)
        notes.append(note)
    return replace(generated, notes=notes)


def _generate(config: EmbeddedTaskConfig, kind: type[TaskKind]) -> Arrangement:
    """The splits as they are generated; with a pool, `train` is all of it."""
    generator = _EMBEDDED[config.name]
    num_drawn_from = config.transfer_size if config.has_pool else 0
    sizes = {
        "train": config.train_size + num_drawn_from,
        "validation": config.validation_size,
        "test": config.test_size,
        "transfer": config.transfer_size - num_drawn_from,
    }
    rows = generator.generate_splits(sizes, seed=config.seed, label_noise=config.label_noise)
    splits = {}
    for name in (name for name, size in sizes.items() if size):
        *texts, labels = (list(column) for column in zip(*rows[name], strict=True))
        second = texts[1] if len(texts) == 2 else None
        splits[name] = Selection.of(Split.from_lists(texts[0], second, labels if name != "transfer" else None))
    return Arrangement(
        kind(list(generator.LABELS)),
        splits,
        notes=[],
        tags={"kdexp.validation_split": "generated", "kdexp.test_split": "generated"},
    )


_BY_CLASS = (reviews, inference)
_EMBEDDED: dict[str, Any] = {"reviews": reviews, "inference": inference, "entities": entities}


def _require_embedded(name: str) -> str:
    if name not in _EMBEDDED:
        raise UserError("task.name", f"no embedded task is called '{name}'", f"use {' or '.join(_EMBEDDED)}")
    return name


def _load_public(config: PublicTaskConfig, cache: Cache, kind: type[TaskKind]) -> Task:
    refuse_label_settings(config, kind)
    text = text_columns(config.text, config.label)
    sources = public_sources(config, [*text, *label_columns(config.label)])
    digests = sources.digests | _transfer_digest(config)
    return _kept(config, kind, digests, cache, lambda scratch: _arrange_public(config, kind, text, sources, scratch))


def _arrange_public(
    config: PublicTaskConfig, kind_type: type[TaskKind], text: list[str], sources: PublicSources, scratch: Path
) -> Arrangement:
    tables = sources.read(scratch)
    kind = (
        kind_type(list(config.labels))
        if config.labels
        else kind_type.from_column(gold_column(tables["train"][0], config), None)
    )
    splits = {
        name: write_split(scratch / f"{name}.arrow", _public_shards(shards, text, config, kind, name != "transfer"))
        for name, shards in tables.items()
    }
    if config.transfer_file is not None:
        splits["transfer"] = _read_transfer(config.transfer_file, text, kind_type, scratch)
    for name in ("train", "validation"):
        if name in splits and not splits[name].is_labelled:
            problem = f"the split {name} of {config.name} has no labels"
            raise UserError("task.path" if config.path else "task.dataset", problem, "name one that has them")
    has_test = "test" in splits and splits["test"].is_labelled
    if "validation" not in splits:
        if sources.no_validation and not has_test:
            raise sources.no_validation
        why = "validation: held out of train, because the data set has no dev set"
        arranged = arrange(config, kind, splits, (HELD_OUT, "public test set"))
    elif has_test:
        why = "task.validation_size is not used: the data set has a dev set and a labelled test set"
        arranged = arrange(config, kind, splits, ("public dev set", "public test set"))
    else:
        why = "test: the public dev set is used, because the labels of the public test set are hidden"
        splits["test"] = splits.pop("validation")
        arranged = arrange(config, kind, splits, (HELD_OUT, "public dev set"))
    return replace(arranged, notes=[why, *arranged.notes])


def _public_shards(
    shards: list[Table], text: list[str], config: PublicTaskConfig, kind: TaskKind, with_labels: bool
) -> list[tuple[list[Iterator[list[str]]], np.ndarray | None]]:
    texts = [kind.texts(table, text) for table in shards]
    labels = [
        _public_labels(*shard, config, kind) if with_labels else None for shard in zip(shards, texts, strict=True)
    ]
    if any(column is None for column in labels):
        labels = [None] * len(shards)
    return [([text.batches() for text in shard], column) for shard, column in zip(texts, labels, strict=True)]


def _public_labels(table: Table, texts: Sequence[TextColumn], config: PublicTaskConfig, kind: TaskKind) -> Any:
    # GLUE hides its test labels: TSV files have no such column, the hub's files have -1.
    if not {*label_columns(config.label)} <= {*table.names}:
        return None
    column = gold_column(table, config)
    if all(str(value) in ("-1", "-1.0") for value in column):
        return None
    labels = kind.encode(column, by_number=True)
    kind.refuse_unfit_rows(texts, labels, column)
    return labels


def _load_file(config: FileTaskConfig, cache: Cache, kind: type[TaskKind]) -> Task:
    text = text_columns(config.text, config.label)
    refuse_label_settings(config, kind)
    files = {
        "train": config.train,
        "validation": config.validation,
        "test": config.test,
        "transfer": config.transfer_file,
    }
    paths = {name: split_file(Path(path).expanduser(), name) for name, path in files.items() if path is not None}
    # A file that is not there is told of where it is read.
    readable = {name: path.is_file() or is_saved_dataset(path) for name, path in paths.items()}
    digests = {name: path_digest(path) if readable[name] else None for name, path in paths.items()}
    return _kept(config, kind, digests, cache, lambda scratch: _arrange_file(config, kind, text, paths, scratch))


def _arrange_file(
    config: FileTaskConfig, kind_type: type[TaskKind], text: list[str], paths: dict[str, Path], scratch: Path
) -> Arrangement:
    tables = {
        name: read_table(
            path,
            [*text, *label_columns(config.label), *([config.id] if config.id else [])],
            scratch / f"{name}.table.arrow",
            setting=f"task.{name}",
            reading=Reading(config.header, config.encoding, config.quoting, words=kind_type.has_units),
        )
        for name, path in paths.items()
    }
    gold = gold_column(tables["train"], config)
    kind = kind_type.from_column(gold, config.labels)
    splits, notes = {}, [note for table in tables.values() for note in table.notes]
    for name, table in tables.items():
        texts, labels = kind.texts(table, text), None
        if name != "transfer":
            column = gold_column(table, config)
            # Where the training file numbers its classes and names them, the other files may have either.
            labels = kind.encode(column, by_number=gold.class_names is not None)
            kind.refuse_unfit_rows(texts, labels, column)
            notes += kind.reading_notes(table, text, column)
        ids = row_ids(table.column(config.id, "task.id"), "task.id") if config.id else None
        shard = ([text.batches() for text in texts], labels)
        splits[name] = write_split(scratch / f"{name}.arrow", [shard], ids)
    sources = ("own file" if config.validation else HELD_OUT, "own file" if config.test else HELD_OUT)
    arranged = arrange(config, kind, splits, sources)
    return replace(arranged, notes=[*notes, *arranged.notes])


def _transfer_digest(config: EmbeddedTaskConfig | PublicTaskConfig) -> dict[str, list | None]:
    path = config.transfer_file
    if path is None:
        return {}
    return {"transfer": path_digest(path) if path.is_file() or is_saved_dataset(path) else None}


def _read_transfer(path: Path, text: list[str], kind: type[TaskKind], scratch: Path) -> Split:
    """Text for the teacher alone."""
    reading, place = Reading(words=kind.has_units), scratch / "transfer.table.arrow"
    table = read_table(path, text, place, setting="task.transfer", reading=reading)
    return write_split(scratch / "transfer.arrow", [([column.batches() for column in kind.texts(table, text)], None)])


def _kept(
    config: EmbeddedTaskConfig | PublicTaskConfig | FileTaskConfig,
    kind: type[TaskKind],
    digests: Mapping[str, Any],
    cache: Cache,
    arrange_in: Callable[[Path], Arrangement],
) -> Task:
    """Take the task from the cache, or arrange and write it there.

    Args:
        digests: Of what is read, or of what generates; they stand for the settings of the same names, which are paths.
        arrange_in: Reads and arranges, in a folder that is removed afterwards.
    """

    def build(target: Path, work: Path) -> None:
        with TemporaryDirectory(dir=work) as scratch:
            arranged = arrange_in(Path(scratch))
            for name, selection in arranged.splits.items():
                selection.write(target / f"{name}.arrow")
            facts = {"label_names": list(arranged.kind.label_names), "notes": arranged.notes, "tags": arranged.tags}
            (target / "task.json").write_text(json.dumps(facts), encoding="utf-8")

    parts = {"kind": kind.name, "task": _read_settings(config) | dict(digests)}
    return cache.loaded("tasks", parts, build, partial(_read_task, config, kind))[1]


def _read_task(config: TaskConfig, kind: Callable[[Sequence[str]], TaskKind], folder: Path) -> Task:
    facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    splits = {path.stem: Split.from_file(path) for path in folder.glob("*.arrow")}
    return Task(
        name=config.name,
        kind=kind(facts.pop("label_names")),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        transfer=splits.get("transfer"),
        pool=splits.get("pool"),
        **facts,
    )


def _read_settings(config: TaskConfig) -> dict[str, Any]:
    """What of the settings decides what is read: not what the kind makes of it."""
    settings: dict[str, Any] = established(config)
    return {name: value for name, value in settings.items() if name not in ("kind", "primary_metric")}
