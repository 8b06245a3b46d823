"""Distillation losses on what happens inside of the models, and the module that applies them.

The losses are pure functions of float32 tensors. `num_examples` is the number of rows in the whole optimizer
step, as in `losses`: micro-batches' losses add up to exactly the loss of the one large batch. Two are relations
between the examples of a batch (`rkd`, `cka`): there is no way to add up relations across micro-batches that
never meet, so with gradient accumulation each micro-batch relates its own examples, and the loss is the mean of
the micro-batches' losses, weighted by their rows.

Token-level losses compare words (`alignment`): of two models with one tokenizer each token is a word of its own.
Every word of an example weighs the same, and so does every example, whatever its length. Padding never counts.
"""

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, normalize, smooth_l1_loss
from transformers import PretrainedConfig, PreTrainedModel

from kdexp.errors import UserError
from kdexp.loss.config import Alignment, Pooling, TermConfig
from kdexp.loss.logit import SMALLEST_BATCH
from kdexp.model.alignment import averaging, membership
from kdexp.teacher.config import Tokenization

VECTOR_TERMS = ("pkd", "rkd", "cka")
"""Terms that compare one vector per text: they need no tokens in common."""

TOKEN_TERMS = ("hidden", "attention", "minilm")
"""Terms that compare tokens, or words."""

BATCH_TERMS = ("rkd", "cka")
"""Terms that relate the examples of a batch."""


def pkd(student_vectors: Tensor, teacher_vectors: Tensor, *, num_examples: Tensor | int | None = None) -> Tensor:
    """Mean over examples, layers and width of (h_s / ||h_s|| - h_t / ||h_t||)^2.

    Patient knowledge distillation, Sun et al. 2019, https://arxiv.org/abs/1908.09355, equation 7, with the means
    of the authors' code in place of the equation's sums: their weights (beta, 10 to 1000) are meant for these.

    Args:
        student_vectors: [batch, layers, width]
        teacher_vectors: [batch, layers, width], never receives a gradient
    """
    difference = normalize(student_vectors, dim=-1) - normalize(teacher_vectors.detach(), dim=-1)
    return _per_example(difference.square().mean((1, 2)), num_examples)


def rkd(student_vectors: Tensor, teacher_vectors: Tensor, *, num_examples: Tensor | int | None = None) -> Tensor:
    """Relations between examples: Huber of the pairs' distances + 2 * Huber of the triplets' angles.

    Relational knowledge distillation, Park et al. 2019, https://arxiv.org/abs/1904.05068, equations 5 to 9 and
    section 4.1, whose weights of distance and angle are 1 : 2. Distances are divided by their mean in the batch,
    angles are cosines at the middle example. Means are over pairs and triplets of different examples, and over
    layers. Fewer than three examples have no relations: they add nothing.

    Args:
        student_vectors: [batch, layers, student_width]
        teacher_vectors: [batch, layers, teacher_width], never receives a gradient
    """
    batch = len(student_vectors)
    if batch < SMALLEST_BATCH:
        return student_vectors.sum() * 0.0
    different = ~torch.eye(batch, dtype=torch.bool, device=student_vectors.device)
    # [middle, one, other]
    triplets = different[:, :, None] & different[:, None, :] & different[None, :, :]

    def relations(vectors: Tensor) -> tuple[Tensor, Tensor]:
        lines = vectors.transpose(0, 1)[:, None] - vectors.transpose(0, 1)[:, :, None]  # [layers, from, to, width]
        # Between equal examples, and of one to itself, it is 0: no root's gradient there, and no direction.
        lengths = lines.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
        directions = torch.where(lengths > 1e-6, lines / lengths, 0.0)
        angles = directions @ directions.transpose(-1, -2)
        distances = lengths[..., 0][:, different]
        return distances / distances.mean(-1, keepdim=True), angles[:, triplets]

    with torch.no_grad():
        teacher_distances, teacher_angles = relations(teacher_vectors)
    student_distances, student_angles = relations(student_vectors)
    loss = smooth_l1_loss(student_distances, teacher_distances) + 2 * smooth_l1_loss(student_angles, teacher_angles)
    return _share(loss, batch, num_examples)


