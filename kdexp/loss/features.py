"""The module that applies feature terms: it records what models compute inside, pools, projects and compares it."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from kdexp.errors import UserError, under
from kdexp.loss.pooling import averaging, pool, pool_attention
from kdexp.loss.terms import Alignment, FeatureTerm, Reads, VectorTerm, WordTerm


@dataclass
class RecordedFeatures:
    """What a model computed inside of one forward pass, beside its outputs.

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
def recorded(model: nn.Module, reads: frozenset[Reads]) -> Iterator[RecordedFeatures]:
    """Record one forward pass: `with recorded(model, reads) as features: model(**inputs, **features.flags)`."""
    features = RecordedFeatures({})
    if Reads.hidden_states in reads:
        features.flags["output_hidden_states"] = True
    if Reads.attentions in reads:
        features.flags["output_attentions"] = True
    hooks = []

    def begin(module: nn.Module, arguments: object) -> None:
        features.projections.append({})

    if Reads.projections in reads:
        for module, names in attention_modules(model):
            # ALBERT calls one module for every layer: a call, not a module, is a layer.
            hooks.append(module.register_forward_pre_hook(begin))
            for name in names:

                def keep(layer: nn.Module, arguments: object, output: Tensor, name: str = name) -> None:
                    # DeBERTa calls the same layers again, for its relative positions.
                    features.projections[-1].setdefault(name, output)

                hooks.append(getattr(module, name).register_forward_hook(keep))
    try:
        yield features
    finally:
        for hook in hooks:
            hook.remove()


