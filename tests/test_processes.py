"""Several processes in one training: real ones, over gloo, that must agree, end together, and never hang."""

import dataclasses
import gc
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
import torch.distributed
from command_line import SMALL, ForkServer, child_environment
from compact import build_compact_model
from forked import context
from safetensors.torch import load_file
from transformers import set_seed

from kdexp import DistillationTrainer, DistillationTrainingArguments
from kdexp.cache import Cache
from kdexp.entries import Key
from kdexp.errors import UserError
from kdexp.fingerprint import weights_fingerprint
from kdexp.hardware import Device, Hardware, HardwareConfig, _device, prepare_hardware
from kdexp.loss.logit import KD
from kdexp.model import families
from kdexp.model.encoder import Encoder
from kdexp.model.tokens import tokenize
from kdexp.processes import Processes
from kdexp.student.train import train_student
from kdexp.task.kinds.single_label import SingleLabel
from kdexp.task.load import Task
from kdexp.task.split import Split
from kdexp.teacher.config import EncoderTeacherConfig
from kdexp.teacher.encoder import EncoderTeacher
from kdexp.teacher.logits import Cached
from kdexp.training.config import StudentTrainConfig
from kdexp.training.course import Course

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo between processes is tried on POSIX")

TIMEOUT_SECONDS = 120
PARTS = {"student": "bert"}
WORDS = "the a film plot actor is was good bad dull fine not very but and never quite superb"
TEXTS = [" ".join(WORDS.split()[(7 * i + 5 * j * j) % 18] for j in range(3 + i % 6)) for i in range(64)]
LABELS = [i % 3 for i in range(64)]
NAMES = ["good", "bad", "mixed"]

# ---- starting processes ----


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def told_by_torchrun(rank: int, world_size: int, port: int) -> dict[str, str]:
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
        **{"WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"},
    }


def enter(rank: int, world_size: int, port: int, report: Path, function: Callable, arguments: tuple) -> None:
    """What torchrun says to a process, and what the process says in the end."""
    gc.freeze()  # what the fork server imported is no garbage
    os.environ |= told_by_torchrun(rank, world_size, port)
    log = logging.StreamHandler((report / f"log-{rank}").open("w"))
    logging.getLogger("kdexp").addHandler(log)
    logging.getLogger("kdexp").setLevel(logging.INFO)
    try:
        result = {"value": function(*arguments)}
    except BaseException as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    (report / f"{rank}.json").write_text(json.dumps(result))
    log.flush()


def launch(report: Path, function: Callable, *arguments: Any, world_size: int = 2) -> list[Any]:
    """Call a function in each process of a training; return what each returned, or raised."""
    with processes_of(report, function, *arguments, world_size=world_size) as processes:
        for process in processes:
            process.join(TIMEOUT_SECONDS)
            assert process.exitcode is not None, "a process hangs"
    return [json.loads((report / f"{rank}.json").read_text()) for rank in range(world_size)]