def cka(student_vectors: Tensor, teacher_vectors: Tensor, *, num_examples: Tensor | int | None = None) -> Tensor:
    """1 - CKA, with CKA = ||Y^T X||_F^2 / (||X^T X||_F * ||Y^T Y||_F) of X, Y centred over the batch.

    Linear centred kernel alignment, Kornblith et al. 2019, https://arxiv.org/abs/1905.00414, equation 3; as a
    distillation loss Dasgupta and Cohn 2025. It does not depend on rotation or size. Mean over layers. With
    fewer examples than dimensions it is too kind: take large batches. Fewer than three examples add nothing.

    Args:
        student_vectors: [batch, layers, student_width]
        teacher_vectors: [batch, layers, teacher_width], never receives a gradient
    """
    batch = len(student_vectors)
    if batch < SMALLEST_BATCH:
        return student_vectors.sum() * 0.0

    def gram(vectors: Tensor) -> Tensor:
        centred = vectors - vectors.mean(0)
        by_layer = centred.transpose(0, 1)
        return by_layer @ by_layer.transpose(-1, -2)  # [layers, batch, batch]

    student, teacher = gram(student_vectors), gram(teacher_vectors.detach())
    scale = student.flatten(1).norm(dim=-1) * teacher.flatten(1).norm(dim=-1)
    alignment = (student * teacher).sum((1, 2)) / scale.clamp(min=1e-12)
    return _share(1 - alignment.mean(), batch, num_examples)


def hidden(
    student_states: Tensor, teacher_states: Tensor, word_mask: Tensor, *, num_examples: Tensor | int | None = None
) -> Tensor:
    """Sum over layers of the mean over words and width of (H_s W - H_t)^2.

    TinyBERT's hidden states and embeddings, Jiao et al. 2020, https://arxiv.org/abs/1909.10351, equations 8 and
    9; W has been applied already.

    Args:
        student_states: [batch, layers, words, width]
        teacher_states: [batch, layers, words, width], never receives a gradient
        word_mask: [batch, words], true where there is a word
    """
    squares = (student_states - teacher_states.detach()).square().mean(-1).sum(1)
    return _per_example(_mean_over(squares, word_mask), num_examples)


def attention(
    student_maps: Tensor, teacher_maps: Tensor, word_mask: Tensor, *, num_examples: Tensor | int | None = None
) -> Tensor:
    """Sum over layers of the mean over heads and pairs of words of (A_s - A_t)^2.

    TinyBERT's attention, Jiao et al. 2020, https://arxiv.org/abs/1909.10351, equation 7, on probabilities: the
    paper's unnormalised scores cannot be added up over the sub-words of a word, and are not returned by the
    library. Where the models differ in heads, the mean over each one's heads is compared.

    Args:
        student_maps: [batch, layers, student_heads, words, words]
        teacher_maps: [batch, layers, teacher_heads, words, words], never receives a gradient
        word_mask: [batch, words], true where there is a word
    """
    if student_maps.shape[2] != teacher_maps.shape[2]:
        student_maps, teacher_maps = student_maps.mean(2, keepdim=True), teacher_maps.mean(2, keepdim=True)
    squares = (student_maps - teacher_maps.detach()).square().mean(2).sum(1)  # [batch, words, words]
    pair_mask = word_mask[:, :, None] & word_mask[:, None, :]
    return _per_example(_mean_over(squares.flatten(1), pair_mask.flatten(1)), num_examples)


def minilm(
    student_projections: Tensor,
    teacher_projections: Tensor,
    word_mask: Tensor,
    num_heads: int,
    *,
    num_examples: Tensor | int | None = None,
) -> Tensor:
    """Sum over queries, keys and values of the mean over relation heads and words of KL(R_t || R_s).

    R = softmax(X X^T / sqrt(d)) relates the words of an example to each other, X being one relation head of the
    queries (then keys, then values) of a layer, and d its width. MiniLMv2, Wang et al. 2021,
    https://arxiv.org/abs/2012.15828, equations 6 to 8. Mean over layers; the paper takes one.

    Args:
        student_projections: [batch, layers, 3, words, student_width]
        teacher_projections: [batch, layers, 3, words, teacher_width], never receives a gradient
        word_mask: [batch, words], true where there is a word
        num_heads: Relation heads, which need not be the models' attention heads; divides both widths.
    """

    def log_relations(projections: Tensor) -> Tensor:
        heads = projections.unflatten(-1, (num_heads, -1)).transpose(-2, -3)
        scores = heads @ heads.transpose(-1, -2) / math.sqrt(heads.shape[-1])
        # Not -inf: rows of padding would be nan.
        return log_softmax(scores.masked_fill(~word_mask[:, None, None, None, None, :], -1e9), dim=-1)

    with torch.no_grad():
        teacher = log_relations(teacher_projections)
    student = log_relations(student_projections)
    divergence = (teacher.exp() * (teacher - student)).sum(-1)  # [batch, layers, 3, heads, words]
    return _per_example(_mean_over(divergence.mean(3).sum(2).mean(1), word_mask), num_examples)


