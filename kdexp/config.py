"""A whole run's settings: the groups joined and completed; `kdexp/identity.py` says which of them a result depends on.

The settings of each part stand with the part; parts never see `Config`. Nothing here loads torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from kdexp.controls.config import CONTROLS, Control
from kdexp.errors import UserError, under
from kdexp.export.config import FORMATS, BudgetConfig, ExportFormat
from kdexp.fingerprint import plain
from kdexp.hardware import HardwareConfig
from kdexp.loss.base import Loss
from kdexp.loss.logit import LOSSES, MSE
from kdexp.loss.terms import TERMS
from kdexp.model.config import ModelConfig
from kdexp.ranges import Checked, Positive, PositiveInt, Seed
from kdexp.student.config import STUDENTS, Init, StaticStudentConfig, StudentConfig
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, KindName, PublicTaskConfig, TaskConfig
from kdexp.teacher.config import TEACHERS, EncoderTeacherConfig, TeacherConfig, Tokenization
from kdexp.tracking.config import TrackingConfig
from kdexp.training.config import StudentTrainConfig, TrainConfig

# Compact sizes by role: a teacher large enough to be worth imitating and a student small enough to
# need it, both trainable in seconds on two CPU cores; measured on the embedded tasks.
_TEACHER_SIZE = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "vocab_size": 800}
_STUDENT_SIZE = {"num_layers": 1, "hidden_size": 24, "num_heads": 2, "vocab_size": 800}
# From scratch a small model needs a large rate and several passes, chosen on validation for the baseline, so that a
# gain is none over an under-trained student (docs/results/defaults.md); a pretrained one the usual fine-tuning recipe
# (Devlin et al. 2019, arXiv 1810.04805, appendix A.3).
_TEACHER_FROM_SCRATCH = {"epochs": 6, "learning_rate": 2e-3}
_STUDENT_FROM_SCRATCH = {"epochs": 8, "learning_rate": 3e-3}
_PRETRAINED = {"epochs": 3, "learning_rate": 5e-5}
# A bag of embeddings; of pretrained ones chosen on validation (docs/results/static.md).
_STATIC_FROM_SCRATCH = {"epochs": 10, "learning_rate": 3e-3}
_STATIC_PRETRAINED = {"epochs": 10, "learning_rate": 3e-4}


@dataclass(kw_only=True)
class CrossFamilyConfig(Checked):
    """The cross-family study.

    Attributes:
        teachers, students: Checkpoints by family, `{bert: <folder or hub id>}`, in place of compact models.
        margin: Half width, in points, of what counts as equivalent.
    """

    # Any, because only an untyped setting takes a mapping with new keys from the command line.
    teachers: Any = None
    students: Any = None
    margin: Positive = 2.0


@dataclass(kw_only=True)
class FewLabelsConfig(Checked):
    """The study of few labels.

    Attributes:
        sizes: Numbers of labelled rows, ascending; None follows the data.
        labelled: The size that the sentence speaks of; None: the second one.
    """

    sizes: list[PositiveInt] | None = None
    labelled: PositiveInt | None = None


@dataclass(kw_only=True)
class Config(Checked):
    """One run: complete, and within range.

    The constructor fills in every default that depends on another setting (the parts that it is given stay as
    they are), so that nothing is left to guess: what it holds is what is logged.

    Raises:
        UserError: With the setting's whole path: groups do not go together.
    """

    teacher: TeacherConfig
    more_teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    student: StudentConfig
    task: TaskConfig
    loss: Loss
    hardware: HardwareConfig
    train: StudentTrainConfig
    tracking: TrackingConfig
    export: dict[str, ExportFormat] = field(default_factory=dict)
    tokenization: Tokenization = Tokenization.own
    baseline: bool = True
    controls: dict[str, Control] = field(default_factory=dict)
    seed: Seed = 0
    study: str = "distillation"
    resume: bool = True
    cache_dir: str
    parent_run: str | None = None
    trial: str | None = None
    condition: str | None = None
    varied: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    cross_family: CrossFamilyConfig = field(default_factory=CrossFamilyConfig)
    candidates: list[str] = field(default_factory=list)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    few_labels: FewLabelsConfig = field(default_factory=FewLabelsConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_teachers()
        self._refuse_student()
        self._refuse_study()
        self.teacher = _complete_teacher(self.teacher)
        # Two of one option are told apart by the name that they stand under.
        self.more_teachers = {
            name: _complete_teacher(replace(teacher, name=name)) for name, teacher in self.more_teachers.items()
        }
        names_transfer = getattr(self.task, "transfer", None) is not None
        self.train = _complete(self.train, self._student_schedule() | {"use_transfer": names_transfer})
        self._refuse_transfer(has_text=names_transfer or bool(getattr(self.task, "transfer_size", 0)))
        if not (self.student.follows_teacher or isinstance(self.student, StaticStudentConfig)):
            self.student = _complete_size(self.student, _STUDENT_SIZE)
        self.loss = _complete_loss(self.loss, self.task)
        self.controls = self._complete_controls()
        self.cache_dir = str(Path(self.cache_dir).expanduser().absolute())

    def _complete_controls(self) -> dict[str, Control]:
        """None of a search's trial: it chooses, and is compared with nothing."""
        controls = {} if self.trial else self.controls
        if controls and not self.baseline:
            problem = f"got {', '.join(controls)}, which compare with the baseline, but baseline=false"
            raise UserError("controls", problem, "remove baseline=false")
        with under("controls"):
            for control in controls.values():
                control.refuse_unfit(self.loss)
        completed = {}
        for name, control in controls.items():
            with under(f"controls.{name}"):
                completed[name] = control.complete(self.train)
        return completed

    def _refuse_teachers(self) -> None:
        name = self.teacher.name
        if name in self.more_teachers:
            raise UserError(
                "more_teachers",
                f"{name} is the first teacher already",
                f"choose another option, or call the second one differently: +teacher@more_teachers.{name}_2={name} "
                f"more_teachers.{name}_2.seed=1",
            )
        if self.more_teachers and self.loss.terms:
            raise UserError(
                "loss.terms",
                f"got {', '.join(self.loss.terms)}, but terms compare with the inside of one teacher, "
                f"not of {len(self.more_teachers) + 1}",
                "remove more_teachers, or choose a loss without terms",
            )

    def _refuse_transfer(self, *, has_text: bool) -> None:
        """Refuse settings of transfer text that would have no effect, or another than meant."""
        if self.train.use_transfer and not has_text:
            problem = f"got true, but task {self.task.name} has no text that only the teacher labels"
            raise UserError("train.use_transfer", problem, "name some: task.transfer=...")
        for name, default in (("transfer_ratio", None), ("transfer_weight", 1.0)):
            if getattr(self.train, name) != default and not self.train.use_transfer:
                problem = f"got {getattr(self.train, name)}, but train.use_transfer is false"
                raise UserError(f"train.{name}", problem, "name text that only the teacher labels: task.transfer=...")
        ratio, size = self.train.transfer_ratio, self.train.batch_size
        if ratio is not None and round(ratio * size) in (0, size):
            missing = "labelled row" if round(ratio * size) else "row of text"
            problem = f"{ratio} of a batch of {size} leaves no {missing}"
            raise UserError("train.transfer_ratio", problem, "choose another ratio, or larger batches")
        if self.train.transfer_weight != 1 and self.loss.relates_rows:
            problem = f"got {self.train.transfer_weight}, but {self.loss.name} relates the rows of a batch"
            raise UserError("train.transfer_weight", problem, "leave it at 1, or choose another loss")

    def _refuse_student(self) -> None:
        init = self.student.init
        if self.student.follows_teacher and self.tokenization == Tokenization.student_ids:
            raise UserError(
                "tokenization",
                "is student_ids, but a student that is made of its teacher reads the teacher's own ids",
                "use tokenization=own",
            )
        if isinstance(self.student, StaticStudentConfig) and self.loss.terms:
            raise UserError(
                "loss.terms",
                f"got {', '.join(self.loss.terms)}, but a static student computes nothing that they could compare",
                "choose a loss without terms, or another student",
            )
        followed = self._followed()
        if init == Init.pretrained_layers and followed is not None and followed.checkpoint is None:
            raise UserError(
                "student.init",
                "is pretrained_layers, but the teacher is a compact model, which was never pretrained",
                "use student.init=teacher_layers, or choose a checkpoint as the teacher",
            )

    def _student_schedule(self) -> dict[str, Any]:
        student, followed = self.student, self._followed()
        source = followed if student.follows_teacher else student
        is_pretrained = source is not None and source.checkpoint is not None
        if isinstance(student, StaticStudentConfig):
            return _STATIC_PRETRAINED if is_pretrained else _STATIC_FROM_SCRATCH
        return _PRETRAINED if is_pretrained else _STUDENT_FROM_SCRATCH

    def _followed(self) -> EncoderTeacherConfig | None:
        """The teacher that a student follows: of several, the first that is an encoder."""
        encoders = [item for item in teacher_settings(self).values() if isinstance(item, EncoderTeacherConfig)]
        return encoders[0] if encoders else None

    def _refuse_study(self) -> None:
        if not self.study.strip():
            raise UserError("study", "is empty", "give the study a name, such as study=my_first_sweep")
        for role in ("teachers", "students"):
            value = getattr(self.cross_family, role)
            if value is not None and not (isinstance(value, dict) and set(value) <= set(self.families)):
                raise UserError(
                    f"cross_family.{role}", f"got {value}", f"expected {{family: checkpoint}} for {self.families}"
                )


