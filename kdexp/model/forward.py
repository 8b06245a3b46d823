"""What a model's forward takes and gives, whatever wraps it: torch.compile, PEFT, a module of one's own."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PretrainedConfig


def innermost(model: nn.Module) -> nn.Module:
    """The module whose forward says what it takes: below torch.compile, DataParallel and its kin, and PEFT."""
    inner: Any = model
    while True:
        if isinstance(inner, nn.parallel.DataParallel | nn.parallel.DistributedDataParallel):
            inner = inner.module
        elif isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif hasattr(inner, "get_base_model"):
            inner = inner.get_base_model()
        else:
            return inner


def config_of(model: nn.Module) -> PretrainedConfig | None:
    """The model's config; None where it is no model of transformers, but any module."""
    config = getattr(innermost(model), "config", None)
    return config if isinstance(config, PretrainedConfig) else None


def input_names(model: nn.Module) -> frozenset[str] | None:
    """What the model's forward names; None where it hands on whatever it is given, `forward(*args, **kwargs)`."""
    parameters = inspect.signature(innermost(model).forward).parameters.values()
    named = {item.name for item in parameters if item.kind not in (item.VAR_POSITIONAL, item.VAR_KEYWORD)}
    takes_anything = not named and any(item.kind == item.VAR_KEYWORD for item in parameters)
    return None if takes_anything else frozenset(named)


def accepted_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that the model's forward names; a DistilBERT, say, has no token_type_ids."""
    accepted = input_names(model)
    return {name: value for name, value in inputs.items() if accepted is None or name in accepted}


def logits_of(outputs: Any, *, with_loss: bool = False) -> Tensor:
    """The logits among a model's outputs: by name, behind the loss of a tuple, or all that there is.

    Args:
        with_loss: The model was given labels.

    Raises:
        ValueError: There are none.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if not isinstance(outputs, Mapping):
        return outputs[1 if with_loss else 0]
    if outputs.get("logits") is None:
        names = ", ".join(name for name in outputs if name != "loss")
        raise ValueError(f"distillation compares `logits`, but the model returned {names or 'none'}")
    return outputs["logits"]
