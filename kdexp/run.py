"""One run, told from the beginning to the end."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import transformers
import yaml

from kdexp.cache import Cache
from kdexp.config import Config, schedules, teacher_settings
from kdexp.controls.train import train_controls
from kdexp.controls.tuned import choices
from kdexp.export.files import ExportedFile, Source, export_student
from kdexp.export.handed_on import hand_on
from kdexp.export.measured import file_answers, measure_files
from kdexp.export.packages import refuse_missing_packages
from kdexp.files import full_disk_told
from kdexp.fingerprint import plain
from kdexp.hardware import Hardware, prepare_hardware
from kdexp.loss.base import CrossEntropy
from kdexp.measured import costs, diagnosis, model_answers, notices
from kdexp.model.encoder import Encoder
from kdexp.naming import announce, card_facts, command_line, describe_run, teacher_tags
from kdexp.processes import Processes
from kdexp.results.card import CardFacts
from kdexp.results.measure import (
    ModelAnswers,
    decided,
    measure,
    prediction_figure,
    prediction_figure_name,
    prediction_table,
)
from kdexp.results.metric_names import curve_metrics, legibility_metrics, vocab_metrics
from kdexp.results.note import run_note
from kdexp.results.record import RunRecord
from kdexp.results.roles import Role
from kdexp.student.load import follow_teacher, load_student
from kdexp.student.train import TrainedStudent, Watch, train_student
from kdexp.task.load import Task, load_task
from kdexp.teacher.base import Teacher, refuse_unfit_answers, shown_encoders
from kdexp.teacher.features import refuse_unfit_features, teacher_features
from kdexp.teacher.load import open_teacher
from kdexp.teacher.logits import teacher_answers
from kdexp.tracking.data_sets import data_sets
from kdexp.tracking.registry import check_registry
from kdexp.tracking.run import TrackedRun, open_run
from kdexp.tracking.store import NOTE_TAG
from kdexp.tracking.student_model import StudentFiles
from kdexp.tracking.uri import PATIENCE_SECONDS, check_reachable
from kdexp.training.checks import check_fit
from kdexp.training.course import Course
from kdexp.training.lesson import weighted_kind


def run(
    config: Config, *, task: Task | None = None, teacher: Teacher | None = None, watch: Watch | None = None
) -> RunRecord:
    """Distil a teacher (or several) into a student, measure both beside a baseline, and log it all to MLflow.

    Args:
        task, teacher: In place of what the config describes, such as data that a program already holds, or answers
            that come from elsewhere.
        watch: Sees how the student's training goes, and may stop it; not called for one that is taken from the cache.

    Raises:
        UserError: The person can mend it. What can be known before training is refused before anything
            is written.
    """
    _silence_libraries()
    hardware = prepare_hardware(config.hardware)
    # What one process of a training raises, all of them raise.
    with full_disk_told(), Processes.current().together("run"):
        return _run(config, hardware, task, teacher, watch)


def _run(
    config: Config, hardware: Hardware, task: Task | None, teacher: Teacher | None, watch: Watch | None
) -> RunRecord:
    started, given = time.perf_counter(), _digests(task, teacher)
    cache = Cache(Path(config.cache_dir))
    cache.ensure_writable()
    task = task or load_task(config.task, cache)
    teacher, student = _open(config, task, teacher, cache, hardware)
    if config.tracking.enabled:
        # A job of a sweep knows that the store was there: it waits where a first run is refused.
        check_reachable(config.tracking.uri, patience=PATIENCE_SECONDS if config.parent_run else 0.0)
    announce(config, hardware, task, teacher, student)
    _refuse_unfit(config, task, teacher, student)

    readers = shown_encoders(teacher) | {"student": student}
    description = describe_run(config, task, hardware, cache, readers, given)
    with open_run(config.tracking, description) as tracked:
        _log_inputs(tracked, config, task, readers, given)
        teacher.prepare()
        _log_teacher(tracked, teacher)
        if config.student.follows_fine_tuning:  # which is done now
            student = _follow(config, teacher, task, cache)
        course = Course(student, task, config.train, cache, hardware, config.seed, config.resume)
        answers = teacher_answers(teacher, course)  # validation first: a teacher near chance goes no further
        features = teacher_features(teacher, config.teacher, course, config.loss)
        train = partial(train_student, course)
        trained = {"baseline": train("baseline", CrossEntropy())} if config.baseline else {}
        trained["student"] = train(
            f"student {config.student.name}",
            config.loss,
            answers,
            features,
            on_metrics=tracked.log_metrics,
            watch=watch,
        )
        trained |= train_controls(config.controls, course, config.loss, answers, features)
        teacher.verify()  # only the student learned
        files = export_student(
            config.export, Source.of(course, trained["student"].folder, trained["student"].answers), cache
        )

        models = decided(task, model_answers(teacher, answers, course, trained) | file_answers(files))
        record = replace(
            measure(
                task, models, name=description.name, settings=description.params, notices=notices(teacher, answers)
            ),
            choices=choices(config.controls, trained),
            diagnostics=diagnosis(task, readers, answers, config.loss),
            shipped=measure_files(task, models, readers, files, cache),
            costs=costs(teacher, answers, features, trained, hardware) | {"seconds": time.perf_counter() - started},
            teacher_unchanged=True,
            run_id=tracked.run_id or None,
            url=tracked.url,
            experiment_url=tracked.experiment_url,
        )
        facts = partial(card_facts, config, task, is_given="task" in given)
        _log(tracked, record, config, course, models, trained["student"], files, facts)
    return record


def _open(
    config: Config, task: Task, teacher: Teacher | None, cache: Cache, hardware: Hardware
) -> tuple[Teacher, Encoder]:
    """Teacher and student before any training: either may depend on the other.

    A student that follows its teacher is made of it; a teacher that is fed the student's ids must know these.
    """
    settings = teacher_settings(config)
    if config.student.follows_teacher:
        teacher = teacher or open_teacher(settings, config.tokenization, task, None, cache, hardware)
        return teacher, _follow(config, teacher, task, cache)
    student = load_student(config.student, task, cache, seed=config.seed, use_transfer=bool(config.train.use_transfer))
    return teacher or open_teacher(settings, config.tokenization, task, student, cache, hardware), student


def _follow(config: Config, teacher: Teacher, task: Task, cache: Cache) -> Encoder:
    return follow_teacher(
        config.student, teacher, task, cache, seed=config.seed, use_transfer=bool(config.train.use_transfer)
    )


def _refuse_unfit(config: Config, task: Task, teacher: Teacher, student: Encoder) -> None:
    """Refuse what does not go together, before anything is written.

    Raises:
        UserError: With the reason.
    """
    refuse_missing_packages(config.export)
    check_fit(config.loss, task.kind.outputs, task.kind.num_outputs, config.tokenization, config.train.batch_size)
    for setting, schedule in schedules(config).items():
        weighted_kind(task, schedule, setting)
    refuse_unfit_answers(config.loss, teacher)
    refuse_unfit_features(config.loss.terms, teacher, student)
    if config.tracking.register:
        check_registry(config.tracking.uri, config.tracking.register)


def _digests(task: Task | None, teacher: Teacher | None) -> dict[str, str]:
    """Of what a program handed in: a part of what the run is known by."""
    digests = {}
    if task is not None:
        digests["task"] = task.fingerprint("train", "validation", "test")
    if teacher is not None:
        digests["teacher"] = teacher.fingerprint()
    return digests


def _log_inputs(
    tracked: TrackedRun, config: Config, task: Task, readers: Mapping[Role, Encoder], given: Mapping[str, str]
) -> None:
    tracked.log_text(yaml.safe_dump(plain(config), sort_keys=False), "config.yaml")
    legibility = {role: reader.legibility for role, reader in readers.items() if reader.legibility}
    tracked.log_metrics(legibility_metrics(legibility) | vocab_metrics(readers["student"]))
    if config.tracking.enabled:  # digests of what is not trained on may not be known yet
        tracked.log_data_sets(data_sets(task, None if "task" in given else config.task))


def _log_teacher(tracked: TrackedRun, teacher: Teacher) -> None:
    """What each teacher answers by, and how it learned: what is looked at where one learned nothing."""
    tracked.set_tags(teacher_tags(teacher))
    teachers = {f"teacher_{name}": member for name, member in teacher.members.items()} or {"teacher": teacher}
    for role, member in teachers.items():
        for step, logged in member.preparation.history:
            tracked.log_metrics(curve_metrics(role, logged), step=step)


def _log(
    tracked: TrackedRun,
    record: RunRecord,
    config: Config,
    course: Course,
    models: Mapping[Role, ModelAnswers],
    student: TrainedStudent,
    exported: Mapping[str, ExportedFile],
    facts: Callable[[], CardFacts],
) -> None:
    task, with_text = course.task, config.tracking.log_text
    tracked.log_table(prediction_table(task, models, with_text=with_text), "predictions.parquet")
    figure = prediction_figure(task, models)
    if figure is not None:
        tracked.log_figure(figure, f"figures/{prediction_figure_name(task)}.png")
    # At the last step, so that MLflow's latest validation value is that of the kept weights.
    tracked.log_metrics(record.metrics(), step=student.num_steps)
    notes = [*task.announcements, *course.encoder.notes, *record.notices]
    tracked.set_tags({NOTE_TAG: run_note(record, notes, command_line())})
    if config.tracking.log_model:
        register = None if config.trial else config.tracking.register  # a trial is there to choose, not to ship
        validation = models["student"].answers["validation"]
        files = StudentFiles.of(student.folder, task, course.encoder.max_length, validation, with_text=with_text)
        hand_on(tracked, files, exported, task, models, record, facts(), register)


def _silence_libraries() -> None:
    """Leave the console to the run: bars and advice of the libraries would break its lines."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
