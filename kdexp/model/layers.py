"""Some layers of an encoder as a smaller encoder of the same family.

Everything around the layers stays: embeddings, norms, pooler, and the head where it answers the task. (DistilBERT was
begun so, Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 3.)
"""

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from kdexp.errors import UserError
from kdexp.model.encoder import Encoder, label_names
from kdexp.task.kinds.base import TaskKind


def with_layers(encoder: Encoder, layers: Sequence[int], kind: TaskKind, *, seed: int) -> Encoder:
    """A smaller encoder with copies of these layers; its head is kept where it has the task's classes, else made anew.

    Args:
        layers: Their numbers, from 0, in rising order.
        seed: Of a new head.

    Raises:
        UserError: `layers`: it has no such layers, or its layers cannot be told apart.
    """
    source = encoder.model
    _refuse_missing(layers, source.config.num_hidden_layers)
    if _shares_layers(source.config) and list(layers) != list(range(len(layers))):
        raise UserError(
            "layers",
            f"got {list(layers)}, but all layers of a {source.config.model_type} model are one and the same",
            f"set num_layers={len(layers)} alone",
        )
    order = head_order(encoder, kind)
    config = _smaller(source.config, layers)
    if order is None:
        config.update(kind.head_config())
    torch.manual_seed(seed)
    made = type(source)._from_config(config, dtype=torch.float32)
    weights = _weights(source, layers, with_head=order is not None)
    missing = made.load_state_dict(weights, strict=False).missing_keys
    strange = [name for name in missing if order is not None or name.startswith(f"{made.base_model_prefix}.")]
    assert not strange, strange
    if order is not None:
        _reorder_head(made, order, kind)
    return Encoder(made, encoder.tokenizer, encoder.max_length, answers_task=order is not None)


def loses_norm(encoder: Encoder, layers: Sequence[int]) -> bool:
    """Whether the new first layer had a norm that a first layer of its family has not.

    ModernBERT's first layer reads the embeddings' own norm, and has none before its attention.
    """
    return encoder.model.config.model_type == "modernbert" and layers[0] != 0


def head_order(encoder: Encoder, kind: TaskKind) -> list[int] | None:
    """Where the task's outputs lie among those of the encoder's head; None where it answers something else."""
    names = label_names(encoder.model.config)
    wanted = list(kind.label_names)
    if not encoder.answers_task or sorted(names) != sorted(wanted):
        return None
    return [names.index(name) for name in wanted]


def _refuse_missing(layers: Sequence[int], available: int) -> None:
    if layers[-1] >= available:
        raise UserError("layers", f"got {list(layers)}", f"there are {available}: 0 to {available - 1}")


def _shares_layers(config: PretrainedConfig) -> bool:
    return config.model_type == "albert"


def _smaller(config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    smaller = copy.deepcopy(config)
    smaller.num_hidden_layers = len(layers)
    # Each layer keeps its own reach: ModernBERT's see all tokens, or those nearby.
    types = getattr(config, "layer_types", None)
    if types:
        smaller.layer_types = [types[layer] for layer in layers]
    return smaller


def _weights(source: PreTrainedModel, layers: Sequence[int], *, with_head: bool) -> dict[str, torch.Tensor]:
    """The source's weights under the smaller model's names."""
    base, place = f"{source.base_model_prefix}.", _layers_place(source)
    numbers = {str(layer): str(number) for number, layer in enumerate(layers)}
    weights = {}
    for name, tensor in source.state_dict().items():
        if not (with_head or name.startswith(base)):
            continue
        if place and name.startswith(place):
            number, rest = name.removeprefix(place).split(".", 1)
            if number not in numbers:
                continue
            name = f"{place}{numbers[number]}.{rest}"
        weights[name] = tensor
    return weights


def _layers_place(model: PreTrainedModel) -> str | None:
    """What the names of its layers' weights begin with: `bert.encoder.layer.`; None where all layers are one."""
    if _shares_layers(model.config):
        return None
    number = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == number:
            return f"{name}."
    raise UserError(
        "init", f"the layers of a {model.config.model_type} model stand in no list", "choose a student of its own"
    )


def _reorder_head(model: PreTrainedModel, order: Sequence[int], kind: TaskKind) -> None:
    """Put the outputs into the task's order, and call them as the task does."""
    if list(order) != list(range(len(order))):
        linears = [item for item in model.modules() if isinstance(item, nn.Linear)]
        last = [item for item in linears if item.out_features == len(order)][-1]
        with torch.no_grad():
            last.weight.copy_(last.weight[list(order)].clone())
            if last.bias is not None:
                last.bias.copy_(last.bias[list(order)].clone())
    model.config.update(kind.head_config())
