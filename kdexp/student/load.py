"""The student before training: with weights of its own, or made of its teacher's layers."""

from dataclasses import replace

from torch import Tensor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.cache import Cache
from kdexp.errors import UserError, under
from kdexp.model.checkpoints import family_of, refuse_too_long
from kdexp.model.encoder import Encoder
from kdexp.model.layers import loses_norm, with_layers
from kdexp.model.legibility import measure_legibility, refuse_illegible
from kdexp.model.load import load_encoder
from kdexp.model.transplanted import load_headless
from kdexp.student.config import Init, LayerChoice, StaticStudentConfig, StudentConfig, Vocab
from kdexp.student.static import static_student
from kdexp.student.trim import trim
from kdexp.task.load import Task
from kdexp.teacher.base import Teacher, shown_encoders


def load_student(config: StudentConfig, task: Task, cache: Cache, *, seed: int, use_transfer: bool = False) -> Encoder:
    """Build or load a student that does not follow its teacher.

    Args:
        use_transfer: It will be trained on the task's transfer text too.

    Raises:
        UserError: It cannot be loaded, or cannot read the task's text.
    """
    if isinstance(config, StaticStudentConfig):
        encoder = static_student(config, task, _embeddings_of_checkpoint(config), seed=seed)
    elif config.layers in (None, LayerChoice.first):
        encoder = load_encoder("student", config, task, cache, seed=seed)
    else:
        whole = replace(config, num_layers=None, layers=None)
        encoder = _with_layers(load_encoder("student", whole, task, cache, seed=seed), config, task, seed)
    return _finish(encoder, config, task, cache, use_transfer)


def follow_teacher(
    config: StudentConfig, teacher: Teacher, task: Task, cache: Cache, *, seed: int, use_transfer: bool = False
) -> Encoder:
    """Make the student of the teacher as it is by now.

    Of a teacher that is not prepared yet it has its final shape, tokens and size, but not the fine-tuned weights.

    Args:
        use_transfer: It will be trained on the task's transfer text too.

    Raises:
        UserError: The teacher has no layers to take, or others than the settings say.
    """
    if isinstance(config, StaticStudentConfig):
        # Of several teachers, the first that shows an encoder; one that only answers still teaches it.
        source = next(iter(shown_encoders(teacher).values()), None)
        encoder = static_student(config, task, None if source is None else _embeddings(source), seed=seed)
    else:
        encoder = replace(_with_layers(_source(config, teacher), config, task, seed), max_length=config.max_length)
        refuse_too_long("student", config, encoder.model)
    return _finish(encoder, config, task, cache, use_transfer)


def _finish(encoder: Encoder, config: StudentConfig, task: Task, cache: Cache, use_transfer: bool) -> Encoder:
    if config.vocab == Vocab.trim:
        transfer = task.transfer if use_transfer else None
        encoder = trim(encoder, task, [task.train, *([] if transfer is None else [transfer])], cache)
    return encoder if encoder.legibility else _legible(encoder, config, task)


def _legible(encoder: Encoder, config: StudentConfig, task: Task) -> Encoder:
    found = measure_legibility("student", encoder.tokenizer, task.train, encoder.max_length, task.kind)
    refuse_illegible(found, config)
    return replace(encoder, legibility=found)


def _embeddings(encoder: Encoder) -> tuple[PreTrainedTokenizerBase, Tensor]:
    return encoder.tokenizer, encoder.model.get_input_embeddings().weight.detach().cpu()


def _embeddings_of_checkpoint(config: StaticStudentConfig) -> tuple[PreTrainedTokenizerBase, Tensor] | None:
    if config.checkpoint is None:
        return None
    model, tokenizer = load_headless("student", config)
    return tokenizer, model.get_input_embeddings().weight.detach()


def chosen_layers(config: StudentConfig, available: int) -> list[int]:
    """The numbers of the layers that the settings choose.

    Raises:
        UserError: There are not as many.
    """
    if isinstance(config.layers, list):
        return list(config.layers)
    number = config.num_layers
    assert number is not None
    if number > available:
        raise UserError("student.num_layers", f"got {number}", f"there are {available} layers to take")
    match config.layers:
        case LayerChoice.first:
            return list(range(number))
        case LayerChoice.last:
            return list(range(available - number, available))
    return [round(place * (available - 1) / max(number - 1, 1)) for place in range(number)]


def _with_layers(source: Encoder, config: StudentConfig, task: Task, seed: int) -> Encoder:
    available = source.model.config.num_hidden_layers
    layers = chosen_layers(config, available)
    with under("student"):
        encoder = with_layers(source, layers, task.kind, seed=seed)
    whose = {
        Init.own: "its checkpoint's",
        Init.teacher_layers: "the fine-tuned teacher's",
        Init.pretrained_layers: "the teacher's, before its fine-tuning,",
    }[config.init]
    notes = [f"student: layers {', '.join(map(str, layers))} of {whose} {available}, embeddings included"]
    if config.follows_teacher:
        notes.append("the baseline begins with the same layers: the gain is that of the teacher's answers alone")
    if loses_norm(source, layers):
        notes.append(
            f"student: layer {layers[0]} comes first, where a {config.family} has no norm before its attention: that "
            "layer's own is left out"
        )
    return replace(encoder, notes=tuple(notes))


def _source(config: StudentConfig, teacher: Teacher) -> Encoder:
    """The encoder whose layers are taken: of several teachers, the first that shows one."""
    encoders = shown_encoders(teacher)
    if not encoders:
        raise UserError(
            "student.init",
            f"is {config.init}, but {teacher.name} shows only its answers",
            "choose a teacher that is an encoder, or remove it",
        )
    encoder = next(iter(encoders.values()))
    family = family_of(encoder.model.config)
    if family != config.family:
        raise UserError(
            "student.init",
            f"is {config.init}, but the teacher is a {family} model and the student {config.family}: layers do not "
            "cross families",
            f"choose student={family}, or keep a checkpoint's encoder and change its tokens with "
            "student.checkpoint=<the teacher's> student.transplant=<another tokenizer>",
        )
    if config.init == Init.pretrained_layers and encoder.answers_task:
        raise UserError(
            "student.init",
            f"is {config.init}, but {teacher.name} came fine-tuned: what it was before is not known",
            "use student.init=teacher_layers, or name the pretrained checkpoint with student.checkpoint=<...>",
        )
    return encoder
