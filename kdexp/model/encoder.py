"""A model with its own tokenizer: its tokens of a split, and what it answers."""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from torch import Tensor
from transformers import DataCollatorWithPadding, PretrainedConfig, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

import kdexp.model.static  # noqa: F401, tells the Auto classes of it
from kdexp.fingerprint import weights_fingerprint
from kdexp.hardware import Hardware
from kdexp.model.forward import accepted_inputs
from kdexp.model.legibility import Legibility
from kdexp.model.tokens import Tokens, longest_first, tokenizer_fingerprint
from kdexp.progress import progress
from kdexp.task.kinds.answers import UNREAD
from kdexp.task.kinds.base import UNITS, Answers, TaskKind


@dataclass(frozen=True)
class Encoder:
    """A model, its tokenizer, and the number of tokens at which its texts are cut.

    Attributes:
        answers_task: The classification head came with the checkpoint; otherwise it is newly made.
        legibility: How much of the task's training text it can read, where that was measured.
        notes: What was decided when it was made, a line each, for the log.
        trimming: What it was with more tokens, where it was trimmed.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    answers_task: bool
    legibility: Legibility | None = None
    notes: tuple[str, ...] = ()
    trimming: "Trimming | None" = None

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def copy(self) -> "Encoder":
        """The same with weights of its own."""
        return replace(self, model=copy.deepcopy(self.model))

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as `save_pretrained` does."""
        self.model.to("cpu").save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def refuse_unlike(self, folder: Path) -> None:
        """Look at a saved model without loading it.

        Raises:
            ValueError: It cannot be what `save` writes of this encoder after a training.
        """
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != self.model.config.model_type:
            raise ValueError(f"a model of type {kind}")
        num_weights = 0
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as weights:
                for name in weights.keys():  # noqa: SIM118, it is no mapping
                    tensor = weights.get_tensor(name)
                    num_weights += tensor.numel()
                    if not tensor.sum().isfinite():
                        raise ValueError(f"{name} is not finite")
        if num_weights < self.num_parameters:
            raise ValueError(f"{num_weights} weights of {self.num_parameters}")

    def fingerprint(self) -> str:
        """SHA-256 of all that decides how this model answers and learns, wherever it was loaded from."""
        config = self.model.config.to_dict()
        for provenance in ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"):
            config.pop(provenance, None)
        parts = [
            json.dumps(config, sort_keys=True, default=str),
            weights_fingerprint(self.model.state_dict()),
            tokenizer_fingerprint(self.tokenizer),
        ]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class Trimming:
    """What an encoder was before it lost tokens.

    Attributes:
        kept: Of each of its tokens, the id that it had.
        changed_rates: By split, the share of the rows that are tokenized otherwise since.
    """

    full: Encoder
    kept: list[int]
    changed_rates: dict[str, float] = field(default_factory=dict)


def model_class(kind: TaskKind) -> Any:
    """The class of transformers that makes models with the kind's head."""
    return getattr(transformers, f"AutoModel{kind.head}")


def label_names(config: PretrainedConfig) -> list[str]:
    """Names of a model's outputs, in the order of its logits."""
    return [str(config.id2label[index]) for index in range(config.num_labels)]


def predict(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    hardware: Hardware,
    *,
    batch_size: int,
    description: str,
) -> Answers:
    """What a model answers.

    Rows are sorted by length, so that little is padded, and come back in their own order.

    Returns:
        [units, outputs], float32, on the CPU.
    """
    model.to(hardware.device).eval()

    def forward(inputs: Mapping[str, Tensor]) -> Tensor:
        on_device = {name: value.to(hardware.device) for name, value in inputs.items()}
        return model(**accepted_inputs(model, on_device)).logits.float().cpu()

    with hardware.threads_for(model), torch.inference_mode(), hardware.autocast():
        return answer_batches(forward, tokenizer, tokens, model.config.num_labels, batch_size, description)


def answer_batches(
    forward: Callable[[Mapping[str, Tensor]], Tensor],
    tokenizer: PreTrainedTokenizerBase,
    tokens: Tokens,
    num_outputs: int,
    batch_size: int,
    description: str,
    *,
    by_length: bool = True,
) -> Answers:
    """Ask anything that turns padded batches into logits, whatever computes them.

    Args:
        forward: Of the inputs of a batch, its logits, [rows, outputs] or [rows, tokens, outputs], float32 on the CPU.
        by_length: Put rows of about one length into a batch, so that little is padded.
    """
    collate = DataCollatorWithPadding(tokenizer)
    rows = tokens.rows()
    order = longest_first(rows).tolist() if by_length else list(range(len(rows)))
    num_units = tokens.num_units
    values = torch.empty(len(order), num_outputs)
    by_row = [values[:0]] * len(order)
    with progress(description, len(order)) as advance:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            batch = rows.__getitems__(indices)
            units = [torch.tensor(row.pop(UNITS)) for row in batch if UNITS in row]
            logits = forward(collate(batch))
            if num_units is None:
                values[indices] = logits
            else:
                for place, index in enumerate(indices):
                    own = logits[place, -len(units[place]) :] if tokenizer.padding_side == "left" else logits[place]
                    by_row[index] = _unit_logits(own, units[place], num_units[index])
            advance(len(indices))
    if num_units is None:
        return Answers(values)
    return Answers(torch.cat(by_row), num_units)


def _unit_logits(logits: Tensor, units: Tensor, num_units: int) -> Tensor:
    """[units, outputs] of the logits [tokens, outputs] of one row, which padding may follow.

    Args:
        units: [tokens], the unit that each token answers for.
    """
    answers = logits.new_full((num_units, logits.shape[-1]), UNREAD)
    read = units >= 0
    answers[units[read]] = logits[: len(units)][read]
    return answers
