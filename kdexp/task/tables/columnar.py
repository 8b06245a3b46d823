"""Tables in Arrow's own formats: Parquet files, Arrow files, and folders that `datasets` saved."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]

from kdexp.arrow import BATCH_ROWS, map_table, write_table
from kdexp.errors import UserError
from kdexp.task.tables.source import Source
from kdexp.task.tables.table import Table

_SAVED_SPLIT, _SAVED_SPLITS = "state.json", "dataset_dict.json"


def read_parquet(source: Source, columns: Sequence[str], target: Path) -> Table:
    """
    Raises:
        UserError: It is not a whole Parquet file, or has no rows.
    """
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with source.open_bytes() as opened, pyarrow.parquet.ParquetFile(opened) as file:
            wanted = _wanted(source, file.schema_arrow.names, columns)
            batches = file.iter_batches(BATCH_ROWS, columns=wanted) if wanted else iter(())
            return _keep(source, file.schema_arrow, wanted, batches, target, file.metadata.num_rows)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        problem = f"cannot read {source.path}: {error}"
        raise source.refusal(problem, "check that it is a whole Parquet file") from error


def is_saved_dataset(path: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote a folder: one split, or several."""
    return (path / _SAVED_SPLIT).is_file() or (path / _SAVED_SPLITS).is_file()


def read_saved_dataset(source: Source, columns: Sequence[str], target: Path, names: Sequence[str]) -> Table:
    """
    Args:
        names: What the wanted split may be called, where the folder holds several.

    Raises:
        UserError: The folder has no such split, is damaged, or has no rows.
    """
    from datasets import Dataset

    folder, notes = source.path, []
    if (folder / _SAVED_SPLITS).is_file():
        splits = sorted(path.name for path in folder.iterdir() if (path / _SAVED_SPLIT).is_file())
        found = next((name for name in names if name in splits), None)
        if found is None:
            problem = f"{folder} has no split {' or '.join(names)}"
            raise source.refusal(problem, f"name the folder of one of its splits: {', '.join(splits) or 'none'}")
        folder = folder / found
        notes.append(f"{source.path}: split {found}; each split is asked for by its setting ({', '.join(splits)})")
    try:
        saved = Dataset.load_from_disk(str(folder)).with_format("arrow")
        wanted = _wanted(source, saved.column_names, columns)
        schema = saved.features.arrow_schema
        records = _saved_batches(saved, wanted) if wanted else iter(())
        return _keep(source, schema, wanted, records, target, len(saved), notes)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise source.refusal(f"cannot read {folder}: {error}", "save it again with save_to_disk") from error


def refuse_ambiguous(source: Source, names: Sequence[str], columns: Iterable[str]) -> None:
    """Refuse columns that are asked for and are there twice; others may be called as they like."""
    for name in columns:
        if names.count(name) > 1:
            raise source.refusal(f"{source.path} has several columns called '{name}'", "rename or remove them")


def _saved_batches(saved: Any, wanted: list[str]) -> Iterator[pa.RecordBatch]:
    for table in saved.iter(BATCH_ROWS):
        yield from table.select(wanted).combine_chunks().to_batches()


def _wanted(source: Source, names: Sequence[str], columns: Sequence[str]) -> list[str]:
    refuse_ambiguous(source, names, columns)
    return [name for name in columns if name in names]


def _keep(
    source: Source,
    schema: pa.Schema,
    wanted: list[str],
    batches: Iterator[pa.RecordBatch],
    target: Path,
    num_rows: int,
    notes: Sequence[str] = (),
) -> Table:
    if not num_rows:
        raise UserError(source.setting, f"{source.path} has no rows", "name a file with rows")
    kept = pa.schema([schema.field(name) for name in wanted])
    write_table(target, kept, (_valid(batch, kept) for batch in batches))
    table = map_table(target)
    named = {name: labels for name, labels in _class_names(schema).items() if name in wanted}
    columns = {name: table.column(name) for name in wanted}
    return Table(str(source.path), schema.names, columns, class_names=named, notes=notes)


def _class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Names of the classes of columns of class numbers, which `datasets` leaves in a schema."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        # Of a list, what it is a list of.
        inner = {column: feature.get("feature") or feature for column, feature in features.items()}
        return {
            column: list(feature["names"])
            for column, feature in inner.items()
            if feature.get("_type") == "ClassLabel" and _holds_integers(schema.field(column).type)
        }
    except (TypeError, KeyError, ValueError, AttributeError):  # written by something else
        return {}


def _holds_integers(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(pa.types.is_integer(kind.value_type if is_list else kind))


def _valid(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """
    Raises:
        pa.ArrowInvalid: A string is not UTF-8.
    """
    batch.validate(full=True)
    return pa.record_batch([batch.column(field.name) for field in schema], schema=schema)