def _per_example(losses: Tensor, num_examples: Tensor | int | None) -> Tensor:
    return losses.sum() / (len(losses) if num_examples is None else num_examples)


def _share(loss: Tensor, batch: int, num_examples: Tensor | int | None) -> Tensor:
    """A micro-batch's part of the optimizer step's mean."""
    return loss if num_examples is None else loss * batch / num_examples


def _mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """[batch, n] to [batch]; 0 where nothing is to be compared."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def layer_pairs(name: str, layers: Any, num_student_layers: int, num_teacher_layers: int) -> list[tuple[int, int]]:
    """Which layer of the teacher each layer of the student follows, counted from 1.

    `uniform` takes layer ceil(m * N / M) for layer m of M (TinyBERT's m * N / M where that is whole), `last` the
    last of both. A list names the teacher's layer for each layer of the student, the first one first.

    Raises:
        UserError: A list does not fit the models.
    """
    if layers == "last":
        return [(num_student_layers, num_teacher_layers)]
    if layers == "uniform":
        return [
            (layer, math.ceil(layer * num_teacher_layers / num_student_layers))
            for layer in range(1, num_student_layers + 1)
        ]
    setting = f"loss.terms.{name}.layers"
    if len(layers) != num_student_layers:
        raise UserError(
            setting,
            f"names {len(layers)} layers of the teacher, but the student has {num_student_layers}",
            "name one for each layer of the student, or use uniform or last",
        )
    outside = [layer for layer in layers if not 1 <= layer <= num_teacher_layers]
    if outside:
        raise UserError(
            setting, f"names layer {outside[0]}", f"the teacher has layers 1 to {num_teacher_layers}, or use uniform"
        )
    return list(enumerate(layers, start=1))


def refuse_unfit(names: Collection[str], tokenization: Tokenization, batch_size: int) -> None:
    """Refuse terms that cannot work, whatever the models are.

    Raises:
        UserError: With the reason.
    """
    for name in names:
        setting = f"loss.terms.{name}"
        if name in TOKEN_TERMS and tokenization == Tokenization.student_ids:
            raise UserError(
                setting,
                "compares tokens, but with tokenization=student_ids the teacher reads tokens that mean nothing to it",
                f"use tokenization=own, or terms that need no tokens: {', '.join(VECTOR_TERMS)}",
            )
        if name in BATCH_TERMS and batch_size < SMALLEST_BATCH:
            raise UserError(
                "train.batch_size",
                f"is {batch_size}, but {setting} relates the examples of a batch to each other",
                f"use at least {SMALLEST_BATCH}, better 32; gradient accumulation does not make up for it",
            )


@dataclass
class Internals:
    """What a model computed inside of one forward pass.

    Attributes:
        flags: Arguments that its forward takes to return what is needed.
        projections: Queries, keys and values, [batch, tokens, width] each, layer by layer.
    """

    flags: dict[str, bool]
    projections: list[dict[str, Tensor]] = field(default_factory=list)


# How the families call the layers that make queries, keys and values; ModernBERT makes all three in one.
_PROJECTION_NAMES = (
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
    ("q_proj", "k_proj", "v_proj"),
    ("Wqkv",),
)


def attention_modules(model: nn.Module) -> list[tuple[nn.Module, tuple[str, ...]]]:
    """The modules that hold the layers of queries, keys and values, with these layers' names."""
    return [
        (module, names)
        for module in model.modules()
        for names in _PROJECTION_NAMES
        if all(isinstance(getattr(module, name, None), nn.Linear) for name in names)
    ]


@contextlib.contextmanager
def recording(model: nn.Module, kinds: frozenset[str]) -> Iterator[Internals]:
    """Watch one forward pass: `with recording(model, kinds) as seen: outputs = model(**inputs, **seen.flags)`."""
    seen = Internals({})
    if kinds - {"attention", "minilm"}:
        seen.flags["output_hidden_states"] = True
    if "attention" in kinds:
        seen.flags["output_attentions"] = True
    hooks = []

    def begin(module: nn.Module, arguments: object) -> None:
        seen.projections.append({})

    if "minilm" in kinds:
        for module, names in attention_modules(model):
            # ALBERT calls one module for every layer: a call, not a module, is a layer.
            hooks.append(module.register_forward_pre_hook(begin))
            for name in names:

                def keep(layer: nn.Module, arguments: object, output: Tensor, name: str = name) -> None:
                    # DeBERTa calls the same layers again, for its relative positions.
                    seen.projections[-1].setdefault(name, output)

                hooks.append(getattr(module, name).register_forward_hook(keep))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


class RepresentationTerms(nn.Module):
    """The representation and token-level terms of one loss, with the projections that they learn.

    Where the student is narrower than its teacher, or wider, `pkd` and `hidden` compare widths through a linear
    projection without bias: one for the layers and, for `hidden`, one for the embeddings, as in TinyBERT.
    `hidden` compares the embeddings whichever layers are chosen. The projections are trained with the student,
    and are no part of it.

    Args:
        seed: Of the projections' first weights, which take nothing from torch's own random state: the student's
            batches and dropout are those of its baseline.

    Raises:
        UserError: A layer map does not fit the models, or terms differ in alignment.
    """

    def __init__(
        self,
        student_config: PretrainedConfig,
        teacher_config: PretrainedConfig,
        terms: Mapping[str, TermConfig],
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.kinds = frozenset(terms)
        self.weights = {name: (term.weight, term.weight_end) for name, term in terms.items()}
        self.alignment = _one_alignment(terms)
        self.pooling = {name: term.pooling for name, term in terms.items()}
        self.pairs = {
            name: layer_pairs(name, term.layers, student_config.num_hidden_layers, teacher_config.num_hidden_layers)
            for name, term in terms.items()
        }
        if "hidden" in self.pairs:
            self.pairs["hidden"] = [(0, 0), *self.pairs["hidden"]]
        self.student_width, self.teacher_width = student_config.hidden_size, teacher_config.hidden_size
        self.num_teacher_heads = teacher_config.num_attention_heads
        # All divide the teacher's width; the paper takes more than the models have, and finds that more is better.
        self.num_relation_heads = math.gcd(self.num_teacher_heads, self.student_width)
        self.projections = nn.ModuleDict()
        if self.student_width != self.teacher_width:
            generator = torch.Generator().manual_seed(seed)
            names = {"pkd": ["pkd"], "hidden": ["hidden", "embeddings"]}
            for name in [projection for term in names if term in terms for projection in names[term]]:
                linear = nn.utils.skip_init(nn.Linear, self.student_width, self.teacher_width, bias=False)
                bound = self.student_width**-0.5
                with torch.no_grad():
                    linear.weight.uniform_(-bound, bound, generator=generator)
                self.projections[name] = linear

    @property
    def needs_words(self) -> bool:
        """Whether a term compares tokens or words."""
        return bool(self.kinds & set(TOKEN_TERMS))

    @contextlib.contextmanager
    def readable(self, *models: PreTrainedModel) -> Iterator[None]:
        """Have models compute what the terms read; attention probabilities need the `eager` implementation."""
        before = [model.config._attn_implementation for model in models]
        if "attention" in self.kinds:
            for model in models:
                model.set_attn_implementation("eager")
        try:
            yield
        finally:
            for model, implementation in zip(models, before, strict=True):
                if model.config._attn_implementation != implementation:
                    model.set_attn_implementation(implementation)

    def of_student(
        self, outputs: Any, seen: Internals, attention_mask: Tensor, words: Tensor | None, num_words: int
    ) -> dict[str, Tensor]:
        """What each term compares, of the student; see `of_teacher`."""
        layers = {name: [student for student, _ in pairs] for name, pairs in self.pairs.items()}
        return self._summaries(layers, outputs, seen, attention_mask, words, num_words)

    def of_teacher(
        self, outputs: Any, seen: Internals, attention_mask: Tensor, words: Tensor | None, num_words: int
    ) -> dict[str, Tensor]:
        """What each term compares, of the teacher: the first argument that its loss takes, or the second.

        Args:
            outputs: As the model returned them, called with `seen.flags`.
            attention_mask: [batch, tokens]
            words: [batch, tokens], see `alignment`; None where no term needs them.
        """
        layers = {name: [teacher for _, teacher in pairs] for name, pairs in self.pairs.items()}
        return self._summaries(layers, outputs, seen, attention_mask, words, num_words)

    def _summaries(
        self,
        layers: dict[str, list[int]],
        outputs: Any,
        seen: Internals,
        attention_mask: Tensor,
        words: Tensor | None,
        num_words: int,
    ) -> dict[str, Tensor]:
        with torch.autocast(attention_mask.device.type, enabled=False):
            summaries = {}
            for name, numbers in layers.items():
                if name in VECTOR_TERMS:
                    states = torch.stack([outputs.hidden_states[number].float() for number in numbers], dim=1)
                    summaries[name] = pool(states, attention_mask, self.pooling[name])
                    continue
                assert words is not None
                if name == "hidden":
                    states = torch.stack([outputs.hidden_states[number].float() for number in numbers], dim=1)
                    summaries[name] = averaging(words, num_words)[:, None] @ states
                elif name == "attention":
                    maps = torch.stack([outputs.attentions[number - 1].float() for number in numbers], dim=1)
                    summaries[name] = pool_attention(maps, words, num_words)
                else:
                    projections = torch.stack([_stacked(seen.projections[number - 1]) for number in numbers], dim=1)
                    summaries[name] = averaging(words, num_words)[:, None, None] @ projections
            return summaries

    def target_shapes(self, num_words: int) -> dict[str, tuple[int, ...]]:
        """Sizes of what `of_teacher` gives for one text of so many words."""
        shapes = {}
        for name, pairs in self.pairs.items():
            sizes: tuple[int, ...] = (self.teacher_width,)
            match name:
                case "hidden":
                    sizes = (num_words, self.teacher_width)
                case "attention":
                    sizes = (self.num_teacher_heads, num_words, num_words)
                case "minilm":
                    sizes = (3, num_words, self.teacher_width)
            shapes[name] = (len(pairs), *sizes)
        return shapes

    def forward(
        self,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        word_mask: Tensor | None = None,
        *,
        num_examples: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """The value of each term, unweighted.

        Args:
            student: From `of_student`.
            teacher: From `of_teacher`.
            word_mask: [batch, words]; None where no term needs words.
        """
        device_type = next(iter(student.values())).device.type
        with torch.autocast(device_type, enabled=False):
            return {
                name: self._term(name, student[name], teacher[name], word_mask, num_examples) for name in self.pairs
            }

    def _term(
        self,
        name: str,
        student: Tensor,
        teacher: Tensor,
        word_mask: Tensor | None,
        num_examples: Tensor | int | None,
    ) -> Tensor:
        match name:
            case "pkd":
                return pkd(self._projected("pkd", student), teacher, num_examples=num_examples)
            case "rkd":
                return rkd(student, teacher, num_examples=num_examples)
            case "cka":
                return cka(student, teacher, num_examples=num_examples)
        assert word_mask is not None
        match name:
            case "hidden":
                embeddings = self._projected("embeddings", student[:, :1])
                states = torch.cat([embeddings, self._projected("hidden", student[:, 1:])], dim=1)
                return hidden(states, teacher, word_mask, num_examples=num_examples)
            case "attention":
                return attention(student, teacher, word_mask, num_examples=num_examples)
            case _:
                return minilm(student, teacher, word_mask, self.num_relation_heads, num_examples=num_examples)

    def _projected(self, name: str, states: Tensor) -> Tensor:
        return self.projections[name](states) if name in self.projections else states


def _one_alignment(terms: Mapping[str, TermConfig]) -> Alignment:
    """The alignment of all token-level terms: a batch has one."""
    alignments = {term.alignment for name, term in terms.items() if name in TOKEN_TERMS}
    if len(alignments) > 1:
        raise UserError(
            "loss.terms", "align some terms on words and others by position", "use one alignment for all terms"
        )
    return Alignment(alignments.pop()) if alignments else Alignment.words


def pool(states: Tensor, attention_mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector per text: of its first token (`cls`), or the mean over all tokens but padding.

    Args:
        states: [batch, layers, tokens, width]
        attention_mask: [batch, tokens]

    Returns:
        [batch, layers, width]
    """
    if pooling == Pooling.cls:
        first = attention_mask.argmax(-1)  # not 0 where padding is on the left
        return states[torch.arange(len(states), device=states.device), :, first]
    mask = attention_mask.to(states.dtype)[:, None, :, None]
    return (states * mask).sum(2) / mask.sum(2)


def pool_attention(maps: Tensor, words: Tensor, num_words: int) -> Tensor:
    """Attention between words: added up over the sub-words that are looked at, averaged over those that look.

    What goes to tokens that belong to no word (special tokens, across tokenizers) is left out, and the rest is
    divided by its sum, so that each word's attention adds up to 1 again.

    Args:
        maps: [batch, layers, heads, tokens, tokens]
        words: [batch, tokens]

    Returns:
        [batch, layers, heads, words, words]
    """
    members = membership(words, num_words)[:, None, None]
    between_words = averaging(words, num_words)[:, None, None] @ maps @ members.transpose(-1, -2)
    return between_words / between_words.sum(-1, keepdim=True).clamp(min=1e-6)


def _stacked(projections: dict[str, Tensor]) -> Tensor:
    """Queries, keys and values of one layer: [batch, 3, tokens, width]."""
    tensors = list(projections.values())
    return torch.stack(tensors if len(tensors) == 3 else list(tensors[0].chunk(3, dim=-1)), dim=1).float()
