"""The typed configuration: what can be set.

Hydra merges the YAML groups of conf/ over these dataclasses, so a misspelt key or a wrong type is
refused while the config is composed. `kdexp.resolve` then makes it complete and refuses what is out
of range.

This module imports neither torch nor transformers.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from kdexp.cli.conf_dir import CONF_DIR


class Tokenization(StrEnum):
    """Whose token ids the teacher reads."""

    own = "own"
    student_ids = "student_ids"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Precision(StrEnum):
    """Number format of the forward and backward pass; weights and losses are always float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class Keep(StrEnum):
    """Which epoch's weights are kept: chosen on validation, or simply the last."""

    best = "best"
    last = "last"


@dataclass
class TrainConfig:
    """Schedule of one training. `None` means: depends on the model, see `resolve`."""

    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int = 32
    gradient_accumulation: int = 1
    eval_batch_size: int = 128
    learning_rate: float | None = None
    weight_decay: float = 0.01
    warmup_ratio: float = 0.1
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.0
    group_by_length: bool = True
    keep: Keep = Keep.best


@dataclass
class StudentTrainConfig(TrainConfig):
    """The student's schedule, and its baseline's."""

    use_transfer: bool = False


@dataclass
class ModelConfig:
    """A model by family (compact, from scratch) or by checkpoint (hub id or folder).

    `transplant` names another tokenizer (hub id or folder): the checkpoint's encoder is then made to read
    its tokens, in its family's architecture and with a new head (kdexp/transplant.py).
    """

    name: str = MISSING
    family: str = MISSING
    checkpoint: str | None = None
    transplant: str | None = None
    revision: str | None = None
    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    vocab_size: int | None = None
    max_length: int = 128
    labels: list[str] | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False


@dataclass
class TeacherConfig(ModelConfig):
    """A teacher, and how it is fine-tuned where it still has to be.

    Attributes:
        cache_hidden: GB of disk for what representation terms compare; where that is not enough, or None, the
            teacher is forwarded at each step of the student's training.
        weight: Share in what several teachers answer together, relative to the others'.
    """

    finetune: bool | None = None
    chance_check: bool = True
    cache_hidden: float | None = 1.0
    weight: float = 1.0
    seed: int = 0
    train: TrainConfig = field(default_factory=TrainConfig)


@dataclass
class StudentConfig(ModelConfig):
    """A student."""


@dataclass
class TaskConfig:
    name: str = MISSING


@dataclass
class EmbeddedTaskConfig(TaskConfig):
    """A task that kdexp generates: `reviews` or `inference`."""

    train_size: int = MISSING
    validation_size: int = MISSING
    test_size: int = MISSING
    transfer_size: int = MISSING
    label_noise: float = MISSING
    seed: int = 0


@dataclass
class PublicTaskConfig(TaskConfig):
    """A public data set by name, from the hub or from a local copy (`path`)."""

    dataset: str = MISSING
    subset: str | None = None
    revision: str | None = None
    path: str | None = None
    text: Any = MISSING
    label: str = MISSING
    labels: list[str] = MISSING
    train_size: int | None = None
    validation_size: int = MISSING
    test_size: int | None = None
    seed: int = 0


@dataclass
class FileTaskConfig(TaskConfig):
    """A person's own CSV, TSV, JSONL or Parquet files."""

    train: str = MISSING
    validation: str | None = None
    test: str | None = None
    transfer: str | None = None
    text: Any = MISSING
    label: str = MISSING
    labels: list[str] | None = None
    header: bool = True
    train_size: int | None = None
    validation_size: int | None = None
    test_size: int | None = None
    seed: int = 0


class Alignment(StrEnum):
    """Which tokens of teacher and student a token-level term compares."""

    words = "words"
    position = "position"


class Pooling(StrEnum):
    """How a representation term makes one vector of a text."""

    cls = "cls"
    mean = "mean"


@dataclass
class TermConfig:
    """A representation or token-level term: weight * term is added to the loss.

    Attributes:
        weight: At the first step.
        weight_end: At the last step, with a linear ramp between; None keeps `weight`.
        layers: Which layers are compared: `uniform`, `last`, or a list of layer numbers.
    """

    weight: float = 1.0
    weight_end: float | None = None
    layers: Any = "uniform"
    alignment: Alignment = Alignment.words
    pooling: Pooling = Pooling.cls


TERMS = ("pkd", "rkd", "cka", "hidden", "attention", "minilm")
"""Names under which `loss.terms` can hold a term."""


@dataclass
class LossConfig:
    """loss = alpha * hard + (1 - alpha) * soft + sum of weight * term."""

    name: str = MISSING
    terms: dict[str, TermConfig] = field(default_factory=dict)


