"""What a run is called, logged as, and announced with."""

import logging
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from kdexp.cache import Cache
from kdexp.config import Config, flatten, teacher_settings
from kdexp.export.machine import cpu
from kdexp.fingerprint import own_version, plain
from kdexp.hardware import Hardware
from kdexp.identity import config_hash
from kdexp.loss.base import Loss
from kdexp.model.config import ModelConfig
from kdexp.model.encoder import Encoder
from kdexp.results.card import CardFacts
from kdexp.results.note import unfinished_note
from kdexp.student.config import StaticStudentConfig, StudentConfig, Vocab
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, TaskConfig
from kdexp.task.load import Task
from kdexp.teacher.base import Teacher, shown_encoders
from kdexp.teacher.config import TeacherConfig, Tokenization
from kdexp.teacher.features import alignment_tag
from kdexp.tracking.data_sets import data_sets
from kdexp.tracking.run import RunDescription
from kdexp.tracking.secrets import redact
from kdexp.tracking.store import NOTE_TAG

logger = logging.getLogger(__name__)


_TOLD = (
    *("seed", "teacher", "more_teachers", "student", "task", "loss", "loss.alpha", "loss.temperature"),
    *("condition", "terms"),
)
"""What the name says of every run, whether a sweep varies it or not."""


def run_name(config: Config) -> str:
    """`reviews  roberta 2x64 -> bert 1x24  kd a=0.5 T=4 +rkd  s0`, then what a study or a sweep varies besides.

    Compact models are given as layers x hidden size; several teachers are joined by `+`.
    """
    teachers = "+".join(map(teacher_name, teacher_settings(config).values()))
    parts = [_data_name(config.task), f"{teachers} -> {model_name(config.student)}", _loss_name(config.loss)]
    parts += [f"s{config.seed}", config.condition or "", _varied(config)]
    return "  ".join(part for part in parts if part)


def sweep_name(config: Config, kind: str, swept: Sequence[str]) -> str:
    """`grid  loss.alpha x seed  reviews  bert 2x64 -> bert 1x24`: what varies, then what all jobs have in common."""
    groups = {name.partition(".")[0] for name in swept} | ({"teacher", "student"} if "condition" in swept else set())
    teachers = "+".join(map(teacher_name, teacher_settings(config).values()))
    models = {"teacher": teachers, "student": model_name(config.student)}
    common = " -> ".join(name for group, name in models.items() if group not in groups)
    task = "" if "task" in swept else _data_name(config.task)
    return "  ".join(filter(None, [kind, " x ".join(swept) or "one setting", task, common]))


def teacher_name(teacher: TeacherConfig) -> str:
    """A teacher with what it is made from: `bert 2x64`, `predictions (scores.parquet)`."""
    if isinstance(teacher, ModelConfig):
        return model_name(teacher)
    made_from = Path(teacher.origin).name
    return teacher.name if made_from == teacher.name else f"{teacher.name} ({made_from})"


def model_name(model: ModelConfig) -> str:
    """A model with its kind and size: `bert 2x64`, `bert_tiny`, `bert (my-checkpoint)`, `bert teacher_layers 3`."""
    trimmed = isinstance(model, StudentConfig) and model.vocab == Vocab.trim
    return _untrimmed_name(model) + (" trimmed" if trimmed else "")


def _untrimmed_name(model: ModelConfig) -> str:
    name = getattr(model, "name", None) or model.family
    chosen = _chosen_layers(model)
    if isinstance(model, StaticStudentConfig):
        return f"{name} {model.hidden_size}"
    if isinstance(model, StudentConfig) and model.follows_teacher:
        return f"{name} {model.init} {chosen}"
    if model.checkpoint is None:
        return f"{name} {model.num_layers}x{model.hidden_size}"
    folder = Path(model.checkpoint).name
    shown = name if _letters(folder) in _letters(name) or _letters(name) in _letters(folder) else f"{name} ({folder})"
    return shown + (f" {chosen} layers" if chosen else "")


def _chosen_layers(model: ModelConfig) -> str:
    """`3`, `last 3` or `0,2,5`; "" where all are kept."""
    rule = getattr(model, "layers", None)
    if isinstance(rule, list):
        return ",".join(map(str, rule))
    return f"{rule or ''} {model.num_layers or ''}".strip()


def _letters(name: str) -> str:
    return re.sub(r"\W|_", "", name.lower())


