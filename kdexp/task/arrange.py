"""Which rows become which split: what is missing is held out, and no text of a test split is trained on.

Rows are chosen by their numbers, in numpy arrays; the texts stay where they are.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np

from kdexp.errors import UserError
from kdexp.task.config import REST, FileTaskConfig, PublicTaskConfig
from kdexp.task.kinds.base import Labels, TaskKind
from kdexp.task.split import Split

HELD_OUT = "held out of train"


@dataclass(frozen=True)
class Selection:
    """Some rows of a split, in the order of its file.

    Attributes:
        rows: Indices, ascending.
        with_labels: False where the labels are known, and not to be learned from.
    """

    split: Split
    rows: np.ndarray
    with_labels: bool = True

    @classmethod
    def of(cls, split: Split) -> "Selection":
        return cls(split, np.arange(len(split)))

    def __len__(self) -> int:
        return len(self.rows)

    def labels(self, kind: TaskKind) -> Labels:
        return kind.labels(self.split.labels).take(self.rows)

    @property
    def text_keys(self) -> np.ndarray:
        return self.split.text_keys[self.rows]

    def take(self, places: np.ndarray) -> "Selection":
        """Keep the rows at these places, in the order of the file."""
        return replace(self, rows=self.rows[np.sort(places)])

    def write(self, path: Path) -> None:
        self.split.write(path, self.rows, with_labels=self.with_labels)


@dataclass(frozen=True)
class Arrangement:
    """What a task's splits are made of, and what is said of it (see `Task`).

    Attributes:
        splits: `train`, `validation`, `test`, and `transfer` and `pool` where there are any.
    """

    kind: TaskKind
    splits: dict[str, Selection]
    notes: list[str]
    tags: dict[str, str]


def arrange(
    config: PublicTaskConfig | FileTaskConfig,
    kind: TaskKind,
    splits: dict[str, Split],
    sources: tuple[str, str],
) -> Arrangement:
    """Hold out what is missing, keep test and validation texts out of train, cut to the sizes asked for.

    The test rows are settled first, then the validation rows, and `train_size` cuts last: so a smaller
    `train_size` keeps both, and takes its rows from among those of a larger one, and another `subset_seed` changes
    nothing but which rows of train are labelled.

    Args:
        splits: `train`, and those of `validation`, `test` and `transfer` that there are; `transfer` may be in `train`.
        sources: Where the validation and the test split come from, as the tags say it.

    Raises:
        UserError: There are not enough rows.
    """
    given = {name: Selection.of(split) for name, split in splits.items()}
    train, validation, test = given["train"], given.get("validation"), given.get("test")
    num_rows, seed = len(train), config.seed
    if test is None:
        size = config.test_size or max(1, round(0.2 * num_rows))
        test, train = _hold_out(kind, train, size, "test", seed)
    elif config.test_size is not None:
        test = _sample(kind, test, config.test_size, "test", seed)
    train, num_in_test = _kept_out(test, train, "test")
    if validation is None:
        size = config.validation_size or max(1, round(0.1 * num_rows))
        validation, train = _hold_out(kind, train, size, "validation", seed)
    elif config.validation_size is not None and isinstance(config, FileTaskConfig):
        validation = _sample(kind, validation, config.validation_size, "validation", seed)
    train, num_in_validation = _kept_out(validation, train, "validation")
    pool, train = train, _draw_labelled(config, kind, train)

    chosen = {"train": train, "validation": validation, "test": test}
    notes = [f"train: {len(train):,} of {num_rows:,} rows", *_notes(chosen, sources, seed)]
    if num_in_test or num_in_validation:
        where = f"in test ({num_in_test:,}) or validation ({num_in_validation:,})"
        notes.append(f"train: {num_in_test + num_in_validation:,} rows dropped, because their text is also {where}")
    if config.transfer is not None:
        transfer = rest_of(pool, train) if config.transfer == REST else replace(given["transfer"], with_labels=False)
        chosen["transfer"], note = clean_transfer(transfer, chosen)
        chosen |= {"pool": pool} if config.transfer == REST else {}
        notes.append(note)
    tags = {"kdexp.validation_split": sources[0], "kdexp.test_split": sources[1]}
    return Arrangement(kind, chosen, notes, tags)


def _draw_labelled(config: PublicTaskConfig | FileTaskConfig, kind: TaskKind, pool: Selection) -> Selection:
    """The rows of train that are labelled."""
    train = pool
    if config.train_size is not None:
        seed = config.seed if config.subset_seed is None else config.subset_seed
        train = _sample(kind, pool, config.train_size, "train", seed)
    elif config.subset_seed is not None:
        problem = "is set, but all rows of train are labelled"
        raise UserError("task.subset_seed", problem, "say how many are to be: task.train_size=500")
    kind.refuse_untrainable(train.labels(kind))
    return train


def _notes(chosen: dict[str, Selection], sources: tuple[str, str], seed: int) -> list[str]:
    """Where validation and test come from, and what they share."""
    notes = []
    for name, source in zip(("validation", "test"), sources, strict=True):
        how = f" (stratified, seed {seed})" if source == HELD_OUT else ""
        notes.append(f"{name}: {len(chosen[name]):,} rows, {source}{how}")
    _, num_shared = _without_texts_of(chosen["test"], chosen["validation"])
    if num_shared:
        notes.append(
            f"validation: the texts of {num_shared:,} of its {len(chosen['validation']):,} rows are also in test, "
            "so the epoch is chosen on what is then tested"
        )
    return notes


def draw_subset(kind: TaskKind, pool: Selection, size: int, seed: int) -> tuple[Selection, Selection]:
    """Draw the labelled rows; return them and the rest, as text without labels."""
    labelled = _sample(kind, pool, size, "train", seed)
    return labelled, rest_of(pool, labelled)


def rest_of(pool: Selection, labelled: Selection) -> Selection:
    """Text that only the teacher labels: the rows of the pool that are not among the labelled ones.

    Raises:
        UserError: There are none.
    """
    rows = np.setdiff1d(pool.rows, labelled.rows, assume_unique=True)
    if not len(rows):
        problem = f"rest, but all {len(pool):,} rows of train are labelled"
        raise UserError("task.transfer", problem, f"label fewer: task.train_size below {len(pool)}")
    return Selection(pool.split, rows, with_labels=False)


def clean_transfer(transfer: Selection, others: Mapping[str, Selection]) -> tuple[Selection, str]:
    """Drop text that other splits have too; also say how much.

    Raises:
        UserError: Nothing is left.
    """
    num_rows, dropped = len(transfer), []
    for name in ("test", "validation", "train"):
        transfer, count = _without_texts_of(others[name], transfer)
        dropped.append(f"{name} ({count:,})")
    where = f"{', '.join(dropped[:-1])} or {dropped[-1]}"
    if not len(transfer):
        problem = f"each of its {num_rows:,} texts is also in {where}"
        raise UserError("task.transfer", problem, "name a file or a split with other text")
    num_dropped = num_rows - len(transfer)
    note = f"transfer: {len(transfer):,} rows that only the teacher labels"
    if num_dropped:
        note += f", after {num_dropped:,} were dropped, because their text is also in {where}"
    return transfer, note


def _stratified_order(strata: np.ndarray, stream: str) -> np.ndarray:
    """Order rows at random so that every prefix holds each stratum in its share, to within one row.

    Args:
        strata: [rows], such as class indices.
    """
    random = Random(stream)
    numbers = np.unique(strata)
    groups = [array("q", np.flatnonzero(strata == number).tobytes()) for number in numbers]
    for rows in groups:
        random.shuffle(rows)
    shares = [(np.arange(len(rows)) + 0.5) / len(rows) for rows in groups]
    repeated = np.repeat(numbers, [len(rows) for rows in groups])
    shuffled = np.concatenate([np.frombuffer(rows, dtype=np.int64) for rows in groups])
    return shuffled[np.lexsort((shuffled, repeated, np.concatenate(shares)))]


def _hold_out(kind: TaskKind, train: Selection, size: int, name: str, seed: int) -> tuple[Selection, Selection]:
    """Take `size` rows out of train; return them and the rest."""
    if size >= len(train):
        problem = f"{size:,} rows asked, but train has {len(train):,}"
        raise UserError(f"task.{name}_size", problem, f"ask for fewer, or name a file of its own in task.{name}")
    order = _stratified_order(kind.strata(train.labels(kind)), f"{name}/{seed}")
    return train.take(order[:size]), train.take(order[size:])


def _sample(kind: TaskKind, selection: Selection, size: int, name: str, seed: int) -> Selection:
    if size > len(selection):
        problem = f"{size:,} rows asked, but {name} has {len(selection):,}"
        raise UserError(f"task.{name}_size", problem, "ask for fewer, or leave it out to use all of them")
    return selection.take(_stratified_order(kind.strata(selection.labels(kind)), f"{name}/{seed}")[:size])


def _kept_out(other: Selection, train: Selection, name: str) -> tuple[Selection, int]:
    """Drop the rows of train whose text is also in a split that is measured on; also say how many."""
    left, count = _without_texts_of(other, train)
    if not len(left):
        problem = f"each of its {count:,} texts is also in {name}, so that none is left to train on"
        raise UserError("task.train", problem, f"name files of different texts, for task.train or task.{name}")
    return left, count


def _without_texts_of(other: Selection, selection: Selection) -> tuple[Selection, int]:
    """Drop the rows whose text, or pair of texts, also occurs in another selection; also say how many."""
    places = np.flatnonzero(~np.isin(selection.text_keys, other.text_keys))
    return selection.take(places), len(selection) - len(places)