@dataclass
class CrossEntropyConfig(LossConfig):
    """Gold labels only (alpha = 1): without `terms`, no teacher."""


@dataclass
class SoftLossConfig(LossConfig):
    """What all losses share that compare the student's logits with the teacher's.

    Attributes:
        alpha: Weight of the gold labels at the first step: 1 = no teacher, 0 = teacher only.
        alpha_end: At the last step, with a linear ramp between; None keeps `alpha`.
    """

    alpha: float = MISSING
    alpha_end: float | None = None


@dataclass
class KDConfig(SoftLossConfig):
    """soft = T^2 * KL(teacher || student)."""

    temperature: float = MISSING


@dataclass
class SoftCEConfig(SoftLossConfig):
    """soft = cross-entropy with the teacher's probabilities, at T = 1."""


@dataclass
class MSEConfig(SoftLossConfig):
    """soft = mean squared difference of logits.

    Attributes:
        centered: First remove each example's mean logit, which no prediction depends on.
    """

    centered: bool = MISSING


@dataclass
class ReverseKLConfig(SoftLossConfig):
    """soft = T^2 * KL(student || teacher)."""

    temperature: float = MISSING


@dataclass
class JSDConfig(SoftLossConfig):
    """soft = T^2 * generalised Jensen-Shannon divergence.

    Attributes:
        beta: Share of the teacher in the mixture, between 0 (towards kd) and 1 (towards reverse_kl).
    """

    temperature: float = MISSING
    beta: float = MISSING


@dataclass
class TVDConfig(SoftLossConfig):
    """soft = T * total variation distance."""

    temperature: float = MISSING


@dataclass
class DKDConfig(SoftLossConfig):
    """soft = decoupled knowledge distillation.

    Attributes:
        target_weight: The paper's alpha, of the gold class against all others.
        nontarget_weight: The paper's beta, of the distribution among the other classes.
    """

    temperature: float = MISSING
    target_weight: float = MISSING
    nontarget_weight: float = MISSING


@dataclass
class NKDConfig(SoftLossConfig):
    """soft = normalised knowledge distillation.

    Attributes:
        temperature: The paper's lambda; softens the non-target classes only.
        nontarget_weight: The paper's gamma.
    """

    temperature: float = MISSING
    nontarget_weight: float = MISSING


@dataclass
class DISTConfig(SoftLossConfig):
    """soft = 1 - Pearson correlation, within examples and within classes.

    Attributes:
        inter_weight: The paper's beta, of each example's correlation over the classes.
        intra_weight: The paper's gamma, of each class's correlation over the batch.
    """

    temperature: float = MISSING
    inter_weight: float = MISSING
    intra_weight: float = MISSING


@dataclass
class LogitStdConfig(SoftLossConfig):
    """soft = T^2 * KL(teacher || student) of logits standardised per example."""

    temperature: float = MISSING


LOSSES: dict[str, type[LossConfig]] = {
    "ce": CrossEntropyConfig,
    "kd": KDConfig,
    "soft_ce": SoftCEConfig,
    "mse": MSEConfig,
    "reverse_kl": ReverseKLConfig,
    "jsd": JSDConfig,
    "tvd": TVDConfig,
    "dkd": DKDConfig,
    "nkd": NKDConfig,
    "dist": DISTConfig,
    "logit_std": LogitStdConfig,
}
"""The losses by name, and what can be set in each."""


@dataclass
class HardwareConfig:
    device: Device = Device.auto
    precision: Precision = Precision.auto
    num_threads: int | None = None
    num_workers: int = 0


@dataclass
class TrackingConfig:
    enabled: bool = True
    uri: str | None = None
    log_model: bool = True


@dataclass
class CrossFamilyConfig:
    """The cross-family study.

    Attributes:
        teachers, students: Checkpoints by family, `{bert: <folder or hub id>}`, in place of compact models.
        margin: Half width, in points, of what counts as equivalent.
    """

    # Any, because only an untyped setting takes a mapping with new keys from the command line.
    teachers: Any = None
    students: Any = None
    margin: float = 2.0


@dataclass
class Config:
    """One run."""

    teacher: TeacherConfig = MISSING
    more_teachers: dict[str, TeacherConfig] = field(default_factory=dict)
    student: StudentConfig = MISSING
    task: TaskConfig = MISSING
    loss: LossConfig = MISSING
    hardware: HardwareConfig = MISSING
    train: StudentTrainConfig = MISSING
    tracking: TrackingConfig = MISSING
    tokenization: Tokenization = Tokenization.own
    baseline: bool = True
    seed: int = 0
    study: str = "distillation"
    resume: bool = True
    cache_dir: str = MISSING
    parent_run: str | None = None
    trial: str | None = None
    condition: str | None = None
    families: list[str] = field(default_factory=list)
    cross_family: CrossFamilyConfig = field(default_factory=CrossFamilyConfig)


