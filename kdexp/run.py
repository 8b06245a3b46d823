"""One run, told from the beginning to the end."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import transformers
import yaml

from kdexp.cache import Cache
from kdexp.config import Config, teacher_names, teacher_settings
from kdexp.errors import under
from kdexp.fingerprint import plain
from kdexp.hardware import Hardware, prepare_hardware
from kdexp.loss.base import CrossEntropy, Loss, Outputs
from kdexp.loss.features import FeatureTerms
from kdexp.model.alignment import require_characters
from kdexp.model.encoder import LoadedModel, load_model
from kdexp.model.transplanted import with_twin
from kdexp.naming import announce, run_name, run_params, run_tags, task_tags, teacher_tags
from kdexp.results.diagnostics import confidence, reading_habits
from kdexp.results.record import Comparison, compare, prediction_table
from kdexp.student.train import StudentData, TrainedStudent, encode_task, train_student
from kdexp.task.evaluate import confusion_matrices_figure
from kdexp.task.load import Task, load_task
from kdexp.teacher.config import TeacherConfig, Tokenization
from kdexp.teacher.encoder import (
    Teacher,
    TeacherLogits,
    load_teacher,
    mixed_answers,
    prepare_teacher,
    teacher_logits,
)
from kdexp.teacher.features import TeacherTargets, prepare_targets
from kdexp.tracking.run import PATIENCE_SECONDS, open_run
from kdexp.tracking.store import check_reachable
from kdexp.training import checks as guards
from kdexp.training.loop import LogCallback

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """What a run found, and the links that open it in MLflow (None where nothing is tracked)."""

    name: str
    task: Task
    comparison: Comparison
    teacher_unchanged: bool
    seconds: float
    run_url: str | None
    experiment_url: str | None


def run(config: Config) -> RunResult:
    """Distil a teacher (or several) into a student, measure both beside a baseline, and log it all to MLflow.

    Raises:
        UserError: The person can mend it. What can be known before training is refused before anything
            is written.
    """
    started = time.perf_counter()
    _silence_libraries()
    hardware = prepare_hardware(config.hardware)
    cache = Cache(Path(config.cache_dir))
    cache.ensure_writable()
    task = load_task(config.task)
    new_teachers = [
        load_teacher(with_twin(role, settings, cache), task, role)
        for role, settings in teacher_settings(config).items()
    ]
    student_config = with_twin("student", config.student, cache)
    new_student = load_model("student", student_config, task, seed=config.seed, new_head=True)
    if config.tracking.enabled:
        # A job of a sweep knows that the store was there: it waits where a first run is refused.
        patience = PATIENCE_SECONDS if config.parent_run else 0.0
        check_reachable(config.tracking.uri, patience=patience)
    announce(config, hardware, task, new_teachers, new_student)
    guards.check_fit(config.loss, Outputs.classes, len(task.label_names), config.tokenization, config.train.batch_size)
    if config.loss.terms:
        _refuse_unfit_terms(config, new_teachers[0], new_student)

    with open_run(
        uri=config.tracking.uri,
        study=config.study,
        run_name=run_name(config),
        params=run_params(config, hardware),
        tags=run_tags(config, cache) | task_tags(config, task),
        enabled=config.tracking.enabled,
    ) as tracked:
        tracked.log_text(yaml.safe_dump(plain(config), sort_keys=False), "config.yaml")

        teachers = [
            prepare_teacher(loaded, settings, task, cache, hardware)
            for loaded, settings in zip(new_teachers, teacher_settings(config).values(), strict=True)
        ]
        tracked.set_tags(teacher_tags(config, teachers))
        data = encode_task(new_student, task, use_transfer=config.train.use_transfer)
        each_answers = [
            _ask_teacher(teacher, settings, role, new_student, data, config, cache, hardware)
            for teacher, (role, settings) in zip(teachers, teacher_settings(config).items(), strict=True)
        ]
        answers = _together(each_answers, config)
        targets = _look_inside(teachers[0], new_student, data, config, cache, hardware)

        def train(
            loss: Loss,
            who: str,
            targets: TeacherTargets | None = None,
            on_log: LogCallback | None = None,
            watch: LogCallback | None = None,
        ) -> TrainedStudent:
            return train_student(
                new_student,
                data,
                loss,
                answers,
                config.train,
                cache,
                hardware,
                seed=config.seed,
                resume=config.resume,
                description=who,
                targets=targets,
                on_log=on_log,
                watch=watch,
            )

        baseline = train(CrossEntropy(), "baseline") if config.baseline else None
        report = _trial_reporter(config, task)
        student = train(config.loss, f"student {config.student.name}", targets, tracked.log_metrics, report)

        teacher_unchanged = all(teacher.is_unchanged() for teacher in teachers)
        if not teacher_unchanged:
            raise RuntimeError("the teacher's weights changed during the run: only the student may learn")
        test_logits = {"teacher": answers["test"].logits, "student": student.logits["test"]}
        if baseline:
            test_logits["baseline"] = baseline.logits["test"]
        several = {}
        if config.more_teachers:
            several = {
                name: ({split: each[split].logits for split in ("validation", "test")}, teacher.loaded.num_parameters)
                for name, each, teacher in zip(teacher_names(config), each_answers, teachers, strict=True)
            }
            test_logits |= {f"teacher_{name}": logits["test"] for name, (logits, _) in several.items()}
        comparison = compare(
            task,
            {name: answers[name].logits for name in ("validation", "test")},
            student.logits,
            baseline.logits if baseline else None,
            num_parameters=(
                sum(teacher.loaded.num_parameters for teacher in teachers),
                new_student.num_parameters,
            ),
            teachers=several,
        )

        tracked.log_table(prediction_table(task, test_logits), "predictions.parquet")
        figure = confusion_matrices_figure(test_logits, task.test.labels or [], task.label_names, "test")
        tracked.log_figure(figure, "figures/confusion_matrices.png")
        if config.tracking.log_model:
            tracked.log_student(
                student.folder,
                label_names=task.label_names,
                max_length=new_student.max_length,
                example_texts=_examples(task),
            )
        tracked.log_metrics(_reading(teachers, new_student, answers["validation"], config, task))
        seconds = time.perf_counter() - started
        costs = {
            "cost/seconds": seconds,
            "cost/teacher_train_seconds": sum(teacher.train_seconds for teacher in teachers),
            "cost/teacher_logits_seconds": sum(answer.seconds for answer in answers.values()),
            "cost/teacher_rows_forwarded": sum(answer.num_forwarded for answer in answers.values())
            + student.num_teacher_rows
            + (targets.num_forwarded if targets else 0),
            "cost/student_train_seconds": student.train_seconds,
            "cost/student_steps": student.num_steps,
            "cost/cache_hits": sum(
                [student.was_kept, bool(baseline and baseline.was_kept)]
                + [teacher.was_kept for teacher in teachers]
                + [answer.num_forwarded == 0 for each in each_answers for answer in each.values()]
            ),
            "cost/peak_memory_mb": hardware.peak_memory_bytes() / 2**20,
        }
        if targets:
            costs["cost/teacher_inside_seconds"] = targets.seconds
        if baseline:
            costs["cost/baseline_train_seconds"] = baseline.train_seconds
        # At the last step, so that MLflow's latest validation value is that of the kept weights.
        tracked.log_metrics(
            comparison.metrics() | costs | {"checks/teacher_unchanged": float(teacher_unchanged)},
            step=student.num_steps,
        )
    return RunResult(
        run_name(config),
        task,
        comparison,
        teacher_unchanged,
        time.perf_counter() - started,
        tracked.url,
        tracked.experiment_url,
    )


def _trial_reporter(config: Config, task: Task) -> LogCallback | None:
    """What stops a hopeless trial of a search."""
    if config.trial is None:
        return None
    from kdexp.study.search import TrialReporter  # Optuna is an optional extra

    return TrialReporter(config.trial, Path(config.cache_dir), f"validation/{task.primary_metric}")


def _reading(
    teachers: Sequence[Teacher], student: LoadedModel, answers: TeacherLogits, config: Config, task: Task
) -> dict[str, float]:
    """How the models read the validation text, and how sure the teacher is of it: what else differs between pairs."""
    temperature = plain(config.loss).get("temperature", 1.0)
    sure = confidence(answers.logits, task.validation.labels or [], temperature)
    metrics = {
        "reading/teacher_entropy": sure.mean_entropy,
        "reading/teacher_soft_entropy": sure.mean_soft_entropy,
        "reading/max_entropy": sure.max_entropy,
    }
    several = [f"teacher_{name}" for name in teacher_names(config)] if config.more_teachers else ["teacher"]
    models = dict(zip(several, (teacher.loaded for teacher in teachers), strict=True)) | {"student": student}
    for role, model in models.items():
        habits = reading_habits(model.tokenizer, task.validation, model.max_length)
        metrics |= {f"reading/{role}_{name}": float(value) for name, value in asdict(habits).items()}
    return metrics


def _ask_teacher(
    teacher: Teacher,
    settings: TeacherConfig,
    role: str,
    student: LoadedModel,
    data: StudentData,
    config: Config,
    cache: Cache,
    hardware: Hardware,
) -> dict[str, TeacherLogits]:
    """The teacher's logits on every split, validation first: a teacher near chance goes no further."""
    task = data.task
    splits = {"validation": task.validation, "test": task.test, "train": task.train}
    if "transfer" in data.splits and task.transfer is not None:
        splits["transfer"] = task.transfer
    answers = {}
    for name, split in splits.items():
        answers[name] = teacher_logits(
            teacher,
            split,
            name,
            student,
            config.tokenization,
            cache,
            hardware,
            settings.train.eval_batch_size,
        )
        if name == "validation":
            gold = split.labels or []
            num_correct = int((answers[name].logits.argmax(-1) == torch.tensor(gold)).sum())
            logger.info("teacher %s: %.1f %% on validation", settings.name, 100 * num_correct / len(gold))
            # The ablation is expected to make nonsense of the teacher: measuring that is its point.
            if settings.chance_check and config.tokenization == Tokenization.own:
                guards.refuse_chance(num_correct, gold, task.label_names, role)
    forwarded = sum(answer.num_forwarded for answer in answers.values())
    rows = sum(len(split) for split in splits.values())
    logger.info(
        "teacher logits: %s of %s rows forwarded, the rest kept from earlier runs",
        f"{forwarded:,}",
        f"{rows:,}",
    )
    # It has answered: its memory is the student's, unless representation terms ask for it again.
    teacher.loaded.model.to("cpu")
    return answers


