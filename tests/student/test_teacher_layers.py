"""Students made of layers: of the teacher's, or of a checkpoint's of their own."""

import re
from pathlib import Path

import pytest
import torch
from compact import build_compact_model
from in_process import commands
from transformers import AutoModel, AutoTokenizer

from kdexp.cache import Cache
from kdexp.errors import UserError
from kdexp.identity import config_hash
from kdexp.model.encoder import Encoder
from kdexp.model.families import FAMILIES, compact_config, train_tokenizer
from kdexp.model.forward import accepted_inputs
from kdexp.student.config import StudentConfig
from kdexp.student.load import follow_teacher, load_student
from kdexp.task.embedded.reviews import generate_splits
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.base import Preparation

TEXTS = [text for text, _ in generate_splits({"train": 40}, seed=0, label_noise=0.0)["train"]]
LENGTH, NUM_LAYERS = 32, 6
CLASSES = ["no", "yes"]
CACHE = Cache(Path("nothing is kept"))


def task_of(*names: str) -> Task:
    split = Split.from_lists(TEXTS, None, [index % 2 for index in range(len(TEXTS))])
    return Task("mine", SingleLabel(list(names)), split, split, split, None)


TASK = task_of(*CLASSES)


def encoder_of(family: str, *, kind=TASK.kind, answers_task=True, num_layers=NUM_LAYERS) -> Encoder:
    torch.manual_seed(1)
    tokenizer = train_tokenizer(family, TEXTS, vocab_size=400, max_length=LENGTH)
    size = {"num_layers": num_layers, "hidden_size": 8, "num_heads": 2, "max_length": LENGTH}
    config = compact_config(family, tokenizer, **size, head=kind.head_config())
    return Encoder(build_compact_model(config).eval(), tokenizer, LENGTH, answers_task=answers_task)


class Shown:
    """A teacher that is an encoder."""

    name, role, num_parameters, digest, checks_chance = "mine", "teacher", 0, "", False
    members: dict = {}  # noqa: RUF012
    preparation = Preparation()

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder


def student_of(teacher: Encoder, task=TASK, **settings) -> Encoder:
    family = settings.pop("family", teacher.model.config.model_type.replace("-", "_").replace("deberta_v2", "deberta"))
    defaults = {"name": family, "family": family, "init": "teacher_layers", "max_length": LENGTH, "num_layers": None}
    config = StudentConfig(**defaults | settings)
    return follow_teacher(config, Shown(teacher), task, CACHE, seed=3)


@torch.no_grad()
def logits(encoder: Encoder) -> torch.Tensor:
    inputs = encoder.tokenizer(TEXTS[:5], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    return encoder.model.eval()(**accepted_inputs(encoder.model, inputs)).logits


@torch.no_grad()
def states(encoder: Encoder) -> tuple[torch.Tensor, ...]:
    """The hidden states before the first layer and after each."""
    inputs = encoder.tokenizer(TEXTS[:5], return_tensors="pt", padding=True, truncation=True, max_length=LENGTH)
    return encoder.model.eval().base_model(inputs["input_ids"], inputs["attention_mask"], output_hidden_states=True)[
        "hidden_states"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_are_the_teacher_itself(family):
    teacher = encoder_of(family)
    student = student_of(teacher, num_layers=NUM_LAYERS)
    assert student.answers_task
    torch.testing.assert_close(logits(student), logits(teacher), rtol=0, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_layers_compute_what_they_computed_in_the_teacher(family):
    teacher = encoder_of(family)
    student = student_of(teacher, num_layers=2, layers="first")
    assert student.model.config.num_hidden_layers == 2
    expected = states(teacher)
    assert len(states(student)) == 3
    # ModernBERT's last state is behind a norm of the whole model.
    for place in (0, 1):
        torch.testing.assert_close(states(student)[place], expected[place], rtol=0, atol=0)
    assert student.num_parameters < teacher.num_parameters or family == "albert"


def layer_weights(encoder: Encoder) -> list[dict[str, torch.Tensor]]:
    found: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in encoder.model.base_model.state_dict().items():
        place = re.match(r"(?:encoder\.layer|transformer\.layer|layers)\.(\d+)\.(.*)", name)
        if place:
            found.setdefault(int(place[1]), {})[place[2]] = tensor
    return [found[number] for number in sorted(found)]


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "albert"])
@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({"layers": [0, 2, 5]}, [0, 2, 5]),
        ({"num_layers": 3}, [0, 2, 5]),
        ({"num_layers": 4, "layers": "uniform"}, [0, 2, 3, 5]),
        ({"num_layers": 1}, [0]),
        ({"num_layers": 2, "layers": "last"}, [4, 5]),
    ],
)
def test_the_layers_that_are_named_are_taken_in_their_order(family, settings, layers):
    teacher = encoder_of(family)
    student = student_of(teacher, **settings)
    taken, given = layer_weights(student), layer_weights(teacher)
    assert len(taken) == len(layers)
    for weights, layer in zip(taken, layers, strict=True):
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, given[layer][name], rtol=0, atol=0)
    assert f"layers {', '.join(map(str, layers))} of" in student.notes[0]


