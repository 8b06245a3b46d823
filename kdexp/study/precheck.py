"""What can be known of jobs before any of them starts: a mistake in the last of eight is told before the first."""

from collections.abc import Sequence
from dataclasses import replace

from kdexp.cache import Cache
from kdexp.config import Config, teacher_settings
from kdexp.errors import UserError
from kdexp.model.checkpoints import find_checkpoint
from kdexp.model.config import ModelConfig
from kdexp.study.launch import Job
from kdexp.task.config import EmbeddedTaskConfig, TaskConfig
from kdexp.task.kinds.base import TaskKind
from kdexp.task.load import load_task
from kdexp.training.checks import check_fit


def prechecked(jobs: Sequence[Job], cache: Cache) -> list[Job]:
    """The jobs; those whose data, checkpoints or loss cannot be used with the refusal that they would end in."""
    kinds: dict[str, TaskKind | UserError] = {}

    def check(job: Job) -> Job:
        if job.config is None or job.refusal:
            return job
        task = job.config.task
        if repr(task) not in kinds:
            kinds[repr(task)] = _kind(task, cache)
        kind = kinds[repr(task)]
        refusal = kind if isinstance(kind, UserError) else _refusal(job.config, kind)
        return replace(job, refusal=refusal) if refusal else job

    return [check(job) for job in jobs]


def _kind(config: TaskConfig, cache: Cache) -> TaskKind | UserError:
    if isinstance(config, EmbeddedTaskConfig):  # its text is made up, and need not be made twice
        few = min(8, config.transfer_size) if config.has_pool else 0
        config = replace(config, train_size=8, validation_size=8, test_size=8, transfer_size=few)
    try:
        return load_task(config, cache).kind
    except UserError as error:
        return error


def _refusal(config: Config, kind: TaskKind) -> UserError | None:
    try:
        for role, teacher in teacher_settings(config).items():
            teacher.refuse_kind(role, kind)
        config.student.refuse_kind(kind)
        for role, model in (teacher_settings(config) | {"student": config.student}).items():
            if isinstance(model, ModelConfig) and model.checkpoint is not None:
                find_checkpoint(role, model.checkpoint)
        check_fit(config.loss, kind.outputs, kind.num_outputs, config.tokenization, config.train.batch_size)
    except UserError as error:
        return error
    return None
