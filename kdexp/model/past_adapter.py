"""A causal language model's past: what transformers is renaming, in one place.

Until 5.x a model takes the keys and values of the tokens before as `past_key_values`, and returns them by that name;
newer ones call both `cache`. The object behind it is a `Cache` with `crop` and `batch_repeat_interleave`.
"""

import copy
import inspect
from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

_NAMES = ("cache", "past_key_values")


def forward_with_past(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past: Any
) -> tuple[Tensor, Any]:
    """Logits of the new tokens, and the past with these.

    Args:
        input_ids: [batch, new tokens]
        attention_mask: [batch, past tokens + new tokens]
        position_ids: [batch, new tokens]
        past: None for none yet; it is changed.

    Returns:
        [batch, new tokens, vocabulary], and what the next call takes as `past`.
    """
    past = DynamicCache(config=model.config) if past is None else past
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, _name(model): past, "use_cache": True}
    if "position_ids" in inspect.signature(model.forward).parameters:
        inputs["position_ids"] = position_ids
    outputs = model(**inputs)
    kept = next((getattr(outputs, name) for name in _NAMES if getattr(outputs, name, None) is not None), past)
    return outputs.logits, kept


def can_keep_past(model: PreTrainedModel) -> bool:
    """Whether the model takes a past that can be cut back: one that slides or recurs cannot."""
    if not any(name in inspect.signature(model.forward).parameters for name in _NAMES):
        return False
    past = DynamicCache(config=model.config)
    return not any(bool(getattr(layer, "is_sliding", False)) for layer in getattr(past, "layers", []))


def copied(past: Any) -> Any:
    """A past of its own: forwarding changes it."""
    return copy.deepcopy(past)


def for_batch(past: Any, batch_size: int) -> Any:
    """A copy of the past of one row, for each row of a batch."""
    repeated = copied(past)
    repeated.batch_repeat_interleave(batch_size)
    return repeated


def _name(model: PreTrainedModel) -> str:
    parameters = inspect.signature(model.forward).parameters
    return next(name for name in _NAMES if name in parameters)
