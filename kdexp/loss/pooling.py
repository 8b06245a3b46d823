"""From tokens to what terms compare: one vector per text, or one entry per word."""

import torch
from torch import Tensor

from kdexp.loss.terms import Pooling


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


def membership(words: Tensor, num_words: int) -> Tensor:
    """Which token belongs to which word, as zeros and ones.

    Args:
        words: [batch, tokens], negative for none.

    Returns:
        [batch, num_words, tokens], float32
    """
    return (words[:, None, :] == torch.arange(num_words, device=words.device)[None, :, None]).float()


def averaging(words: Tensor, num_words: int) -> Tensor:
    """[batch, num_words, tokens] that averages over the tokens of each word: `averaging(...) @ hidden_states`."""
    members = membership(words, num_words)
    return members / members.sum(-1, keepdim=True).clamp(min=1)