SCHEMAS: dict[str, Mapping[str, type]] = {
    "teacher": TEACHERS,
    "student": STUDENTS,
    "task": {"embedded": EmbeddedTaskConfig, "public": PublicTaskConfig, "file": FileTaskConfig},
    "loss": LOSSES,
    "terms": TERMS,
    "controls": CONTROLS,
    "export": FORMATS,
}
"""Groups whose options differ in what can be set: the classes that their files name as `/schema/<group>/<name>`."""

Settings = TypeVar("Settings", bound=Checked)
Model = TypeVar("Model", bound=ModelConfig)


def _complete(settings: Settings, defaults: dict[str, Any]) -> Settings:
    """A copy in which the defaults stand where nothing was set."""
    return replace(settings, **{name: value for name, value in defaults.items() if getattr(settings, name) is None})  # type: ignore[type-var]


def _complete_size(model: Model, size: dict[str, int]) -> Model:
    """Of a compact model; a checkpoint decides itself."""
    return model if model.checkpoint is not None else _complete(model, size)


def _complete_loss(loss: Loss, task: TaskConfig) -> Loss:
    """What of a loss depends on the task's kind: logits of sigmoids and numbers mean something as they are."""
    if not isinstance(loss, MSE) or loss.centered is not None:
        return loss
    kind: KindName = getattr(task, "kind", KindName.single_label)
    return replace(loss, centered=kind.has_classes)


