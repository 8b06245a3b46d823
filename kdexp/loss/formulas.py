"""What several losses on logits have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdexp.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from kdexp.loss.base import LogitLoss


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities at a temperature, [batch, classes]."""
    return (logits / temperature).log_softmax(-1)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), summed over rows. Not torch's kl_div, which `torch.func.vmap` does not take."""
    return (log_p.exp() * (log_p - log_q)).sum()


def refuse_both_zero(loss: LogitLoss, first: str, second: str) -> None:
    """Refuse a loss of two terms of which neither counts.

    Args:
        first, second: Its settings that weigh them.

    Raises:
        UserError: Both are 0.
    """
    if not getattr(loss, first) and not getattr(loss, second):
        raise UserError(first, f"is 0, as {second} is", "set one of the two above 0")