def _data_name(task: TaskConfig) -> str:
    """Of a person's own file its name, and its folder's where many files have that name."""
    if not isinstance(task, FileTaskConfig):
        return task.name
    file = Path(task.train)
    folder = file.absolute().parent.name
    return f"{folder}/{file.stem}" if file.stem.lower() in ("train", "training", "data") and folder else file.stem


def _loss_name(loss: Loss) -> str:
    settings = plain(loss)
    name = loss.name
    if loss.uses_logits:
        name += f" a={settings['alpha']:g}"
        name += f" T={settings['temperature']:g}" if "temperature" in settings else ""
    return name + "".join(f" +{term}" for term in loss.terms)


def _varied(config: Config) -> str:
    """What a sweep varies beyond what every name says."""
    flat = flatten(config)
    flat |= _option_lists(config)
    names = [name for name in config.varied if name not in _TOLD]
    values = {name: flat.get(name, flat.get(f"{name}.name")) for name in names}
    return " ".join(f"{name}={shown(value)}" for name, value in values.items() if value is not None)


def _option_lists(config: Config) -> dict[str, str]:
    """Groups of which several options can be chosen, as names joined by `+`."""
    chosen: dict[str, Iterable[str]] = {
        "more_teachers": config.more_teachers,
        "terms": config.loss.terms,
        "controls": config.controls,
        "export": config.export,
    }
    return {name: "+".join(options) or "none" for name, options in chosen.items()}


def shown(value: object) -> str:
    """A setting's value as a person types it: 4, not 4.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def command_line() -> str:
    """What this process was started with, without passwords; "" where a program of another kind asks."""
    name = Path(sys.argv[0]).name
    if name not in ("kdexp", "__main__.py") or (name == "__main__.py" and "kdexp" not in sys.argv[0]):
        return ""
    return redact(shlex.join(["python", "-m", "kdexp", *sys.argv[1:]]))


def run_params(config: Config, hardware: Hardware, readers: Mapping[str, Encoder]) -> dict[str, object]:
    """The settings as MLflow shows them; lists of options by the options' names, so that a sweep over them shows."""
    threads = {f"hardware.{role}_threads": number for role, number in _threads(hardware, readers).items()}
    settings = {name: shown(value) for name, value in flatten(config).items() if value is not None}
    return settings | {
        "hardware.name": hardware.name,
        "hardware.bfloat16": hardware.bfloat16,
        **threads,
        **{name: told for name, told in _option_lists(config).items() if name != "export" or config.export},
        **(_machine() if config.export else {}),
    }


def _machine() -> dict[str, str]:
    return {f"hardware.cpu_{name}": value for name, value in cpu().items()}


def describe_run(
    config: Config,
    task: Task,
    hardware: Hardware,
    cache: Cache,
    readers: Mapping[str, Encoder],
    given: Mapping[str, str],
) -> RunDescription:
    """What MLflow is told of a run before it begins.

    Args:
        readers: The models that read text, by role.
        given: Digests of what a program handed in, in place of what the config describes.
    """
    name = run_name(config)
    tags = run_tags(config, cache, given) | task_tags(config, task) | {NOTE_TAG: unfinished_note(command_line())}
    return RunDescription(config.study, name, run_params(config, hardware, readers), tags)