def _complete_teacher(teacher: TeacherConfig) -> TeacherConfig:
    if not isinstance(teacher, EncoderTeacherConfig):
        return teacher
    schedule = _TEACHER_FROM_SCRATCH if teacher.checkpoint is None else _PRETRAINED
    complete = _complete_size(teacher, _TEACHER_SIZE)
    return replace(complete, train=_complete(complete.train, schedule))


def teacher_settings(config: Config) -> dict[str, TeacherConfig]:
    """Every teacher by what its settings begin with: `teacher`, `more_teachers.roberta`, ..."""
    return {"teacher": config.teacher} | {
        f"more_teachers.{name}": further for name, further in config.more_teachers.items()
    }


def schedules(config: Config) -> dict[str, TrainConfig]:
    """Every training's schedule by what its settings begin with: `train`, `teacher.train`, ..."""
    taught = {f"{role}.train": getattr(item, "train", None) for role, item in teacher_settings(config).items()}
    return {"train": config.train} | {setting: train for setting, train in taught.items() if train is not None}


def teacher_names(config: Config) -> list[str]:
    """What each teacher is called in metrics and logs, in the order of `teacher_settings`."""
    return [config.teacher.name, *config.more_teachers]


def flatten(config: object) -> dict[str, Any]:
    """The config as dotted names, as MLflow shows it (`loss.alpha`, `teacher.train.epochs`, ...)."""
    return dotted(plain(config))


def dotted(values: Any) -> dict[str, Any]:
    """Nested settings by their whole names."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            name: leaf
            for key, item in value.items()
            for name, leaf in walk(f"{prefix}.{key}" if prefix else key, item).items()
        }

    return walk("", values)
