"""Feature terms: losses on what happens inside of the models. Each is one class: settings, ranges and formula.

    hidden = Hidden(weight=0.5, layers="last")
    value = hidden(student_states, teacher_states, word_mask)

A term gives its mean over rows, unweighted. `num_examples` is the number of rows in the whole optimizer step, so
that micro-batches' values add up to exactly the value of the one large batch. Two terms are relations between the
rows of a batch (`RKD`, `CKA`): there is no way to add up relations across micro-batches that never meet, so with
gradient accumulation each micro-batch relates its own rows, and the value is the mean of the micro-batches',
weighted by their rows.

A new term is a class here, its name in `TERMS`, and a file in conf/terms. Tensors are read through their methods
alone: composing a run loads no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from kdexp.errors import UserError
from kdexp.ranges import Checked, Weight

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_BATCH = 3
"""Rows that a loss needs which relates the rows of a batch to each other: two always correlate perfectly."""


class Alignment(StrEnum):
    """Which tokens of teacher and student a word term compares."""

    words = "words"
    position = "position"


class Pooling(StrEnum):
    """How a vector term makes one vector of a text."""

    cls = "cls"
    mean = "mean"


class Reads(StrEnum):
    """What a term reads of a model's forward pass, layer by layer."""

    hidden_states = "hidden_states"
    attentions = "attentions"
    projections = "projections"  # queries, keys and values


