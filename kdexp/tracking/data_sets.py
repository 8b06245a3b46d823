"""The splits of a task as MLflow data sets: what a run read, told apart by content."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdexp.task.config import FileTaskConfig, PublicTaskConfig, TaskConfig

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput

    from kdexp.task.load import Task
    from kdexp.task.split import Split

MAX_NAME_CHARACTERS = 500  # MLflow's limit
MAX_DIGEST_CHARACTERS = 16  # MLflow takes 36, and shows all of them
_COLUMN_TYPES = {
    "string": "string",
    "large_string": "string",
    "int64": "long",
    "float64": "double",
    "double": "double",
}


@dataclass(frozen=True)
class DataSet:
    """One split as MLflow shows it.

    Attributes:
        split: `train`, `validation`, `test` or `transfer`.
        digest: The beginning of the SHA-256 of its texts and labels.
        columns: MLflow's types by name.
        source_type, source: Where it comes from, as `mlflow.data.get_source` reads it.
    """

    name: str
    split: str
    digest: str
    num_rows: int
    columns: Mapping[str, str]
    source_type: str
    source: Mapping[str, Any]

    def entity(self) -> "DatasetInput":
        from mlflow.entities import Dataset, DatasetInput, InputTag

        columns = [{"name": name, "type": kind, "required": True} for name, kind in self.columns.items()]
        dataset = Dataset(
            name=self.name,
            digest=self.digest,
            source_type=self.source_type,
            source=json.dumps(self.source),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": self.num_rows}),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", self.split)])


def data_sets(task: "Task", config: TaskConfig | None) -> list[DataSet]:
    """Every split of a task.

    Args:
        config: What it was loaded by; None where a program handed it in.
    """
    splits = {"train": task.train, "validation": task.validation, "test": task.test, "transfer": task.transfer}
    return [_data_set(task, name, split, config) for name, split in splits.items() if split is not None]


def _data_set(task: "Task", name: str, split: "Split", config: TaskConfig | None) -> DataSet:
    shown, source_type, source = _source(task, name, config)
    types = {
        column: str(feature.dtype) for column, feature in split.data.features.items() if hasattr(feature, "dtype")
    }
    return DataSet(
        name=shown[:MAX_NAME_CHARACTERS],
        split=name,
        digest=split.digest[:MAX_DIGEST_CHARACTERS],
        num_rows=len(split),
        columns={column: _COLUMN_TYPES[kind] for column, kind in types.items() if kind in _COLUMN_TYPES},
        source_type=source_type,
        source=source,
    )


def _source(task: "Task", split: str, config: TaskConfig | None) -> tuple[str, str, dict[str, Any]]:
    """Name of the data set, and type and place of its source."""
    match config:
        case FileTaskConfig():
            # What has no file of its own was held out of the training file.
            own = config.transfer_file if split == "transfer" else getattr(config, split)
            path = Path(own or config.train)
            return path.name, "local", {"uri": str(path)}
        case PublicTaskConfig(path=str(path)):
            return task.name, "local", {"uri": path}
        case PublicTaskConfig():
            place = {"path": config.dataset, "config_name": config.subset, "revision": config.revision}
            return task.name, "hugging_face", {**place, "split": split}
        case _:
            return task.name, "code", {"tags": {"task": task.name}}
