"""`DistillationTrainer` in two processes over gloo: as one process with the same batch, and as the stock class."""

import sys
from pathlib import Path

import pytest
import torch
from test_processes import launch
from tiny_models import LABELS, TOKENIZER, bert, dataset
from torch.nn.functional import cross_entropy, kl_div
from transformers import Trainer, TrainingArguments

from kdexp import DistillationTrainer, DistillationTrainingArguments
from kdexp.loss.features import FeatureTerms
from kdexp.loss.terms import PKD, Hidden
from kdexp.processes import Processes

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo between processes is tried on POSIX")

TERMS = {"hidden": Hidden(weight=0.5), "pkd": PKD()}
TIMES = ("runtime", "per_second", "flos")


def train(folder: str, what: str, find_unused: bool | None = None) -> object:
    """Four steps of twelve rows, however many processes share them: what was logged and the weights in the end."""
    processes = Processes.current()
    settings = {
        **{"output_dir": folder, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no"},
        **{"per_device_train_batch_size": 12 // processes.world_size, "max_steps": 4, "logging_steps": 2},
        **{"learning_rate": 0.1, "optim": "sgd", "train_sampling_strategy": "sequential", "eval_strategy": "steps"},
        **{"eval_steps": 4, "ddp_find_unused_parameters": find_unused},
    }
    named = {"train_dataset": dataset(), "eval_dataset": dataset(slice(0, 8)), "processing_class": TOKENIZER}
    student, teacher = bert(1, initializer_range=0.1), bert(2, hidden_size=24)
    if what == "stock":
        trainer = Trainer(student, TrainingArguments(**settings), **named)
    elif what == "alpha = 1":
        trainer = DistillationTrainer(student, DistillationTrainingArguments(**settings, alpha=1.0), **named)
    else:
        arguments = DistillationTrainingArguments(**settings, alpha=0.5)
        terms = FeatureTerms(student.config, teacher.config, TERMS)
        trainer = DistillationTrainer(student, arguments, teacher_model=teacher, feature_terms=terms, **named)
    trainer.train()
    logged = [
        {name: value for name, value in entry.items() if not any(part in name for part in TIMES)}
        for entry in trainer.state.log_history
    ]
    return [logged, {name: weight.tolist() for name, weight in student.state_dict().items()}]


def trained(tmp_path: Path, *arguments: object, world_size: int) -> list:
    folder = tmp_path / f"{world_size}-{arguments[0]}"
    results = launch(folder, train, str(folder), *arguments, world_size=world_size)
    return [result.get("value", result.get("error")) for result in results]


def alike(left: list, right: list, names: set[str]) -> None:
    for one, other in zip(left[0], right[0], strict=True):
        assert {name: one[name] for name in one.keys() & names} == pytest.approx(
            {name: other[name] for name in other.keys() & names}, rel=1e-4
        )
    for name, weight in left[1].items():
        torch.testing.assert_close(torch.tensor(weight), torch.tensor(right[1][name]), rtol=1e-4, atol=1e-5)


def test_terms_with_projections_train_in_two_processes_as_in_one_and_log_the_same(tmp_path):
    parts = {"loss", "hard_loss", "soft_loss", "hidden_loss", "pkd_loss", "grad_norm", "eval_loss", "alpha"}
    main, other = trained(tmp_path, "terms", world_size=2)
    (alone,) = trained(tmp_path, "terms", world_size=1)
    assert main[0][0].keys() >= {"hard_loss", "soft_loss", "hidden_loss", "pkd_loss"}
    assert main[1] == other[1]
    alike(main, alone, parts)
    assert main[0] == other[0]
    refused = trained(tmp_path / "refused", "terms", True, world_size=2)
    assert all("ddp_find_unused_parameters=True takes the projections" in error for error in refused)


def test_alpha_one_in_two_processes_is_the_stock_class_in_one(tmp_path):
    main, other = trained(tmp_path, "alpha = 1", world_size=2)
    (alone,) = trained(tmp_path, "stock", world_size=1)
    assert main[1] == other[1]
    alike(main, alone, {"loss", "grad_norm", "eval_loss", "learning_rate"})


GOLD = [-100 if (row * row + row // 3) % 3 == 1 else LABELS[row] for row in range(29)]


def logged_means(folder: str) -> object:
    """What is logged of a student that does not move: in one go, once more, and after a resume within a window."""
    rows = dataset(slice(0, 29)).remove_columns("labels").add_column("labels", GOLD)
    settings = {
        **{"output_dir": folder, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "optim": "sgd"},
        **{"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2, "max_steps": 6, "logging_steps": 3},
        **{"learning_rate": 0.0, "train_sampling_strategy": "sequential", "save_strategy": "steps", "save_steps": 4},
        **{"temperature": 2.0},
    }

    def trainer() -> DistillationTrainer:
        arguments = DistillationTrainingArguments(**settings)
        return DistillationTrainer(
            bert(1), arguments, teacher_model=bert(2), train_dataset=rows, processing_class=TOKENIZER
        )

    def logged(trained: DistillationTrainer) -> list[list[float]]:
        entries = [entry for entry in trained.state.log_history if "hard_loss" in entry]
        return [[entry["hard_loss"], entry["soft_loss"]] for entry in entries]

    first = trainer()
    first.train()
    straight = logged(first)
    first.train()
    resumed = trainer()
    resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-4")
    return [straight, logged(first), logged(resumed)]


def test_logged_parts_are_the_means_of_their_own_window(tmp_path):
    """By hand: rows of the whole step, labelled or not, whoever has them; the last step is filled up with row 0."""
    batch = TOKENIZER.pad(dataset(slice(0, 29)).select_columns(["input_ids", "attention_mask"]).to_dict())
    batch = {name: torch.tensor(values) for name, values in batch.items()}
    with torch.no_grad():
        student, teacher = (bert(seed).eval()(**batch).logits for seed in (1, 2))
    hard = cross_entropy(student, torch.tensor(GOLD), reduction="none")
    soft, taught = (logits.div(2).log_softmax(-1) for logits in (student, teacher))
    soft = 4 * kl_div(soft, taught, log_target=True, reduction="none").sum(-1)
    rows = [range(12), range(12, 24), [*range(24, 29), 0]]
    steps = torch.stack([torch.stack([hard, soft])[:, list(step)].mean(-1) for step in rows])
    window = steps.mean(0).tolist()
    straight, again, resumed = launch(tmp_path, logged_means, str(tmp_path))[0]["value"]
    for values, expected in (
        *((values, window) for values in (*straight, *again, resumed[0])),
        (resumed[1], steps[1:].mean(0).tolist()),
    ):
        assert values == pytest.approx(expected, rel=1e-4)
    assert [len(straight), len(again), len(resumed)] == [2, 2, 2]
