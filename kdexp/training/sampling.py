"""In which order rows are trained on: grouped by length, or with a share of text that only the teacher labels."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from kdexp.arrow import Rows
from kdexp.training.arguments import DistillationTrainingArguments

_BATCHES_SORTED_TOGETHER = 50  # as transformers groups by length: sorted within, so that batches stay random


class MixedBatches(Sampler[int]):
    """An order of rows in which each batch holds as many rows without a gold label as any other.

    A pass has as many rows as both parts together. Within it the rows of a part are used equally often, to within
    one: where the ratio is not that of the parts, the labelled rows come several times and text is left for a later
    pass, or the other way round. The last batch of a pass may be shorter.

    Args:
        part_sizes: Rows with gold labels, which come first, and without.
        batch_size: Rows.
        num_transfer_per_batch: From 1 to `batch_size - 1`.
        lengths: [rows], tokens: batches are of similar length; None leaves the order to chance.
        seed: Each pass draws from it another order.
    """

    def __init__(
        self,
        part_sizes: tuple[int, int],
        batch_size: int,
        num_transfer_per_batch: int,
        lengths: np.ndarray | None,
        seed: int,
    ) -> None:
        self.parts = np.split(np.arange(sum(part_sizes)), [part_sizes[0]])
        self.batch_size, self.num_transfer_per_batch = batch_size, num_transfer_per_batch
        self.lengths, self.seed, self.epoch = lengths, seed, 0

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def set_epoch(self, epoch: int) -> None:
        """The Trainer calls it before each pass, also when it continues from a checkpoint."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        num_batches = -(-len(self) // self.batch_size)
        sizes = (self.batch_size - self.num_transfer_per_batch, self.num_transfer_per_batch)
        drawn = [
            self._drawn(rows, size * num_batches, random).reshape(num_batches, size)
            for rows, size in zip(self.parts, sizes, strict=True)
        ]
        # The last batch may be cut: mixed, so that what is cut off is of both parts.
        batches = random.permuted(np.concatenate(drawn, axis=1), axis=1)
        return iter(batches[random.permutation(num_batches)].ravel()[: len(self)].tolist())

    def _drawn(self, rows: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
        """[count] of the rows, neighbours of similar length."""
        passes = [random.permutation(rows) for _ in range(-(-count // len(rows)))]
        drawn = np.concatenate(passes)[:count]
        if self.lengths is None:
            return drawn
        # The parts are sorted in the same stretches of batches: what meets in a batch is of similar rank.
        num_batches = -(-len(self) // self.batch_size)
        stretch = _BATCHES_SORTED_TOGETHER * (count // num_batches)
        pieces = [drawn[start : start + stretch] for start in range(0, count, stretch)]
        return np.concatenate([piece[np.argsort(-self.lengths[piece], kind="stable")] for piece in pieces])


def _mixed_batches(rows: Any, args: DistillationTrainingArguments, ratio: float) -> MixedBatches:
    """
    Raises:
        ValueError: There are no such parts, or a batch is too small for the ratio.
    """
    sizes = rows.part_sizes if isinstance(rows, Rows) else []
    if len(sizes) != 2:
        raise ValueError("transfer_ratio needs rows without gold labels beside the labelled ones (kdexp.arrow.Rows)")
    per_batch = round(ratio * args.train_batch_size)
    if not 0 < per_batch < args.train_batch_size:
        kind = "labelled row" if per_batch else "row of text"
        raise ValueError(
            f"transfer_ratio: {ratio} of a batch of {args.train_batch_size} leaves no {kind}; "
            "choose another ratio, or larger batches"
        )
    lengths = rows.lengths if args.train_sampling_strategy == "group_by_length" else None
    seed = args.seed if args.data_seed is None else args.data_seed
    return MixedBatches((sizes[0], sizes[1]), args.train_batch_size, per_batch, lengths, seed)


def train_sampler(rows: Any, args: DistillationTrainingArguments) -> Sampler[int] | None:
    """The order of the training rows; None leaves it to the Trainer.

    Args:
        rows: For `args.transfer_ratio`, `Rows` of two parts: the labelled ones, and text without gold labels.

    Raises:
        ValueError: There are no such parts, or a batch is too small for the ratio.
    """
    if args.transfer_ratio is not None:
        return _mixed_batches(rows, args, args.transfer_ratio)
    if args.train_sampling_strategy != "group_by_length" or not isinstance(rows, Rows):
        return None
    # `Rows` know their lengths: no row has to be made for it.
    size = args.train_batch_size * args.gradient_accumulation_steps
    return LengthGroupedSampler(size, lengths=rows.lengths.tolist())
