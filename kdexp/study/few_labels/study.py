"""The study `few_labels`: what a teacher is worth where few rows are labelled, counted in labelled rows.

Students learn from labelled subsets of growing size, without a teacher, from its hard answers, and from its
probabilities; the other rows are text that only the teacher labels. A last rung trains the baseline on all labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from kdexp.cache import Cache
from kdexp.config import Config
from kdexp.errors import UserError
from kdexp.study.few_labels.report import report_study
from kdexp.study.launch import Job, Launch
from kdexp.study.sweep import open_sweep
from kdexp.task.arrange import HELD_OUT
from kdexp.task.config import REST, EmbeddedTaskConfig, FileTaskConfig
from kdexp.task.load import Task, load_task
from kdexp.teacher.config import EncoderTeacherConfig

SWEPT = ("task.train_size", "task.transfer_size", "task.subset_seed")
"""What the study varies besides the seed."""

_SMALLEST, _MOST_RUNGS = 125, 4
_MOST_GENERATED = 4000
"""Rows of a generated task, unless a person sets them: the whole study is to take some ten minutes of one core."""


def rungs(config: Config, typed: Sequence[str]) -> list[list[str]]:
    """What each rung of the ladder overrides, from the smallest; the last is the baseline on all labels.

    Args:
        config: What all jobs have in common.
        typed: What a person overrode, as `setting=value`.

    Raises:
        UserError: The sizes do not fit the data, or a setting is one that the study sets itself.
    """
    names = {line.partition("=")[0] for line in typed}
    _refuse(config, names)
    task, num_rows = _all_rows(config, names)
    sizes = config.few_labels.sizes
    if sizes is None:
        sizes = default_sizes(num_rows, task.kind.num_outputs)
    if not sizes or sizes != sorted(set(sizes)) or sizes[-1] >= num_rows:
        problem = f"got {sizes}, of {num_rows:,} rows"
        raise UserError(
            "few_labels.sizes", problem, f"expected ascending numbers below {num_rows}, such as [125,250,500]"
        )
    labelled = config.few_labels.labelled
    if labelled is not None and labelled not in sizes:
        raise UserError("few_labels.labelled", f"got {labelled}", f"expected one of {', '.join(map(str, sizes))}")
    common = _common(config, task, names, sizes[0])
    # The last rung is the ceiling: the baseline on all labels.
    has_ceiling = "pseudo_labels" in config.controls and "controls.pseudo_labels.ceiling" not in names
    controls = ["controls.pseudo_labels.ceiling=false"] if has_ceiling else []
    ladder = [[*_rung(config, size, num_rows), *common, *controls] for size in sizes]
    return [*ladder, [*_all_labels(config, num_rows), *(line for line in common if "learns_from" not in line)]]


def refuse_several_curves(swept: Iterable[str]) -> None:
    """Refuse what would put runs of several settings into one curve.

    Args:
        swept: What a person varies.

    Raises:
        UserError: It is not the seed alone.
    """
    for name in swept:
        if name != "seed":
            problem = "has several values, but the study draws the curves of one setting over its seeds"
            raise UserError(name, problem, "name one value, and give each its own study=<name>")


def default_sizes(num_rows: int, num_outputs: int) -> list[int]:
    """A doubling ladder from 125 rows, or from ten rows per class, well below all."""
    smallest = _SMALLEST
    while smallest < 10 * num_outputs:
        smallest *= 2
    doubled = (smallest * 2**rung for rung in range(_MOST_RUNGS))
    return [size for size in doubled if 1.5 * size <= num_rows]


def _refuse(config: Config, typed: set[str]) -> None:
    if not isinstance(config.task, EmbeddedTaskConfig) and config.task.train_size is not None:  # type: ignore[attr-defined]
        raise UserError(
            "task.train_size", "is what the study varies", "name its sizes: few_labels.sizes=[125,250,500]"
        )
    if "task.transfer_size" in typed:
        problem = "has no effect: what is not labelled is text"
        raise UserError("task.transfer_size", problem, "set the number of both together, task.train_size")
    if config.task.transfer is not None:  # type: ignore[attr-defined]
        raise UserError("task.transfer", "is set by the study: the rows that are not labelled", "leave it out")
    if not config.loss.uses_logits:
        raise UserError(
            "loss", f"{config.loss.name} takes nothing from the teacher's answers", "choose another, such as kd"
        )
    if not config.baseline:
        raise UserError("baseline", "got false, but labelled rows are counted by it", "leave it out")
    if not config.tracking.enabled:
        raise UserError("tracking", "is off, and the study is read from it", "remove tracking=none")


def _all_rows(config: Config, typed: set[str]) -> tuple[Task, int]:
    """The task, and how many rows there are to be labelled."""
    cache = Cache(Path(config.cache_dir))
    if isinstance(config.task, EmbeddedTaskConfig):
        few = replace(config.task, train_size=64, transfer_size=0, subset_seed=None, validation_size=8, test_size=8)
        num_rows = config.task.train_size
        return load_task(few, cache), num_rows if "task.train_size" in typed else min(num_rows, _MOST_GENERATED)
    task = load_task(replace(config.task, subset_seed=None), cache)  # type: ignore[call-arg]
    return task, len(task.train)


def _common(config: Config, task: Task, typed: set[str], smallest: int) -> list[str]:
    """What all rungs override, where a person did not."""
    lines = []
    num_validation = config.task.validation_size  # type: ignore[attr-defined]
    can_choose = isinstance(config.task, EmbeddedTaskConfig) or (
        isinstance(config.task, FileTaskConfig) or task.tags["kdexp.validation_split"] == HELD_OUT
    )
    if can_choose and "task.validation_size" not in typed:
        # Who has few labels has few to choose the epoch by.
        known = num_validation if isinstance(config.task, EmbeddedTaskConfig) else len(task.validation)
        lines.append(f"task.validation_size={min(smallest, known)}")
    teacher = config.teacher
    if isinstance(teacher, EncoderTeacherConfig) and teacher.checkpoint is None and "teacher.learns_from" not in typed:
        lines.append("teacher.learns_from=all")  # from scratch it would learn nothing from so few
    return lines


def _rung(config: Config, size: int, num_rows: int) -> list[str]:
    generated = [f"task.transfer_size={num_rows - size}"] if isinstance(config.task, EmbeddedTaskConfig) else []
    return [f"task.train_size={size}", *generated, f"task.transfer={REST}"]


def _all_labels(config: Config, num_rows: int) -> list[str]:
    """The baseline alone, which is what a student is without a teacher."""
    is_generated = isinstance(config.task, EmbeddedTaskConfig)
    size = [f"task.train_size={num_rows}", "task.transfer_size=0"] if is_generated else ["task.train_size=null"]
    alone = ["loss.alpha=1", "loss.alpha_end=null", "terms=[]", "controls=[]", "train.use_transfer=false"]
    return [*size, "task.subset_seed=null", *alone, "train.transfer_ratio=null", "train.transfer_weight=1"]


def run_few_labels(jobs: Sequence[Job], swept: Sequence[str], launch: Launch) -> None:
    """Run the study and report it.

    Raises:
        UserError: No job is legal.
        SweepError: Some jobs failed; what the others found is reported.
    """
    with open_sweep(jobs, swept, "few_labels") as sweep:
        sweep.run(sweep.distinct_jobs(), launch)
        report_study(sweep.finished_runs(), sweep.parent, sweep.base)