def run_tags(config: Config, cache: Cache, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What identifies a run: what it computes, of which sweep it is a job, and whose locks tell that it lives."""
    parent = {"mlflow.parentRunId": config.parent_run} if config.parent_run else {}
    return parent | {
        "kdexp.config_hash": config_hash(config, given),
        "kdexp.cache": cache.identity(),
        "kdexp.version": own_version(),
    }


def task_tags(config: Config, task: Task) -> dict[str, str]:
    """What the teacher's and the student's names do not say: pairing, tokens, and the data by size and digest."""
    return {
        "kdexp.pairing": _pairing(config),
        "kdexp.tokenization": config.tokenization.value.replace("_", "-"),
        "kdexp.alignment": alignment_tag(config.loss.terms),
        "kdexp.primary_metric": task.primary_metric,
        "kdexp.data_sha256": task.fingerprint("train", "validation", "test"),
        **{f"kdexp.{name}_rows": str(len(getattr(task, name))) for name in ("train", "validation", "test")},
        **task.tags,
    }


def card_facts(config: Config, task: Task, *, is_given: bool) -> CardFacts:
    """What the cards of a run's students say beside what was measured.

    Args:
        is_given: The task was handed in by a program.
    """
    student, teachers = config.student, list(teacher_settings(config).values())
    followed = next((item for item in teachers if isinstance(item, ModelConfig)), None)
    begun = followed if student.follows_teacher else student
    return CardFacts(
        data=data_sets(task, None if is_given else config.task),
        student=model_name(student),
        teachers=[teacher_name(teacher) for teacher in teachers],
        version=own_version(),
        # What is generated is English; of other data nobody says it.
        language="en" if isinstance(config.task, EmbeddedTaskConfig) and not is_given else None,
        base_model=_hub_id(begun.checkpoint) if begun else None,
        needs_kdexp=isinstance(student, StaticStudentConfig),
        command=command_line(),
    )


def _hub_id(checkpoint: str | None) -> str | None:
    """None of a folder: that of one machine is nobody else's."""
    is_id = checkpoint is not None and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", checkpoint)
    return checkpoint if is_id and not Path(str(checkpoint)).exists() else None


def _pairing(config: Config) -> str:
    """Whether teachers and student are of one family; a teacher that is no encoder and a static student have none."""
    families = {getattr(teacher, "family", None) for teacher in teacher_settings(config).values()}
    if None in families or isinstance(config.student, StaticStudentConfig):
        return "no-family"
    return "same-family" if families == {config.student.family} else "cross-family"


def teacher_tags(teacher: Teacher) -> dict[str, str]:
    """What each teacher answers by: `kdexp.teacher_sha256` and others, and with a name for every further teacher."""
    tags: dict[str, str] = {}
    for place, (name, member) in enumerate(teacher.members.items() or [(teacher.name, teacher)]):
        ending = f".{name}" if place else ""
        found = {"sha256": member.digest} | getattr(member, "tags", {})
        tags |= {f"kdexp.teacher_{tag}{ending}": value for tag, value in found.items()}
    return tags


def announce(config: Config, hardware: Hardware, task: Task, teacher: Teacher, student: Encoder) -> None:
    """Say what was decided that the command line did not say; of a sweep's jobs, what the one before did not say."""
    say = _say_once if config.parent_run else logger.info
    for note in task.announcements:
        say(note)
    sizes = {name: member.num_parameters for name, member in teacher.members.items()}
    for settings in teacher_settings(config).values():
        num_parameters = sizes.get(settings.name, teacher.num_parameters)
        origin = _origin(settings) if isinstance(settings, ModelConfig) else settings.origin
        say(f"teacher {settings.name}: {origin}" + (f", {num_parameters:,} parameters" if num_parameters else ""))
    say(f"student {config.student.name}: {_origin(config.student)}, {student.num_parameters:,} parameters")
    for note in student.notes:
        say(note)
    for reader in (*shown_encoders(teacher).values(), student):
        for notice in reader.legibility.notices if reader.legibility else ():
            say(notice)
    number_format = "bfloat16" if hardware.bfloat16 else "float32"
    threads = _threads(hardware, shown_encoders(teacher) | {"student": student})
    counts = ", ".join(f"{role.replace('_', ' ')} {number}" for role, number in threads.items())
    say(f"hardware: {hardware.name}, {number_format}, threads: {counts}")
    for control in config.controls.values():
        if line := control.announcement(config.train):
            say(line)
    if config.tokenization == Tokenization.student_ids:
        logger.warning("ablation: the teacher is fed the student's token ids, which mean nothing to it")
    if config.train.use_transfer and task.transfer is None:
        logger.warning("train.use_transfer is ignored: task %s has no transfer text", task.name)


def _threads(hardware: Hardware, readers: Mapping[str, Encoder]) -> dict[str, int]:
    """With how many each model is computed."""
    return {role: hardware.num_threads_for(reader.model) for role, reader in readers.items()}


def _origin(model: ModelConfig) -> str:
    """What a model is made from."""
    if isinstance(model, StaticStudentConfig):
        return "a bag of embeddings"
    if isinstance(model, StudentConfig) and model.follows_teacher:
        return f"{model.family} made of its teacher's layers"
    if model.checkpoint is None:
        return f"compact {model.family} from scratch, tokenizer trained on the training text"
    if model.transplant is None:
        return model.checkpoint
    return f"encoder of {model.checkpoint}, tokens of {model.transplant}, as {model.family}"


@lru_cache(maxsize=256)
def _say_once(line: str) -> None:
    logger.info(line)