def test_each_layer_of_a_modernbert_keeps_its_reach():
    teacher = encoder_of("modernbert")
    reach = teacher.model.config.layer_types
    assert reach[3] == "full_attention" != reach[4]
    student = student_of(teacher, layers=[0, 1, 3, 4])
    assert student.model.config.layer_types == [reach[layer] for layer in (0, 1, 3, 4)]
    assert "left out" in student_of(teacher, layers=[3, 4]).notes[-1]
    assert torch.isfinite(logits(student_of(teacher, layers=[3]))).all()


def test_a_head_with_the_classes_in_another_order_is_put_into_the_tasks():
    teacher = encoder_of("roberta", kind=SingleLabel(["yes", "no"]))
    student = student_of(teacher, num_layers=NUM_LAYERS)
    torch.testing.assert_close(logits(student), logits(teacher)[:, [1, 0]], rtol=0, atol=0)
    assert student.model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("other", [{"kind": SingleLabel(["a", "b", "c"])}, {"answers_task": False}])
def test_a_head_that_answers_something_else_is_made_anew_from_the_seed(other):
    teacher = encoder_of("bert", **other)
    student, again = student_of(teacher, num_layers=2), student_of(teacher, num_layers=2)
    assert not student.answers_task
    assert logits(student).shape == (5, 2)
    torch.testing.assert_close(logits(student), logits(again), rtol=0, atol=0)


def test_the_student_is_a_copy():
    teacher = encoder_of("bert")
    student = student_of(teacher, num_layers=2)
    taken = {tensor.data_ptr() for tensor in teacher.model.parameters()}
    assert not taken & {tensor.data_ptr() for tensor in student.model.parameters()}


def test_layers_of_a_checkpoint_of_its_own(tmp_path):
    encoder = encoder_of("roberta")
    encoder.save(tmp_path / "mine")
    settings = {"name": "mine", "family": "roberta", "checkpoint": str(tmp_path / "mine"), "max_length": LENGTH}

    def load(**chosen) -> Encoder:
        return load_student(StudentConfig(**settings, **chosen), TASK, Cache(tmp_path / "cache"), seed=0)

    student = load(layers=[1, 4])
    for weights, layer in zip(layer_weights(student), (1, 4), strict=True):
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, layer_weights(encoder)[layer][name], rtol=0, atol=0)
    first, plain = load(num_layers=2, layers="first"), load(num_layers=2)
    assert first.fingerprint() == plain.fingerprint()
    student.save(tmp_path / "student")
    AutoTokenizer.from_pretrained(tmp_path / "student")
    assert AutoModel.from_pretrained(tmp_path / "student").config.num_hidden_layers == 2


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"layers": "middle"}, "layers: got middle; expected uniform, first, last, or numbers from 0 in rising order"),
        ({"layers": [2, 0]}, "layers: got [2, 0]; expected"),
        ({"layers": [1, 1]}, "layers: got [1, 1]; expected"),
        ({"layers": []}, "layers: got []; expected"),
        ({"layers": [-1]}, "layers: got [-1]; expected"),
        ({"layers": [0, True]}, "layers: got [0, True]; expected"),
        ({"layers": [0, 1], "num_layers": 3}, "num_layers: is 3, but layers lists 2; set one of the two"),
        ({"layers": "last"}, "num_layers: is not set, and layers=last needs it"),
        ({}, "num_layers: is not set, and init=teacher_layers needs it"),
        ({"num_layers": 2, "hidden_size": 8}, "hidden_size: cannot be set with init=teacher_layers"),
        ({"num_layers": 2, "checkpoint": "x"}, "checkpoint: cannot be set with init=teacher_layers"),
        ({"init": "own", "layers": [0]}, "layers: got [0], but a compact student has layers of its own"),
        ({"num_layers": 9}, "student.num_layers: got 9; there are 6 layers to take"),
        ({"layers": [0, 6]}, "student.layers: got [0, 6]; there are 6: 0 to 5"),
        ({"num_layers": 2, "max_length": 99}, "student.max_length: got 99; the teacher reads at most 32"),
        (
            {"num_layers": 2, "family": "roberta"},
            "student.init: is teacher_layers, but the teacher is a bert model and the student roberta: layers do not "
            "cross families; choose student=bert, or keep a checkpoint's encoder and change its tokens with "
            "student.checkpoint=<the teacher's> student.transplant=<another tokenizer>",
        ),
        ({"num_layers": 2, "init": "pretrained_layers"}, "student.init: is pretrained_layers, but mine came fine-tu"),
    ],
)
def test_bad_settings_are_told_in_one_line(settings, line):
    with pytest.raises(UserError) as caught:
        student_of(encoder_of("bert"), **settings)
    assert str(caught.value).startswith(line)