class FeatureTerms(nn.Module):
    """The feature terms of one loss, with the projections that they learn.

    Where the student is narrower than its teacher, or wider, terms that need the same width compare through a
    linear projection without bias: one for the layers and one for the embeddings, as in TinyBERT. The projections
    are trained with the student, and are no part of it.

    Args:
        terms: By name: `{"hidden": Hidden(weight=0.5)}`.
        seed: Of the projections' first weights, which take nothing from torch's own random state: the student's
            batches and dropout are those of its baseline.

    Raises:
        UserError: A layer map does not fit the models, or terms differ in alignment.
    """

    def __init__(
        self,
        student_config: PretrainedConfig,
        teacher_config: PretrainedConfig,
        terms: Mapping[str, FeatureTerm],
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not hasattr(student_config, "num_hidden_layers"):
            raise UserError(
                "terms", f"a {student_config.model_type} student has no layers to compare", "choose another student"
            )
        self.terms = dict(terms)
        self.reads = frozenset(term.reads for term in terms.values())
        self.alignment = _one_alignment(terms)
        self.pairs: dict[str, list[tuple[int, int]]] = {}
        for name, term in terms.items():
            with under(f"terms.{name}"):
                pairs = layer_pairs(term.layers, student_config.num_hidden_layers, teacher_config.num_hidden_layers)
            self.pairs[name] = [(0, 0), *pairs] if term.reads_embeddings else pairs
        self.student_width, self.teacher_width = student_config.hidden_size, teacher_config.hidden_size
        self.num_teacher_heads = teacher_config.num_attention_heads
        # All divide the teacher's width; the paper takes more than the models have, and finds that more is better.
        self.num_relation_heads = math.gcd(self.num_teacher_heads, self.student_width)
        self.projections = nn.ModuleDict()
        if self.student_width != self.teacher_width:
            generator = torch.Generator().manual_seed(seed)
            # In one order, in whatever order the terms were named.
            for name in sorted(terms, reverse=True):
                if terms[name].needs_same_width:
                    self.projections[name] = self._projection(generator)
                    if terms[name].reads_embeddings:
                        self.projections[f"{name}_embeddings"] = self._projection(generator)

    def _projection(self, generator: torch.Generator) -> nn.Linear:
        linear = nn.utils.skip_init(nn.Linear, self.student_width, self.teacher_width, bias=False)
        bound = self.student_width**-0.5
        with torch.no_grad():
            linear.weight.uniform_(-bound, bound, generator=generator)
        return linear

    @property
    def needs_words(self) -> bool:
        """Whether a term compares tokens or words."""
        return any(isinstance(term, WordTerm) for term in self.terms.values())

    @contextlib.contextmanager
    def with_eager_attention(self, *models: PreTrainedModel) -> Iterator[None]:
        """Have models return attention probabilities where a term reads them: only `eager` computes any."""
        before = [model.config._attn_implementation for model in models]
        if Reads.attentions in self.reads:
            for model in models:
                model.set_attn_implementation("eager")
        try:
            yield
        finally:
            for model, implementation in zip(models, before, strict=True):
                if model.config._attn_implementation != implementation:
                    model.set_attn_implementation(implementation)

    def student_features(
        self, outputs: Any, features: RecordedFeatures, attention_mask: Tensor, words: Tensor | None, num_words: int
    ) -> dict[str, Tensor]:
        """What each term compares, of the student; see `teacher_features`."""
        layers = {name: [student for student, _ in pairs] for name, pairs in self.pairs.items()}
        return self._summaries(layers, outputs, features, attention_mask, words, num_words)

    def teacher_features(
        self, outputs: Any, features: RecordedFeatures, attention_mask: Tensor, words: Tensor | None, num_words: int
    ) -> dict[str, Tensor]:
        """What each term compares, of the teacher.

        Args:
            outputs: As the model returned them, called with `features.flags`.
            attention_mask: [batch, tokens]
            words: [batch, tokens], the word of each token, negative for none; None where no term needs them.
        """
        layers = {name: [teacher for _, teacher in pairs] for name, pairs in self.pairs.items()}
        return self._summaries(layers, outputs, features, attention_mask, words, num_words)

    def _summaries(
        self,
        layers: dict[str, list[int]],
        outputs: Any,
        features: RecordedFeatures,
        attention_mask: Tensor,
        words: Tensor | None,
        num_words: int,
    ) -> dict[str, Tensor]:
        summaries = {}
        with torch.autocast(attention_mask.device.type, enabled=False):
            for name, term in self.terms.items():
                by_layer = _of_layers(term.reads, layers[name], outputs, features)
                if isinstance(term, VectorTerm):
                    summaries[name] = pool(by_layer, attention_mask, term.pooling)
                    continue
                assert words is not None
                if term.reads == Reads.attentions:
                    summaries[name] = pool_attention(by_layer, words, num_words)
                else:
                    mean = averaging(words, num_words)
                    summaries[name] = mean[(slice(None), *[None] * (by_layer.dim() - mean.dim()))] @ by_layer
        return summaries

    def feature_shapes(self, num_words: int) -> dict[str, tuple[int, ...]]:
        """Sizes of what `teacher_features` gives for one text of so many words."""
        word_shapes = {
            Reads.hidden_states: (num_words, self.teacher_width),
            Reads.attentions: (self.num_teacher_heads, num_words, num_words),
            Reads.projections: (3, num_words, self.teacher_width),
        }
        return {
            name: (
                len(self.pairs[name]),
                *(word_shapes[term.reads] if isinstance(term, WordTerm) else (self.teacher_width,)),
            )
            for name, term in self.terms.items()
        }

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
            student: From `student_features`.
            teacher: From `teacher_features`.
            word_mask: [batch, words]; None where no term needs words.
            num_examples: Rows of the whole optimizer step; None takes those at hand.
        """
        values = {}
        with torch.autocast(next(iter(student.values())).device.type, enabled=False):
            for name, term in self.terms.items():
                pair = (self._projected(name, student[name]), teacher[name])
                if term.reads == Reads.projections:
                    pair = (self._relation_heads(pair[0]), self._relation_heads(pair[1]))
                values[name] = term(*pair, word_mask, num_examples=num_examples)
        return values

    def _projected(self, name: str, states: Tensor) -> Tensor:
        """[batch, layers, ..., student_width] to the teacher's width, where that is another and the term needs it."""
        if name not in self.projections:
            return states
        if not self.terms[name].reads_embeddings:
            return self.projections[name](states)
        embeddings = self.projections[f"{name}_embeddings"](states[:, :1])
        return torch.cat([embeddings, self.projections[name](states[:, 1:])], dim=1)

    def _relation_heads(self, projections: Tensor) -> Tensor:
        """[..., words, width] to [..., heads, words, head_width]."""
        return projections.unflatten(-1, (self.num_relation_heads, -1)).transpose(-2, -3)


def layer_pairs(
    layers: str | Sequence[int], num_student_layers: int, num_teacher_layers: int
) -> list[tuple[int, int]]:
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
    numbers = [int(layer) for layer in layers]
    if len(numbers) != num_student_layers:
        raise UserError(
            "layers",
            f"names {len(numbers)} layers of the teacher, but the student has {num_student_layers}",
            "name one for each layer of the student, or use uniform or last",
        )
    outside = [layer for layer in numbers if not 1 <= layer <= num_teacher_layers]
    if outside:
        raise UserError(
            "layers", f"names layer {outside[0]}", f"the teacher has layers 1 to {num_teacher_layers}, or use uniform"
        )
    return list(enumerate(numbers, start=1))


def _one_alignment(terms: Mapping[str, FeatureTerm]) -> Alignment:
    """The alignment of all terms that compare words: a batch has one."""
    alignments = {term.alignment for term in terms.values() if isinstance(term, WordTerm)}
    if len(alignments) > 1:
        raise UserError("terms", "align some terms on words and others by position", "use one alignment for all terms")
    return Alignment(alignments.pop()) if alignments else Alignment.words


def _of_layers(reads: Reads, layers: list[int], outputs: Any, features: RecordedFeatures) -> Tensor:
    """What a term reads of each of its layers, float32: [batch, layers, ..., tokens, width]."""
    match reads:
        case Reads.hidden_states:  # of which the first are the embeddings
            by_layer = [outputs.hidden_states[layer] for layer in layers]
        case Reads.attentions:
            by_layer = [outputs.attentions[layer - 1] for layer in layers]
        case Reads.projections:
            by_layer = [_stacked(features.projections[layer - 1]) for layer in layers]
    return torch.stack([tensor.float() for tensor in by_layer], dim=1)


def _stacked(projections: dict[str, Tensor]) -> Tensor:
    """Queries, keys and values of one layer: [batch, 3, tokens, width]."""
    tensors = list(projections.values())
    return torch.stack(tensors if len(tensors) == 3 else list(tensors[0].chunk(3, dim=-1)), dim=1)