@dataclass(kw_only=True)
class FeatureTerm(Checked):
    """weight * term is added to the loss.

    Attributes:
        weight: At the first step.
        weight_end: At the last step, with a linear ramp between; None keeps `weight`.
        layers: Which layers are compared: `uniform`, `last`, or a list of the teacher's layers, from 1, one for
            each layer of the student.

    Raises:
        UserError: A setting is out of range.
    """

    weight: Weight = 1.0
    weight_end: Weight | None = None
    layers: Any = "uniform"

    reads: ClassVar[Reads] = Reads.hidden_states
    relates_rows: ClassVar[bool] = False
    """Whether it relates the rows of a batch to each other."""
    needs_same_width: ClassVar[bool] = False
    """Whether a student of another width is compared through a learned linear projection."""
    reads_embeddings: ClassVar[bool] = False
    """Whether it compares the embeddings too, whichever layers are chosen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        is_list = isinstance(self.layers, list) and self.layers and all(type(layer) is int for layer in self.layers)
        if not is_list and self.layers not in ("uniform", "last"):
            raise UserError("layers", f"got {self.layers}", "expected uniform, last, or a list of layer numbers")

    def weight_at(self, progress: float) -> float:
        """The weight when `progress`, from 0 to 1, of the training is done."""
        return ramp(self.weight, self.weight_end, progress)

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        word_mask: Tensor | None = None,
        *,
        num_examples: Tensor | int | None = None,
    ) -> Tensor:
        """Mean over rows, unweighted: a scalar.

        Args:
            student: [batch, layers, ...] as the class says, float32 or float64.
            teacher: The same of the teacher, never receives a gradient.
            word_mask: [batch, words], true where there is a word; only word terms need it.
        """
        total = self._sum(student, teacher.detach(), word_mask)
        return total / (len(student) if num_examples is None else num_examples)

    def _sum(self, student: Tensor, teacher: Tensor, word_mask: Tensor | None) -> Tensor:
        raise NotImplementedError


@dataclass(kw_only=True)
class VectorTerm(FeatureTerm):
    """A term that compares one vector per text and layer: it needs no tokens in common.

    Attributes:
        pooling: The vector of a text: its first token's, or the mean over its tokens.
    """

    pooling: Pooling = Pooling.cls

    def _sum(self, student: Tensor, teacher: Tensor, word_mask: Tensor | None) -> Tensor:
        return self.total(student, teacher)

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Sum over rows.

        Args:
            student: [batch, layers, student_width]
            teacher: [batch, layers, teacher_width], detached
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class WordTerm(FeatureTerm):
    """A term that compares words: of two models with one tokenizer each token is a word of its own.

    Every word of a row weighs the same, and so does every row, whatever its length. Padding never counts.

    Attributes:
        alignment: Which tokens are the same word; one for all terms of a loss.
    """

    alignment: Alignment = Alignment.words

    def _sum(self, student: Tensor, teacher: Tensor, word_mask: Tensor | None) -> Tensor:
        assert word_mask is not None, "a term that compares words needs their mask"
        return self.total(student, teacher, word_mask)

    def total(self, student: Tensor, teacher: Tensor, word_mask: Tensor) -> Tensor:
        """Sum over rows.

        Args:
            student, teacher: [batch, layers, ..., words, ...] as the class says; the teacher's is detached.
            word_mask: [batch, words], true where there is a word
        """
        raise NotImplementedError


@dataclass(kw_only=True)
class PKD(VectorTerm):
    """Mean over layers and width of (h_s / ||h_s|| - h_t / ||h_t||)^2.

    Patient knowledge distillation, Sun et al. 2019, https://arxiv.org/abs/1908.09355, equation 7, with the means
    of the authors' code in place of the equation's sums: their weights (beta, 10 to 1000) are meant for these.
    Both widths must be the same: a narrower student's vectors are projected.
    """

    needs_same_width: ClassVar[bool] = True

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (_unit(student) - _unit(teacher)).square().mean((1, 2)).sum()


@dataclass(kw_only=True)
class RKD(VectorTerm):
    """Relations between rows: Huber of the pairs' distances + 2 * Huber of the triplets' angles.

    Relational knowledge distillation, Park et al. 2019, https://arxiv.org/abs/1904.05068, equations 5 to 9 and
    section 4.1, whose weights of distance and angle are 1 : 2. Distances are divided by their mean in the batch,
    angles are cosines at the middle row. Means are over pairs and triplets of different rows, and over layers.
    Fewer than three rows have no relations: they add nothing.
    """

    relates_rows: ClassVar[bool] = True

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < SMALLEST_BATCH:
            return student.sum() * 0.0
        from torch.nn.functional import smooth_l1_loss as huber  # settings are composed without torch

        student_distances, student_angles = _relations(student)
        teacher_distances, teacher_angles = _relations(teacher)
        return (huber(student_distances, teacher_distances) + 2 * huber(student_angles, teacher_angles)) * len(student)


@dataclass(kw_only=True)
class CKA(VectorTerm):
    """1 - CKA, with CKA = ||Y^T X||_F^2 / (||X^T X||_F * ||Y^T Y||_F) of X, Y centred over the batch.

    Linear centred kernel alignment, Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, equation 3; as a
    distillation loss Dasgupta and Cohn 2025. It does not depend on rotation or size. Mean over layers. With
    fewer rows than dimensions it is too kind: take large batches. Fewer than three rows add nothing.
    """

    relates_rows: ClassVar[bool] = True

    def total(self, student: Tensor, teacher: Tensor) -> Tensor:
        if len(student) < SMALLEST_BATCH:
            return student.sum() * 0.0
        left, right = _gram(student), _gram(teacher)
        scale = left.flatten(1).norm(dim=-1) * right.flatten(1).norm(dim=-1)
        alignment = (left * right).sum((1, 2)) / scale.clamp(min=1e-12)
        return (1 - alignment.mean()) * len(student)


@dataclass(kw_only=True)
class Hidden(WordTerm):
    """Sum over layers of the mean over words and width of (H_s W - H_t)^2.

    TinyBERT's hidden states and embeddings, Jiao et al. 2020, https://arxiv.org/abs/1909.10351, equations 8 and
    9. `total` takes [batch, layers, words, width]; the learned W is applied before, where widths differ.
    """

    needs_same_width: ClassVar[bool] = True
    reads_embeddings: ClassVar[bool] = True

    def total(self, student: Tensor, teacher: Tensor, word_mask: Tensor) -> Tensor:
        squares = (student - teacher).square().mean(-1).sum(1)  # [batch, words]
        return _mean_over(squares, word_mask).sum()


@dataclass(kw_only=True)
class Attention(WordTerm):
    """Sum over layers of the mean over heads and pairs of words of (A_s - A_t)^2.

    TinyBERT's attention, Jiao et al. 2020, https://arxiv.org/abs/1909.10351, equation 7, on probabilities: the
    paper's unnormalised scores cannot be added up over the sub-words of a word, and are not returned by the
    library. `total` takes [batch, layers, heads, words, words]. Where the models differ in heads, the mean over
    each one's heads is compared.
    """

    reads: ClassVar[Reads] = Reads.attentions

    def total(self, student: Tensor, teacher: Tensor, word_mask: Tensor) -> Tensor:
        if student.shape[2] != teacher.shape[2]:
            student, teacher = student.mean(2, keepdim=True), teacher.mean(2, keepdim=True)
        squares = (student - teacher).square().mean(2).sum(1)  # [batch, words, words]
        pair_mask = word_mask[:, :, None] & word_mask[:, None, :]
        return _mean_over(squares.flatten(1), pair_mask.flatten(1)).sum()


@dataclass(kw_only=True)
class MiniLM(WordTerm):
    """Sum over queries, keys and values of the mean over relation heads and words of KL(R_t || R_s).

    R = softmax(X X^T / sqrt(d)) relates the words of a row to each other, X being one relation head of the
    queries (then keys, then values) of a layer, and d its width. MiniLMv2, Wang et al. 2021,
    https://arxiv.org/abs/2012.15828, equations 6 to 8. Mean over layers; the paper takes one. `total` takes
    [batch, layers, 3, heads, words, head_width]: the relation heads, as many of both models, need not be the
    models' attention heads.
    """

    reads: ClassVar[Reads] = Reads.projections

    def total(self, student: Tensor, teacher: Tensor, word_mask: Tensor) -> Tensor:
        student, teacher = _log_relations(student, word_mask), _log_relations(teacher, word_mask)
        divergence = (teacher.exp() * (teacher - student)).sum(-1)  # [batch, layers, 3, heads, words]
        return _mean_over(divergence.mean(3).sum(2).mean(1), word_mask).sum()


TERMS: dict[str, type[FeatureTerm]] = {
    "pkd": PKD,
    "rkd": RKD,
    "cka": CKA,
    "hidden": Hidden,
    "attention": Attention,
    "minilm": MiniLM,
}
"""The terms by the name under which `loss.terms` holds them."""


def ramp(start: float, end: float | None, progress: float) -> float:
    """A weight that moves linearly from `start` to `end` (None: stays) while `progress` goes from 0 to 1."""
    return start if end is None else start + (end - start) * min(max(progress, 0.0), 1.0)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=1e-12)


def _relations(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Distances of pairs, [layers, n (n - 1)], and angles of triplets, [layers, n (n - 1) (n - 2)], of n rows."""
    by_layer = vectors.transpose(0, 1)
    lines = by_layer[:, None] - by_layer[:, :, None]  # [layers, from, to, width]
    # Between equal rows, and of one to itself, it is 0: no root's gradient there, and no direction.
    lengths = lines.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    directions = (lines / lengths).where(lengths > 1e-6, 0.0)
    angles = directions @ directions.transpose(-1, -2)  # [layers, middle, one, other]
    distances = _off_diagonal(lengths[..., 0], 1).flatten(1)
    # Neither of the two is the middle one, and they are two.
    angles = _off_diagonal(_off_diagonal(angles, 1).transpose(-1, -2), 1).transpose(-1, -2)
    return distances / distances.mean(-1, keepdim=True), _off_diagonal(angles, 2).flatten(1)


