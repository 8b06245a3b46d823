"""A task: splits of texts with class labels, whatever they come from.

`load_task` tells the whole story: embedded tasks are generated, public ones come from the hub or from a
local copy, and `task=file` reads a person's own tables.
"""

from dataclasses import dataclass, field

from kdexp.config import EmbeddedTaskConfig, TaskConfig
from kdexp.errors import UserError


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


@dataclass(frozen=True)
class Task:
    """Everything that a run knows about its data.

    Attributes:
        label_names: Class names in index order.
        transfer: Unlabelled text that the teacher may label; None when there is none.
        notes: One-line announcements of what was decided about the splits, for the log.
        tags: The same facts for MLflow (`kdexp.validation_split`, `kdexp.test_split`).
    """

    name: str
    label_names: list[str]
    train: Split
    validation: Split
    test: Split
    transfer: Split | None
    primary_metric: str = "accuracy"
    notes: list[str] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


def load_task(config: TaskConfig) -> Task:
    """Load the splits that a configuration describes.

    Raises:
        UserError: A file, column, label or size is not what the configuration says.
    """
    match config:
        case EmbeddedTaskConfig():
            return _load_embedded(config)
        case _:
            raise TypeError(f"no loader for {type(config).__name__}")


def _load_embedded(config: EmbeddedTaskConfig) -> Task:
    match config.name:
        case "reviews":
            from kdexp import reviews as generator
        case "inference":
            from kdexp import inference as generator  # type: ignore[no-redef]
        case _:
            raise UserError(
                "task.name", f"no embedded task is called '{config.name}'", "use reviews or inference"
            )
    sizes = {
        "train": config.train_size,
        "validation": config.validation_size,
        "test": config.test_size,
        "transfer": config.transfer_size,
    }
    rows = generator.generate_splits(sizes, seed=config.seed, label_noise=config.label_noise)
    splits = {name: _split_of(rows[name], labelled=name != "transfer") for name in sizes}
    return Task(
        name=config.name,
        label_names=list(generator.LABELS),
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        transfer=splits["transfer"] if len(splits["transfer"]) else None,
        notes=[f"task {config.name}: generated text (seed {config.seed}), no download"],
        tags={"kdexp.validation_split": "generated", "kdexp.test_split": "generated"},
    )


def _split_of(rows: list[tuple], *, labelled: bool) -> Split:
    """Turn generated rows (text, label) or (premise, hypothesis, label) into columns."""
    *texts, labels = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [])
    return Split(texts[0], texts[1] if len(texts) == 2 else None, labels if labelled else None)