_SPLITS = ("train", "validation", "test", "transfer")


def register_schemas() -> None:
    """Tell Hydra the types. `base_config` types every group; tasks and losses differ by option."""
    store = ConfigStore.instance()
    store.store(name="base_config", node=Config)
    for name, schema in {
        "embedded": EmbeddedTaskConfig,
        "public": PublicTaskConfig,
        "file": FileTaskConfig,
    }.items():
        store.store(group="schema/task", name=name, node=schema)
    for name, loss_schema in LOSSES.items():
        store.store(group="schema/loss", name=name, node=loss_schema)
    # Every teacher can be a further one too, under its own name.
    for option in CONF_DIR.glob("teacher/*.yaml"):
        name = option.stem
        node = {"defaults": [f"/teacher/{name}@_here_"]}
        store.store(group="more_teachers", name=name, node=node, package=f"more_teachers.{name}")


def teacher_settings(config: Config) -> dict[str, TeacherConfig]:
    """Every teacher by what its settings begin with: `teacher`, `more_teachers.roberta`, ..."""
    return {"teacher": config.teacher} | {f"more_teachers.{name}": each for name, each in config.more_teachers.items()}


def teacher_names(config: Config) -> list[str]:
    """What each teacher is called in metrics and logs, in the order of `teacher_settings`."""
    return [config.teacher.name, *config.more_teachers]


def plain(config: object) -> Any:
    """The config as JSON values: enums become their names."""
    return json.loads(json.dumps(asdict(config)))  # type: ignore[call-overload]


def flatten(config: object) -> dict[str, Any]:
    """The config as dotted names, as MLflow shows it (`loss.alpha`, `teacher.train.epochs`, ...)."""

    def walk(prefix: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            return {prefix: value}
        return {
            name: leaf
            for key, item in value.items()
            for name, leaf in walk(f"{prefix}.{key}" if prefix else key, item).items()
        }

    return walk("", plain(config))


def config_hash(config: Config) -> str:
    """SHA-256 of everything that can change a result: two runs with one hash are the same computation.

    Local files that the config names count by their content, libraries by their version. Where
    results are written, how they are tracked and what the study is called do not count, and without
    a teacher (alpha = 1) neither do the other settings of the loss.
    """
    parts = plain(config)
    for irrelevant in (
        "tracking",
        "cache_dir",
        "study",
        "resume",
        "parent_run",
        "trial",
        "condition",
        "families",
        "cross_family",
    ):
        del parts[irrelevant]
    for irrelevant in ("num_workers", "num_threads"):
        del parts["hardware"][irrelevant]
    if is_without_teacher(config.loss):
        parts["loss"] = {"name": "ce"}
    if not config.more_teachers:
        del parts["more_teachers"], parts["teacher"]["weight"]
    parts["files"] = {setting: _content(path) for setting, path in _local_inputs(config).items()}
    parts["versions"] = library_versions()
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_without_teacher(loss: LossConfig) -> bool:
    """Whether nothing of the teacher enters the loss: its other settings then have no effect."""
    return not loss.terms and not has_soft_part(loss)


def has_soft_part(loss: LossConfig) -> bool:
    """Whether the student is compared with the teacher's logits at any step."""
    return isinstance(loss, SoftLossConfig) and (loss.alpha < 1 or loss.alpha_end not in (None, 1))


@lru_cache(maxsize=1)
def library_versions() -> dict[str, str]:
    """Of the libraries whose numerics a result depends on."""
    return {name: version(name) for name in ("torch", "transformers", "tokenizers")}


def _local_inputs(config: Config) -> dict[str, Path]:
    """Files and folders of this machine that the config names."""
    named = {f"task.{name}": getattr(config.task, name, None) for name in ("path", *_SPLITS)}
    for role, model in (teacher_settings(config) | {"student": config.student}).items():
        named |= {f"{role}.checkpoint": model.checkpoint, f"{role}.transplant": model.transplant}
    paths = {setting: Path(value).expanduser() for setting, value in named.items() if value}
    return {setting: path for setting, path in paths.items() if path.exists()}


def _content(path: Path) -> list[list[str]]:
    """Name and SHA-256 of every file below `path`."""
    files = [path] if path.is_file() else sorted(item for item in path.rglob("*") if item.is_file())
    return [[file.name, _file_sha256(file, file.stat().st_mtime_ns, file.stat().st_size)] for file in files]


@lru_cache(maxsize=1024)
def _file_sha256(file: Path, modified_ns: int, size: int) -> str:
    """Of a file as it is now: a sweep asks for the same files once per job."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
