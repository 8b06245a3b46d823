"""Find the tables of a public data set: in a folder that holds a copy, or on the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdexp import hub
from kdexp.errors import UserError
from kdexp.fingerprint import path_digest
from kdexp.task.columnar import is_saved_dataset
from kdexp.task.config import REST, PublicTaskConfig
from kdexp.task.file import SPLIT_NAMES, SUFFIXES, Reading, list_folder, read_table
from kdexp.task.table import Table

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class PublicSources:
    """Where the splits train, validation and test are read from; test may be absent.

    Attributes:
        digests: Of the data, under the setting that named them.
        read: Reads them: one table per file. It takes a folder that it may fill.
    """

    digests: dict[str, list]
    read: Callable[[Path], dict[str, list[Table]]]


def public_sources(config: PublicTaskConfig, columns: Sequence[str]) -> PublicSources:
    """Find the data.

    Args:
        columns: The text columns, then the label column.

    Raises:
        UserError: The folder lacks a split, or the hub cannot be reached or has no such data set.
    """
    if config.path is None:
        return _hub_sources(config, columns)
    folder = Path(config.path).expanduser()
    if not folder.is_dir():
        problem = f"{folder} is a file" if folder.exists() else f"no folder {folder}"
        raise UserError("task.path", problem, "name the folder that holds train.tsv and dev.tsv")
    wanted = _wanted_splits(config)
    files = {split: _split_files(folder, config.subset, names) for split, names in wanted.items()}
    for split in wanted:
        if not files[split] and split != "test":
            names = " or ".join(wanted[split])
            problem = f"no file for the split {split} in {folder} ({names}, with one of {', '.join(SUFFIXES)})"
            raise UserError("task.transfer" if split == "transfer" else "task.path", problem, list_folder(folder))

    def read(scratch: Path) -> dict[str, list[Table]]:
        return {
            split: [
                _read_file(path, columns, config.labels or [], scratch / f"{split}.{shard}.table.arrow")
                for shard, path in enumerate(paths)
            ]
            for split, paths in files.items()
            if paths
        }

    digests = [file for paths in files.values() for path in paths for file in path_digest(path)]
    return PublicSources({"path": digests}, read)


def _wanted_splits(config: PublicTaskConfig) -> dict[str, tuple[str, ...]]:
    """What each split may be called; all but test have to be there."""
    is_split = config.transfer not in (None, REST) and config.transfer_file is None
    return SPLIT_NAMES | ({"transfer": (str(config.transfer),)} if is_split else {})


def _split_files(folder: Path, subset: str | None, names: Sequence[str]) -> list[Path]:
    """Find the file of a split, or its shards, in the folder itself or where the hub's layouts put them."""
    for place in (folder, folder / "data", *([folder / subset] if subset else [])):
        for name in names:
            if is_saved_dataset(place / name):
                return [place / name]
            pattern = re.compile(rf"{name}(-\d+-of-(?P<shards>\d+))?\.(?P<suffix>\w+(\.\w+)?)")
            found = [(match, path) for path in place.glob(f"{name}*") if (match := pattern.fullmatch(path.name))]
            paths = sorted(path for match, path in found if f".{match['suffix'].lower()}" in SUFFIXES)
            if not paths:
                continue
            shards = int(pattern.fullmatch(paths[0].name)["shards"] or 1)  # type: ignore[index]
            if len(paths) != shards:
                problem = f"{place} has {len(paths)} files for the split {names[0]}, expected {shards}"
                raise UserError("task.path", problem, f"keep one kind of {', '.join(p.name for p in paths)}")
            return paths
    return []


def _read_file(path: Path, columns: Sequence[str], labels: Sequence[str], target: Path) -> Table:
    table = read_table(path, columns, target, setting="task.path")
    known = {*labels, *(str(index) for index in range(len(labels)))}
    if columns[0] in table.names or len(columns) != 2 or len(table.names) != 2 or table.names[1] not in known:
        return table
    # The sentence-level distribution of SST-2 has no header: what was taken for one is a text and its label.
    without_header, place = Reading(header=False), target.with_suffix(".bare")
    bare = read_table(path, ["0", "1"], place, setting="task.path", reading=without_header)
    return replace(bare, names=list(columns), columns=dict(zip(columns, bare.columns.values(), strict=True)))


def _hub_sources(config: PublicTaskConfig, columns: Sequence[str]) -> PublicSources:
    splits = _load_from_hub(config)
    tables = {}
    for split, names in _wanted_splits(config).items():
        name = next((name for name in names if name in splits), None)
        if name is not None:
            rows = splits[name]
            kept = {column: rows.data.column(column) for column in columns if column in rows.column_names}
            tables[split] = [Table(f"{config.dataset} ({name})", rows.column_names, kept)]
        elif split != "test":
            setting, missing = ("transfer", names[0]) if split == "transfer" else ("dataset", split)
            problem = f"{config.dataset} has no split {missing}"
            raise UserError(f"task.{setting}", problem, f"it has: {', '.join(splits)}")
    cached = [file["filename"] for rows in splits.values() for file in rows.cache_files]
    digests = [file for path in cached for file in path_digest(Path(path))]
    return PublicSources({"dataset": digests}, lambda scratch: tables)


def _load_from_hub(config: PublicTaskConfig) -> Any:
    """Load the DatasetDict of a hub data set, from the local cache when the hub does not answer."""
    import datasets
    from huggingface_hub import constants

    offline = datasets.config.HF_HUB_OFFLINE
    unreachable = not offline and not hub.is_reachable()
    # Without a network, load_dataset would retry for 24 s before it looks into its cache.
    datasets.config.HF_HUB_OFFLINE = offline or unreachable
    try:
        splits = datasets.load_dataset(config.dataset, config.subset, revision=config.revision)
    except (OSError, ValueError) as error:
        why = f"{constants.ENDPOINT} does not answer" if unreachable else str(error)
        raise UserError(
            "task.dataset",
            f"cannot load {config.dataset}: {why}",
            "use task.path=<folder with train.tsv and dev.tsv>, or a task without download: task=reviews",
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    # Its cache does not look at the revision when it is offline: the one loaded last will do for any. The
    # cached files lie in a folder that is named by their commit.
    cached = {Path(file["filename"]).parent.name for file in splits["train"].cache_files}
    if (offline or unreachable) and _COMMIT.fullmatch(config.revision or "") and cached != {config.revision}:
        problem = f"the cached copy of {config.dataset} is of {', '.join(cached)}, not of {config.revision}"
        raise UserError("task.revision", problem, "connect to the hub once, or name the revision that is cached")
    return splits
