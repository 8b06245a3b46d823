"""What a person hands on: the student and its files, as MLflow models, each with its card."""

from collections.abc import Mapping
from dataclasses import replace

from kdexp.export.files import ExportedFile
from kdexp.results.card import CardFacts, model_card
from kdexp.results.measure import ModelAnswers
from kdexp.results.record import RunRecord
from kdexp.results.roles import Role, file_name, file_role
from kdexp.task.load import Task
from kdexp.tracking.registry import Registration
from kdexp.tracking.run import TrackedRun
from kdexp.tracking.student_model import StudentFiles


def hand_on(
    tracked: TrackedRun,
    student: StudentFiles,
    exported: Mapping[str, ExportedFile],
    task: Task,
    models: Mapping[Role, ModelAnswers],
    record: RunRecord,
    facts: CardFacts,
    register: str | None = None,
) -> None:
    """Log the student as the model `student`, and each file as `student_<format>`.

    Args:
        models: Of the whole run.
        facts: What the cards say beside what was measured.
        register: The name under which the student is registered; a file as `<name>_<format>`.
    """
    students = {"student": student} | {
        file_role(name): replace(student, folder=file.folder, name=f"student_{name}")
        for name, file in exported.items()
    }
    for role, files in students.items():
        file = file_name(role)
        metrics = record.student_metrics() if file is None else record.file_metrics(file)
        card = model_card(record, task, models, role, facts)
        name = register and register + files.name.removeprefix("student")
        registration = _registration(name, record, role, card, task) if name else None
        tracked.log_student(replace(files, card=card), metrics, registration)


def _registration(name: str, record: RunRecord, role: Role, card: str, task: Task) -> Registration:
    score = record.score("test", role)
    tags = {
        "kdexp.run_name": record.name,
        "kdexp.file": file_name(role) or "torch",
        "kdexp.task": task.name,
        "kdexp.primary_metric": record.metric,
        "kdexp.test_score": f"{score:.4f}",
        "kdexp.data_sha256": task.fingerprint("train", "validation", "test"),
    }
    about = f"Students that kdexp distilled on {task.name}, one a version."
    return Registration(name, about, card.split("\n---\n", 1)[1].strip(), tags)
