"""What a run found of its exported files, as its record has it."""

from collections.abc import Mapping
from dataclasses import asdict

from kdexp.cache import Cache
from kdexp.export.files import ExportedFile
from kdexp.export.speed import measure_speed
from kdexp.model.encoder import Encoder
from kdexp.results.measure import ModelAnswers
from kdexp.results.roles import Role, file_role
from kdexp.results.shipped import Shipped
from kdexp.results.statistics import Gain, resampled_gain
from kdexp.task.load import Task


def file_answers(files: Mapping[str, ExportedFile]) -> dict[Role, ModelAnswers]:
    """What the files answer, by their roles."""
    return {file_role(name): ModelAnswers(file.answers, None) for name, file in files.items()}


def measure_files(
    task: Task,
    models: Mapping[Role, ModelAnswers],
    encoders: Mapping[Role, Encoder],
    files: Mapping[str, ExportedFile],
    cache: Cache,
) -> dict[str, Shipped]:
    """Measure files as they ship, and beside them the speed of the models.

    Args:
        models: Of the whole run, the files among them.
        encoders: Of `student`, and of the teachers that can be shown.
    """
    speeds = measure_speed(task, encoders, files, cache)
    found = {name: Shipped(facts=speed.known()) for name, speed in speeds.items() if name not in files}
    for name, file in files.items():
        facts = asdict(file.parity) | speeds[name].known()
        found[name] = _compared(task, models, file_role(name), facts)
    return found


def _compared(task: Task, models: Mapping[Role, ModelAnswers], role: Role, facts: Mapping[str, float]) -> Shipped:
    """A file beside the baseline, and beside the student that it was made from."""
    labels = task.labels("test")
    given = models[role].answers["test"]

    def minus(other: Role) -> Gain:
        answers = models[other].answers["test"]
        return resampled_gain(lambda rows: task.kind.gain(given, answers, labels, rows), len(task.test))

    return Shipped(minus("baseline") if "baseline" in models else None, minus("student"), facts)
