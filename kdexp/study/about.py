"""The report of a study: its files, and what a reader needs of it who sees neither MLflow nor the command line."""

import contextlib
import platform
import shlex
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from kdexp.fingerprint import library_versions, own_version
from kdexp.results.metric_names import parameters_metric
from kdexp.results.report import Block, Facts, Heading, Preformatted, html_page, markdown_page
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.store import StoredRun

_MOST_VALUES = 8


def log_report(title: str, blocks: Sequence[Block], parent: TrackedRun, folder: str) -> None:
    """As a page with its figures, and as Markdown with their captions."""
    parent.log_text(html_page(title, blocks), f"{folder}/report.html")
    parent.log_text(markdown_page(title, blocks), f"{folder}/report.md")


def about_blocks(runs: Sequence[StoredRun]) -> list[Block]:
    """Task, data sizes, models with their sizes, loss, schedule, versions, date, and the command of this process.

    Args:
        runs: Those that the report is about; of what they differ in, every value is named.
    """
    if not runs:
        return []
    facts = [
        ("task", f"{_task(runs)}; rows: {_rows(runs)}"),
        ("teacher", _models(runs, "teacher")),
        ("student", _models(runs, "student")),
        ("loss", _loss(runs)),
        (
            "training",
            f"{_length(runs)}, batches of {_values(runs, 'train.batch_size')}, "
            f"learning rate {_values(runs, 'train.learning_rate')}, seeds {_values(runs, 'seed')}",
        ),
        ("hardware", _values(runs, "hardware.name")),
        ("versions", _versions()),
        ("date", _dates(runs)),
    ]
    command = shlex.join(["python", "-m", "kdexp", *sys.argv[1:]])
    return [Heading("What was run"), Facts([fact for fact in facts if fact[1]]), Preformatted(command)]


def _task(runs: Sequence[StoredRun]) -> str:
    """Of a person's own files with the one that is trained on."""
    files = _values(runs, "task.train")
    return _values(runs, "task.name") + (f" ({files})" if files else "")


def _length(runs: Sequence[StoredRun]) -> str:
    """Of a training: epochs, or the steps that count in their place where they are set."""
    steps = _values(runs, "train.max_steps")
    by_epochs = [run for run in runs if run.params.get("train.max_steps", "None") == "None"]
    epochs = f"epochs {_values(by_epochs, 'train.epochs')}" if by_epochs else ""
    return ", ".join(filter(None, [epochs, f"steps {steps}" if steps else ""]))


def _rows(runs: Sequence[StoredRun]) -> str:
    sizes = {
        split: _listed([run.tags.get(f"kdexp.{split}_rows", "") for run in runs])
        for split in ("train", "validation", "test")
    }
    return ", ".join(f"{split} {size}" for split, size in sizes.items() if size) or "not known"


def _models(runs: Sequence[StoredRun], role: str) -> str:
    """`bert: compact bert, 164,101 parameters; ...`"""
    found = []
    for run in runs:
        made_from = (run.params.get(f"{role}.{name}", "None") for name in ("checkpoint", "path", "model"))
        origin = next((value for value in made_from if value != "None"), f"compact {run.params.get(f'{role}.family')}")
        size = run.metrics.get(parameters_metric(role))
        shown = "" if size is None else f", {size:,.0f} parameters"
        found.append(f"{run.params.get(f'{role}.name', '')}: {origin}{shown}")
    return _listed(found, separator="; ")


def _loss(runs: Sequence[StoredRun]) -> str:
    settings = sorted(
        {name for run in runs for name in run.params if name.startswith("loss.") and name != "loss.name"}
    )
    named = [f"{name.removeprefix('loss.')} {values}" for name in settings if (values := _values(runs, name))]
    return ", ".join([_values(runs, "loss.name"), *named])


def _values(runs: Sequence[StoredRun], name: str) -> str:
    return _listed([value for run in runs if (value := run.params.get(name, "None")) != "None"])


def _listed(values: Sequence[str], separator: str = ", ") -> str:
    """Each once; numbers by size."""
    distinct = list(dict.fromkeys(filter(None, values)))
    with contextlib.suppress(ValueError):
        distinct.sort(key=float)
    more = f"{separator}and {len(distinct) - _MOST_VALUES} more" if len(distinct) > _MOST_VALUES else ""
    return separator.join(distinct[:_MOST_VALUES]) + more


def _versions() -> str:
    versions = {"kdexp": own_version(), **library_versions(), "Python": platform.python_version()}
    return ", ".join(f"{name} {number}" for name, number in versions.items())


def _dates(runs: Sequence[StoredRun]) -> str:
    first, last = (
        datetime.fromtimestamp(moment / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        for moment in (min(run.started for run in runs), max(run.started for run in runs))
    )
    return first if first == last else f"{first} to {last}"