def _together(answers: Sequence[dict[str, TeacherLogits]], config: Config) -> dict[str, TeacherLogits]:
    """What the student is taught, by split: one teacher's answers, or the mixture of several teachers'."""
    if len(answers) == 1:
        return answers[0]
    weights = [settings.weight for settings in teacher_settings(config).values()]
    shares = [
        f"{weight / sum(weights):.2f} {name}" for name, weight in zip(teacher_names(config), weights, strict=True)
    ]
    logger.info("teachers together: %s, in probability space", " + ".join(shares))
    return {name: mixed_answers([each[name] for each in answers], weights) for name in answers[0]}


def _refuse_unfit_terms(config: Config, teacher: LoadedModel, student: LoadedModel) -> None:
    """Refuse, before anything is trained, feature terms that do not fit the models."""
    with under("loss"):
        terms = FeatureTerms(student.model.config, teacher.model.config, config.loss.terms)
    if terms.needs_words:
        require_characters("teacher", teacher.tokenizer)
        require_characters("student", student.tokenizer)


def _look_inside(
    teacher: Teacher,
    student: LoadedModel,
    data: StudentData,
    config: Config,
    cache: Cache,
    hardware: Hardware,
) -> TeacherTargets | None:
    """What the loss's representation terms compare; None where it has none."""
    if not config.loss.terms:
        return None
    splits = {"train": data.task.train}
    if "transfer" in data.splits and data.task.transfer is not None:
        splits["transfer"] = data.task.transfer
    targets = prepare_targets(
        teacher,
        student,
        splits,
        config.loss,
        config.teacher.cache_hidden,
        cache,
        hardware,
        config.teacher.train.eval_batch_size,
    )
    if targets.teacher is None:
        teacher.loaded.model.to("cpu")
    return targets


def _examples(task: Task) -> list:
    """A few training texts, shown beside the logged model."""
    if task.train.second is None:
        return task.train.first[:3]
    return list(zip(task.train.first[:3], task.train.second[:3], strict=True))


def _silence_libraries() -> None:
    """Leave the console to the run: bars and advice of the libraries would break its lines."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