@contextmanager
def processes_of(report: Path, function: Callable, *arguments: Any, world_size: int = 2) -> Iterator[list]:
    report.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [
        context.Process(target=enter, args=(rank, world_size, port, report, function, arguments))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def connected() -> Processes:
    processes = Processes.current()
    processes.connect("gloo")
    return processes


def all_reduce() -> None:
    torch.distributed.all_reduce(torch.ones(1))


# ---- agreeing, and ending together ----


def share_something(raises: bool) -> object:
    processes = connected()
    calls = []

    def decide() -> list:
        calls.append(processes.rank)
        if raises:
            raise UserError("cache_dir", "is full", "make room")
        return ["a", processes.rank]

    return [processes.share("x", decide), processes.share("x", decide), calls]


def test_all_processes_get_what_the_main_one_decides(tmp_path: Path) -> None:
    main, other = launch(tmp_path, share_something, False)
    assert main["value"] == [["a", 0], ["a", 0], [0, 0]]
    assert other["value"] == [["a", 0], ["a", 0], []]


def test_all_processes_raise_what_the_main_one_raises(tmp_path: Path) -> None:
    assert launch(tmp_path, share_something, True) == [{"error": "UserError: cache_dir: is full; make room"}] * 2


def fail_in_one(failing: int, error: BaseException | None, others_wait_in: str) -> None:
    processes = connected()
    with processes.together("training"):
        all_reduce()
        if processes.rank == failing:
            time.sleep(0.5)
            if error is None:
                os.kill(os.getpid(), signal.SIGKILL)
            raise error
        match others_wait_in:
            case "a collective operation":
                all_reduce()
            case "a decision":
                processes.share("x", lambda: time.sleep(1000) if failing != 0 else None)
            case "the end":
                pass


@pytest.mark.parametrize(("failing", "others_wait_in"), [
    (0, "a collective operation"), (1, "a collective operation"), (0, "a decision"), (0, "the end"), (1, "the end"),
])  # fmt: skip
def test_an_error_in_one_process_ends_all_with_that_error(tmp_path: Path, failing: int, others_wait_in: str) -> None:
    began = time.monotonic()
    error = UserError("train.learning_rate", "the loss became nan", "try less")
    results = launch(tmp_path, fail_in_one, failing, error, others_wait_in)
    assert results == [{"error": "UserError: train.learning_rate: the loss became nan; try less"}] * 2
    assert time.monotonic() - began < 60


def test_a_bug_in_one_process_is_told_by_the_others(tmp_path: Path) -> None:
    main, other = launch(tmp_path, fail_in_one, 1, KeyError("bug"), "the end")
    assert main == {"error": "OtherProcessError: process 1 of this training failed: KeyError: bug"}
    assert other == {"error": "KeyError: 'bug'"}


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_others(tmp_path: Path, killed: int) -> None:
    with processes_of(tmp_path, fail_in_one, killed, None, "a collective operation") as processes:
        for process in processes:
            process.join(TIMEOUT_SECONDS)
            assert process.exitcode is not None, "a process hangs"
    assert processes[killed].exitcode == -signal.SIGKILL
    assert "error" in json.loads((tmp_path / f"{1 - killed}.json").read_text())


def test_one_process_alone_needs_no_others() -> None:
    alone = Processes.current()
    assert alone == Processes()
    assert alone.is_main
    assert alone.share("x", lambda: 3) == 3
    alone.wait("y")
    with pytest.raises(KeyError), alone.together("z"):
        raise KeyError


def test_each_process_drives_the_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert _device(Device.auto, Processes(1, 4, 1, 2)) == torch.device("cuda", 1)
    assert _device(Device.cpu, Processes(1, 4, 1, 2)) == torch.device("cpu")
    with pytest.raises(UserError, match="4 processes were started, but there are 2 GPUs"):
        _device(Device.gpu, Processes(1, 4, 1, 4))


def test_results_of_several_processes_are_told_apart_from_those_of_one() -> None:
    alone = Hardware(torch.device("cpu"), bfloat16=False, num_threads=1, num_workers=0)
    assert alone.numerics == {"device": "cpu", "bfloat16": False}
    assert dataclasses.replace(alone, num_processes=2).numerics != alone.numerics


# ---- the cache ----


def compute_together(root: Path, failing: int | None = None) -> object:
    processes, cache = connected(), Cache(root)
    calls = []

    def build(target: Path, work: Path) -> None:
        calls.append(processes.rank)
        (work / f"of-{processes.rank}").touch()
        all_reduce()  # would never end if one waited for another's lock
        if failing == processes.rank:
            raise UserError("cache_dir", "is full", "make room")
        all_reduce()
        assert processes.is_main or cache.claim(Key("students", PARTS)) is None
        (target / "by").write_text(f"rank {processes.rank}")

    entry = cache.folder("students", PARTS, build)
    return [entry.hit, (entry.path / "by").read_text(), calls]


def entries(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("*/*") if path.suffix != ".lock")


def test_an_entry_is_computed_by_all_processes_and_written_by_one(tmp_path: Path) -> None:
    root, key = tmp_path / "cache", Key("students", PARTS).digest
    results = launch(tmp_path, compute_together, root)
    assert [result["value"] for result in results] == [[False, "rank 0", [0]], [False, "rank 0", [1]]]
    assert entries(root) == [key]
    results = launch(tmp_path, compute_together, root)
    assert [result["value"] for result in results] == [[True, "rank 0", []]] * 2
    (root / "students" / key / "files" / "by").write_text("damaged")
    results = launch(tmp_path, compute_together, root)
    assert [result["value"] for result in results] == [[False, "rank 0", [0]], [False, "rank 0", [1]]]


@pytest.mark.parametrize("failing", [0, 1])
def test_a_computation_that_fails_in_one_process_fails_in_all_and_leaves_its_work(
    tmp_path: Path, failing: int
) -> None:
    root, key = tmp_path / "cache", Key("students", PARTS).digest
    results = launch(tmp_path, compute_together, root, failing)
    assert results == [{"error": "UserError: cache_dir: is full; make room"}] * 2
    assert entries(root) == [f"{key}.work"]
    assert sorted(path.name for path in (root / "students" / f"{key}.work").iterdir()) == ["of-0", "of-1"]
    results = launch(tmp_path, compute_together, root)
    assert [result["value"][0] for result in results] == [False, False]
    assert entries(root) == [key]


def test_the_processes_of_a_training_wait_for_another_one(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    cache, key = Cache(root), Key("students", PARTS)
    claim = cache.claim(key)
    assert claim
    with processes_of(tmp_path, compute_together, root) as processes:
        log = tmp_path / "log-0"
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not log.exists() or "waiting for another process" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cache.commit(claim, lambda target: (target / "by").write_text("another"))
        claim.release()
        for process in processes:
            process.join(TIMEOUT_SECONDS)
            assert process.exitcode is not None, "a process hangs"
    assert "waiting" not in (tmp_path / "log-1").read_text()
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text())["value"] == [True, "another", []]


# ---- training ----


def loaded(family: str, width: int) -> Encoder:
    tokenizer = families.train_tokenizer(family, TEXTS, vocab_size=330, max_length=16)
    config = families.compact_config(
        family,
        tokenizer,
        num_layers=1,
        hidden_size=width,
        num_heads=2,
        max_length=16,
        head=SingleLabel(NAMES).head_config(),
    )
    for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        setattr(config, name, 0.0)
    set_seed(width)
    return Encoder(build_compact_model(config).eval(), tokenizer, 16, True)


def train_directly(folder: Path) -> object:
    """Six steps of 32 rows, however many processes share them, with the teacher in the loop."""
    hardware = prepare_hardware(HardwareConfig(device=Device.cpu))
    student, teacher = loaded("bert", 8), loaded("bert", 16)
    split, kind = Split.from_lists(TEXTS, None, LABELS), SingleLabel(NAMES)
    rows = tokenize(student.tokenizer, split, 16, kind, Cache(folder / "cache")).rows(labels=split.labels)
    trainer = DistillationTrainer(
        student.model,
        DistillationTrainingArguments(
            output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no",
            per_device_train_batch_size=32 // hardware.num_processes, max_steps=6, logging_steps=1,
            learning_rate=1e-1, alpha=0.5, temperature=2.0,
            optim="sgd",  # Adam would make a whole step of a gradient that is only rounding
        ),
        train_dataset=datasets.Dataset.from_list([rows[row] for row in range(len(rows))]),
        processing_class=student.tokenizer,
        teacher_model=teacher.model,
    )  # fmt: skip
    trainer.train()
    logs = [[entry["loss"], entry["grad_norm"]] for entry in trainer.state.log_history if "loss" in entry]
    weights = {name: weight.tolist() for name, weight in student.model.state_dict().items()}
    return [logs, weights]


def test_two_processes_train_as_one_with_the_same_batch(tmp_path: Path) -> None:
    main, other = [result["value"] for result in launch(tmp_path / "two", train_directly, tmp_path)]
    (alone,) = [result["value"] for result in launch(tmp_path / "one", train_directly, tmp_path, world_size=1)]
    assert main[1] == other[1]
    assert len(alone[0]) == 6
    assert torch.allclose(torch.tensor(main[0]), torch.tensor(alone[0]), rtol=1e-4)
    for name, weight in alone[1].items():
        assert torch.allclose(torch.tensor(main[1][name]), torch.tensor(weight), atol=1e-5), name


def train_in_a_cache(root: Path, killed: int | None = None) -> object:
    """What a run does: the teacher's logits once, then the student's training on them."""
    hardware, cache = prepare_hardware(HardwareConfig(device=Device.cpu)), Cache(root)
    student, model = loaded("bert", 8), loaded("roberta", 16)
    parts = [Split.from_lists(TEXTS[start:], None, LABELS[start:]) for start in (0, 40, 50)]
    task = Task("words", SingleLabel(NAMES), *parts, transfer=None)
    settings = EncoderTeacherConfig(name="roberta", family="roberta")
    teacher = Cached(EncoderTeacher("teacher", settings, model, task, cache, hardware), cache)
    teacher.prepare()
    answers = {"train": teacher.answer(task.train, "train")}

    def watch(score: float, step: int) -> None:
        if killed == Processes.current().rank and step >= 8:
            os.kill(os.getpid(), signal.SIGKILL)

    schedule = StudentTrainConfig(epochs=4, batch_size=16, learning_rate=1e-2)
    course = Course(student, task, schedule, cache, hardware, seed=0, resume=True)
    trained = train_student(course, "student", KD(alpha=0.5, temperature=2.0), answers, watch=watch)
    weights = weights_fingerprint(load_file(trained.folder / "model.safetensors"))
    return [trained.from_cache, trained.num_steps, weights, answers["train"].num_forwarded]


def test_a_student_is_trained_by_two_processes_and_kept_once(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    main, other = [result["value"] for result in launch(tmp_path, train_in_a_cache, root)]
    assert main == other
    assert main[:2] == [False, 16]
    for kind in ("students", "teacher_logits"):
        assert len([path for path in (root / kind).iterdir() if path.suffix != ".lock"]) == 1
    assert "trained in" in (tmp_path / "log-0").read_text()
    assert (tmp_path / "log-1").read_text() == ""  # the main process tells what all of them do
    for result in launch(tmp_path, train_in_a_cache, root):
        assert result["value"] == [True, 16, main[2], 0]


@pytest.mark.parametrize("killed", [0, 1])
def test_a_training_that_was_killed_continues_with_all_processes(tmp_path: Path, killed: int) -> None:
    with processes_of(tmp_path, train_in_a_cache, tmp_path / "cache", killed) as processes:
        for process in processes:
            process.join(TIMEOUT_SECONDS)
            assert process.exitcode is not None, "a process hangs"
    assert [process.exitcode for process in processes] == [-9 if rank == killed else 0 for rank in range(2)]
    main, other = [result["value"] for result in launch(tmp_path, train_in_a_cache, tmp_path / "cache")]
    assert main == other
    assert "continues from checkpoint-4" in (tmp_path / "log-0").read_text()
    undisturbed = launch(tmp_path, train_in_a_cache, tmp_path / "another")[0]["value"]
    assert main[:3] == undisturbed[:3]


# ---- a whole run ----


@pytest.mark.slow
def test_a_whole_run_in_two_processes_is_tracked_and_printed_once(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    result = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kdexp",
         "loss=tinybert", *SMALL],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        env=child_environment(tmp_path),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("distilled student") == 1
    assert (result.stdout + result.stderr).count("task reviews: ") == 1
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert len(entries(tmp_path / "cache")) == len(set(entries(tmp_path / "cache")))
    assert not [name for name in entries(tmp_path / "cache") if name.endswith((".work", ".tmp"))]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (("train.batch_size=31",), "error: train.batch_size: 31 rows cannot be shared equally among 2 processes"),
        (("-m", "seed=0,1"), "error: --multirun: was started in 2 processes"),
    ],
)
def test_a_refusal_ends_both_processes_and_is_printed_once(
    refused: tuple[str, ...], message: str, fork_server: ForkServer, tmp_path: Path
) -> None:
    port = free_port()
    both = [
        fork_server.start(tmp_path, *refused, *SMALL, "baseline=false", **told_by_torchrun(rank, 2, port))
        for rank in range(2)
    ]
    outputs = [process.communicate(TIMEOUT_SECONDS)[0] for process in both]
    assert all(process.returncode for process in both)
    assert "".join(outputs).count(message) == 1, outputs