def test_layers_that_are_all_the_same_are_not_chosen():
    with pytest.raises(UserError, match="layers of a albert model are one and the same; set num_layers=2 alone"):
        student_of(encoder_of("albert"), layers=[0, 3])


def test_a_teacher_that_shows_no_layers_is_told():
    config = StudentConfig(name="bert", family="bert", init="teacher_layers", num_layers=1)

    class Answers:
        name, members = "file", {}

    with pytest.raises(UserError, match=r"student\.init: is teacher_layers, but file shows only its answers"):
        follow_teacher(config, Answers(), TASK, CACHE, seed=0)


TINY = [
    *("task.train_size=64", "task.validation_size=20", "task.test_size=20", "train.max_steps=2", "hardware=cpu"),
    *("teacher.train.max_steps=2", "teacher.chance_check=false", "teacher.num_layers=3", "teacher.hidden_size=16"),
    *("tracking=none", "hardware.num_threads=1"),
]

kdexp = pytest.fixture(commands)


def test_a_run_is_taught_by_what_it_is_made_of(kdexp, tmp_path):
    lines = ["student.init=teacher_layers", "student.layers=[0,2]", *TINY]
    shown = kdexp(*lines)
    assert shown.code == 0, shown.err
    assert "bert 3x16 -> bert teacher_layers 0,2" in shown.out
    assert "layers 0, 2 of the fine-tuned teacher's 3" in shown.err + shown.out
    (student, baseline) = sorted((tmp_path / "cache" / "students").glob("*/files/model"))
    assert AutoModel.from_pretrained(student).config.num_hidden_layers == 2
    assert AutoModel.from_pretrained(baseline).config.num_hidden_layers == 2
    # Other teacher, other student: nothing is taken from the cache for it.
    assert kdexp(*lines, "teacher.seed=1").code == 0
    assert len(list((tmp_path / "cache" / "students").glob("*/files"))) == 4


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["student.init=teacher_layers", "student.num_layers=1", "tokenization=student_ids"],
            "tokenization: is stud",
        ),
        (["student.init=pretrained_layers", "student.num_layers=1"], "student.init: is pretrained_layers, but the te"),
        (
            ["student.init=layers"],
            "student.init: got 'layers'; expected one of own, teacher_layers",
        ),
        (["teacher=roberta", "student.init=teacher_layers", "student.num_layers=1"], "student.init: is teacher_layer"),
    ],
)
def test_a_run_refuses_before_it_trains(kdexp, lines, told, tmp_path):
    assert told in kdexp(*TINY, *lines).refusal
    assert not (tmp_path / "cache" / "teachers").exists()


def test_hashes_of_other_students_stay(monkeypatch):
    import kdexp

    plain, made = kdexp.compose(), kdexp.compose("student.init=teacher_layers", "student.num_layers=1")
    assert config_hash(plain) != config_hash(made)
    assert config_hash(plain) == config_hash(kdexp.compose("student.init=own", "student.vocab=full"))
