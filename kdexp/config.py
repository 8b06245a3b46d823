"""The typed configuration: what can be set, and what is legal.

Hydra merges the YAML groups of conf/ over these dataclasses, so a misspelt key or a wrong type is
refused while the config is composed. `resolve` then turns the composed config into plain
dataclasses, refuses values out of range before anything is built, and fills in every default that
depends on another setting. Past that point nobody sees a DictConfig, and nothing is left to guess:
the resolved config is what is logged.

This module imports neither torch nor transformers.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import StrEnum
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from kdexp.conf_dir import CONF_DIR
from kdexp.errors import UserError


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


# Compact sizes by role: a teacher large enough to be worth imitating and a student small enough to
# need it, both trainable in seconds on two CPU cores; measured on the embedded tasks.
_COMPACT_SIZES = {
    "teacher": {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "vocab_size": 800},
    "student": {"num_layers": 1, "hidden_size": 24, "num_heads": 2, "vocab_size": 800},
}
# From scratch a small model needs a large rate and several passes; a pretrained one the usual
# fine-tuning recipe (Devlin et al. 2019, arXiv 1810.04805, appendix A.3).
_FROM_SCRATCH = {
    "teacher": {"epochs": 6, "learning_rate": 2e-3},
    "student": {"epochs": 4, "learning_rate": 3e-3},
}
_PRETRAINED = {"epochs": 3, "learning_rate": 5e-5}


def resolve(composed: DictConfig) -> Config:
    """Turn the composed config into plain dataclasses, complete and within range.

    Raises:
        UserError: A value is out of range, or a setting does not belong to the chosen option.
    """
    _refuse_missing(composed)
    _refuse_unknown(composed)
    config: Config = OmegaConf.to_object(composed)  # type: ignore[assignment]
    for name, further in config.more_teachers.items():
        further.name = name  # two of one option are told apart
    for teacher in teacher_settings(config).values():
        _complete(teacher, "teacher", teacher.train)
    _complete(config.student, "student", config.train)
    config.cache_dir = str(Path(config.cache_dir).expanduser().absolute())
    _check(config)
    return config


def teacher_settings(config: Config) -> dict[str, TeacherConfig]:
    """Every teacher by what its settings begin with: `teacher`, `more_teachers.roberta`, ..."""
    return {"teacher": config.teacher} | {f"more_teachers.{name}": each for name, each in config.more_teachers.items()}


def teacher_names(config: Config) -> list[str]:
    """What each teacher is called in metrics and logs, in the order of `teacher_settings`."""
    return [config.teacher.name, *config.more_teachers]


def refuse_merged_options(choices: Mapping[str, Any]) -> None:
    """Refuse `teacher=[bert,roberta]`, which Hydra would merge into one teacher with settings of both.

    Args:
        choices: Hydra's chosen option by group; a group with a list of options is missing from it.

    Raises:
        UserError: A group that takes one option was given several.
    """
    for group in ("teacher", "student", "task", "loss", "hardware", "train", "tracking"):
        if group not in choices:
            remedy = "choose one, or compare them in a sweep with -m"
            if group == "teacher":
                remedy += "; several teachers at once are teacher=bert 'more_teachers=[roberta,electra]'"
            raise UserError(group, "got a list of options, which would be merged into one", remedy)


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


def _refuse_missing(composed: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UserError(missing[0], "is not set", f"add {missing[0]}=<value>")


def _refuse_unknown(node: DictConfig, prefix: str = "") -> None:
    """Refuse keys that `+key=value` slipped past the schema: Hydra accepts these without a word."""
    schema = OmegaConf.get_type(node)
    is_typed = isinstance(schema, type) and is_dataclass(schema)
    known = [item.name for item in fields(schema)] if is_typed else []  # type: ignore[arg-type]
    for key in node:
        name = f"{prefix}{key!s}"
        if is_typed and key not in known:
            raise UserError(name, "no such setting", f"expected one of {', '.join(known)}")
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none():
            _refuse_unknown(child, f"{name}.")


def _complete(model: ModelConfig, role: str, train: TrainConfig) -> None:
    """Fill in what depends on whether the model is compact or a checkpoint."""
    if model.checkpoint is None:
        for name, size in _COMPACT_SIZES[role].items():
            if getattr(model, name) is None:
                setattr(model, name, size)
    schedule = _FROM_SCRATCH[role] if model.checkpoint is None else _PRETRAINED
    if train.learning_rate is None:
        train.learning_rate = schedule["learning_rate"]
    if train.epochs is None:
        train.epochs = int(schedule["epochs"])


def _check(config: Config) -> None:
    for role, teacher in teacher_settings(config).items():
        _check_model(role, teacher)
        _check_train(f"{role}.train", teacher.train)
        if teacher.cache_hidden is not None:
            _require_weight(f"{role}.cache_hidden", teacher.cache_hidden)
        _require_positive(f"{role}.weight", teacher.weight)
        _require_at_least(f"{role}.seed", teacher.seed, 0)
    _check_more_teachers(config)
    _check_model("student", config.student)
    _check_train("train", config.train)
    check_loss(config.loss)
    task = config.task
    for size in ("train_size", "validation_size", "test_size"):
        value = getattr(task, size, None)
        if value is not None:
            _require_at_least(f"task.{size}", value, 1)
    if isinstance(task, EmbeddedTaskConfig):
        _require_at_least("task.transfer_size", task.transfer_size, 0)
        _require_between("task.label_noise", task.label_noise, 0, 1, "0 (none) to 1 (every label)")
    if config.hardware.num_threads is not None:
        _require_at_least("hardware.num_threads", config.hardware.num_threads, 1)
    _require_at_least("hardware.num_workers", config.hardware.num_workers, 0)
    _require_at_least("seed", config.seed, 0)
    _require_positive("cross_family.margin", config.cross_family.margin)
    for role in ("teachers", "students"):
        value = getattr(config.cross_family, role)
        if value is not None and not (isinstance(value, dict) and set(value) <= set(config.families)):
            raise UserError(
                f"cross_family.{role}", f"got {value}", f"expected {{family: checkpoint}} for {config.families}"
            )
    if not config.study.strip():
        raise UserError("study", "is empty", "give the study a name, such as study=my_first_sweep")


def _check_more_teachers(config: Config) -> None:
    name = config.teacher.name
    if name in config.more_teachers:
        raise UserError(
            "more_teachers",
            f"{name} is the first teacher already",
            f"choose another option, or call the second one differently: +teacher@more_teachers.{name}_2={name} "
            f"more_teachers.{name}_2.seed=1",
        )
    if config.more_teachers and config.loss.terms:
        raise UserError(
            "loss.terms",
            f"got {', '.join(config.loss.terms)}, but terms compare with the inside of one teacher, "
            f"not of {len(config.more_teachers) + 1}",
            "remove more_teachers, or choose a loss without terms",
        )


def check_loss(loss: LossConfig) -> None:
    """Refuse values of a loss that are out of range.

    Raises:
        UserError: With the setting's name under `loss`.
    """
    values = asdict(loss)
    for name in ("alpha", "alpha_end"):
        if values.get(name) is not None:
            _require_between(f"loss.{name}", values[name], 0, 1, "0 (teacher only) to 1 (gold labels only)")
    if "temperature" in values:
        _require_positive("loss.temperature", values["temperature"])
    for name in ("target_weight", "nontarget_weight", "inter_weight", "intra_weight"):
        if name in values:
            _require_weight(f"loss.{name}", values[name])
    if isinstance(loss, JSDConfig) and not 0 < loss.beta < 1:
        raise UserError(
            "loss.beta",
            f"got {loss.beta}",
            "expected a number between 0 and 1; the limits themselves are loss=kd and loss=reverse_kl",
        )
    if isinstance(loss, DKDConfig) and not loss.target_weight and not loss.nontarget_weight:
        raise UserError("loss.target_weight", "is 0, as loss.nontarget_weight is", "set one of the two above 0")
    if isinstance(loss, DISTConfig) and not loss.inter_weight and not loss.intra_weight:
        raise UserError("loss.inter_weight", "is 0, as loss.intra_weight is", "set one of the two above 0")
    for name, term in loss.terms.items():
        _check_term(name, term)


def _check_term(name: str, term: TermConfig) -> None:
    setting = f"loss.terms.{name}"
    if name not in TERMS:
        raise UserError(setting, "no such term", f"expected one of {', '.join(TERMS)}")
    _require_weight(f"{setting}.weight", term.weight)
    if term.weight_end is not None:
        _require_weight(f"{setting}.weight_end", term.weight_end)
    is_list = isinstance(term.layers, list) and term.layers and all(type(layer) is int for layer in term.layers)
    if not is_list and term.layers not in ("uniform", "last"):
        raise UserError(
            f"{setting}.layers", f"got {term.layers}", "expected uniform, last, or a list of layer numbers"
        )


def _check_model(role: str, model: ModelConfig) -> None:
    for name in ("num_layers", "hidden_size", "num_heads"):
        value = getattr(model, name)
        if value is not None:
            _require_at_least(f"{role}.{name}", value, 1)
    if model.vocab_size is not None:
        # Below this a byte-level vocabulary cannot hold its 256 bytes and the special tokens.
        _require_at_least(f"{role}.vocab_size", model.vocab_size, 300)
    _require_at_least(f"{role}.max_length", model.max_length, 8)
    if model.checkpoint is not None:
        for name in ("hidden_size", "num_heads", "vocab_size"):
            if getattr(model, name) is not None:
                raise UserError(
                    f"{role}.{name}",
                    f"cannot be set for the checkpoint {model.checkpoint}, which decides it itself",
                    f"remove {role}.{name}, or remove {role}.checkpoint for a compact model",
                )
        if model.transplant is not None and model.labels is not None:
            raise UserError(
                f"{role}.labels",
                f"names the classes of a published head, but with {role}.transplant the head is made anew",
                f"remove {role}.labels",
            )
    elif model.transplant is not None:
        raise UserError(
            f"{role}.transplant",
            f"got {model.transplant}, but a compact model has no pretrained encoder to transplant",
            f"choose one with {role}.checkpoint=<hub id or folder>",
        )
    elif model.labels is not None:
        raise UserError(
            f"{role}.labels",
            "names the classes of a published head, but this model is compact",
            f"remove it, or choose a checkpoint with {role}.checkpoint=<hub id or folder>",
        )


def _check_train(prefix: str, train: TrainConfig) -> None:
    for name in ("epochs", "batch_size", "gradient_accumulation", "eval_batch_size"):
        _require_at_least(f"{prefix}.{name}", getattr(train, name), 1)
    if train.max_steps is not None:
        _require_at_least(f"{prefix}.max_steps", train.max_steps, 1)
    assert train.learning_rate is not None
    _require_positive(f"{prefix}.learning_rate", train.learning_rate)
    _require_positive(f"{prefix}.max_grad_norm", train.max_grad_norm)
    _require_between(f"{prefix}.warmup_ratio", train.warmup_ratio, 0, 1, "0 to 1")
    _require_between(f"{prefix}.label_smoothing", train.label_smoothing, 0, 1, "0 to 1")
    _require_weight(f"{prefix}.weight_decay", train.weight_decay)


def _require_between(setting: str, value: float, low: float, high: float, meaning: str) -> None:
    if not low <= value <= high:  # also refuses nan
        raise UserError(setting, f"got {value}", f"expected a number from {meaning}")


def _require_positive(setting: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise UserError(setting, f"got {value}", "expected a finite number above 0")


def _require_weight(setting: str, value: float) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise UserError(setting, f"got {value}", "expected a finite number of at least 0")


def _require_at_least(setting: str, value: int, low: int) -> None:
    if value < low:
        raise UserError(setting, f"got {value}", f"expected a whole number of at least {low}")