def _off_diagonal(square: Tensor, dim: int) -> Tensor:
    """Leave out the diagonal of the dimensions `dim` and `dim + 1`: [..., n, n, ...] to [..., n, n - 1, ...].

    By shapes alone: without the first element, every row of n + 1 ends with the next element of the diagonal. An
    index would have a GPU wait, and cannot be taken under `torch.func.vmap`.
    """
    size = square.shape[dim]
    rows = square.flatten(dim, dim + 1).narrow(dim, 1, size**2 - 1).unflatten(dim, (size - 1, size + 1))
    return rows.narrow(dim + 1, 0, size).flatten(dim, dim + 1).unflatten(dim, (size, size - 1))


def _gram(vectors: Tensor) -> Tensor:
    """[batch, layers, width] to the centred rows' products, [layers, batch, batch]."""
    by_layer = (vectors - vectors.mean(0)).transpose(0, 1)
    return by_layer @ by_layer.transpose(-1, -2)


def _log_relations(heads: Tensor, word_mask: Tensor) -> Tensor:
    scores = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
    # Not -inf: rows of padding would be nan.
    return scores.masked_fill(~word_mask[:, None, None, None, None, :], -1e9).log_softmax(-1)


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """[batch, n] to [batch]; 0 where nothing is to be compared."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)
