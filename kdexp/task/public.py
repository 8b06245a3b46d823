"""Find the tables of a public data set: in a folder that holds a copy, or on the Hugging Face hub."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdexp import hub
from kdexp.errors import UserError
from kdexp.fingerprint import path_digest
from kdexp.task.config import REST, PublicTaskConfig
from kdexp.task.layout import files_read, read_copy, split_files
from kdexp.task.tables.file import SPLIT_NAMES, SUFFIXES, list_folder
from kdexp.task.tables.table import Table

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class PublicSources:
    """Where the splits train, validation and test are read from; test may be absent.

    Attributes:
        digests: Of the data, under the setting that named them.
        read: Reads them: one table per file. It takes a folder that it may fill.
        no_validation: That there is no dev set, which matters where test has no labels.
    """

    digests: dict[str, list]
    read: Callable[[Path], dict[str, list[Table]]]
    no_validation: UserError | None = None


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
    files = {split: split_files(folder, config, split, names) for split, names in wanted.items()}
    missing = {}
    for split in wanted:
        if not files[split] and split != "test":
            names = " or ".join(wanted[split])
            problem = f"no file for the split {split} in {folder} ({names}, with one of {', '.join(SUFFIXES)})"
            setting = "task.transfer" if split == "transfer" else "task.path"
            missing[split] = UserError(setting, problem, list_folder(folder))
    no_validation = missing.pop("validation", None)
    for refusal in missing.values():
        raise refusal

    def read(scratch: Path) -> dict[str, list[Table]]:
        return {
            split: [
                read_copy(path, columns, config, scratch / f"{split}.{shard}.table.arrow")
                for shard, path in enumerate(paths)
            ]
            for split, paths in files.items()
            if paths
        }

    found = [path for paths in files.values() for path in paths]
    digests = [digest for path in found for file in files_read(path) for digest in path_digest(file)]
    return PublicSources({"path": digests}, read, no_validation)


def _wanted_splits(config: PublicTaskConfig) -> dict[str, tuple[str, ...]]:
    """What each split may be called; all but test have to be there."""
    is_split = config.transfer not in (None, REST) and config.transfer_file is None
    dev = config.dev
    several = {"validation": (f"dev_{dev}", f"validation_{dev}"), "test": (f"test_{dev}",)} if dev else {}
    return SPLIT_NAMES | several | ({"transfer": (str(config.transfer),)} if is_split else {})


def _hub_sources(config: PublicTaskConfig, columns: Sequence[str]) -> PublicSources:
    splits = _load_from_hub(config)
    tables, no_validation = {}, None
    for split, names in _wanted_splits(config).items():
        name = next((name for name in names if name in splits), None)
        if name is not None:
            rows = splits[name]
            kept = {column: rows.data.column(column) for column in columns if column in rows.column_names}
            named = {column: rows.features[column].names for column in kept if _names_classes(rows, column)}
            place = f"{config.dataset} ({name})"
            tables[split] = [Table(place, rows.column_names, kept, class_names=named)]
        elif split != "test":
            setting, missing = ("transfer", names[0]) if split == "transfer" else ("dataset", split)
            problem = f"{config.dataset} has no split {missing}"
            refusal = UserError(f"task.{setting}", problem, f"it has: {', '.join(splits)}")
            if split != "validation":
                raise refusal
            no_validation = refusal
    cached = [file["filename"] for rows in splits.values() for file in rows.cache_files]
    digests = [file for path in cached for file in path_digest(Path(path))]
    return PublicSources({"dataset": digests}, lambda scratch: tables, no_validation)


def _names_classes(rows: Any, column: str) -> bool:
    """Whether the data set says what the numbers of a column stand for."""
    return bool(getattr(rows.features[column], "names", None))


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
        why, remedy = f"{constants.ENDPOINT} does not answer", ""
        if not unreachable:
            why, remedy = hub.refusal(error, "task.revision") or (" ".join(str(error).split())[:300], "")
        instead = "use task.path=<folder with train.tsv and dev.tsv>, or a task without download: task=reviews"
        raise UserError("task.dataset", f"cannot load {config.dataset}: {why}", remedy or instead) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    # Its cache does not look at the revision when it is offline: the one loaded last will do for any. The
    # cached files lie in a folder that is named by their commit.
    cached = {Path(file["filename"]).parent.name for file in splits["train"].cache_files}
    if (offline or unreachable) and _COMMIT.fullmatch(config.revision or "") and cached != {config.revision}:
        problem = f"the cached copy of {config.dataset} is of {', '.join(cached)}, not of {config.revision}"
        raise UserError("task.revision", problem, "connect to the hub once, or name the revision that is cached")
    return splits
