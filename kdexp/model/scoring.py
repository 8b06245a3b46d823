"""How likely a causal language model finds words after prompts.

What the prompts of a batch begin with is computed once for all of them, and each prompt once for all words: keys and
values are kept. The numbers are those of plain scoring, which forwards each prompt with each word.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from kdexp.errors import UserError
from kdexp.loss.base import precise
from kdexp.model.past_adapter import can_keep_past, copied, for_batch, forward_with_past


@dataclass(frozen=True)
class Scores:
    """
    Attributes:
        values: [rows, words], log-probabilities of the words, or their means over tokens.
        num_tokens: That the model was given, padding aside.
    """

    values: Tensor
    num_tokens: int


class WordScorer:
    """
    Args:
        words: Each as it follows the prompt, a space before it included where that belongs there.
        max_length: In tokens, of prompt and word together.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, words: Sequence[str], max_length: int
    ) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length
        self.words = [list(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in words]
        self.keeps_past = can_keep_past(model)

    def refuse_unfit(self, role: str, template: Any) -> None:
        """Refuse words that are none to this tokenizer, and a template that leaves no room for a text.

        Raises:
            UserError: There are such.
        """
        unknown = self.tokenizer.unk_token_id
        for word, ids in zip(template.verbalizers, self.words, strict=True):
            if not ids or (unknown is not None and unknown in ids):
                raise UserError(f"{role}.verbalizers", f"the model has no tokens for '{word}'", "choose another word")
        room = self.max_length - max(map(len, self.words)) - len(self._ids(template.fill("", "")))
        if room < 1:
            problem = f"the prompt leaves no room for a text in the {self.max_length} tokens that the model reads"
            raise UserError(f"{role}.prompt", problem, "shorten it")

    def prompt_ids(self, template: Any, text: str, pair: str | None) -> tuple[list[int], bool]:
        """Tokens of a prompt, and whether the text had to be cut: the template is kept whole."""
        ids = self._ids(template.fill(text, pair))
        room = self.max_length - max(map(len, self.words))
        is_cut = len(ids) > room
        while len(ids) > room:
            excess = len(ids) - room
            if pair and len(pair) > len(text):
                pair = self._shortened(pair, excess)
            else:
                text = self._shortened(text, excess)
            ids = self._ids(template.fill(text, pair))
        return ids, is_cut

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"]) or [self._beginning()]

    def _beginning(self) -> int:
        tokenizer = self.tokenizer
        return int(next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, 0) if token is not None))

    def _shortened(self, text: str, num_tokens: int) -> str:
        """Without its last tokens, at least one character shorter."""
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        kept = spans[: max(len(spans) - num_tokens, 0)]
        return text[: min(kept[-1][1] if kept else 0, len(text) - 1)]

    def scores(self, prompts: Sequence[Sequence[int]], *, normalise: bool) -> Scores:
        """Score every word after every prompt.

        Args:
            normalise: The mean over a word's tokens, so that a long word is not unlikely for its length.
        """
        values, num_tokens = self._kept(prompts) if self.keeps_past else self._plain(prompts)
        if normalise:
            values = values / torch.tensor([len(word) for word in self.words], device=values.device)
        return Scores(values, num_tokens)

    def _kept(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
        device = self.model.device
        shared = self._num_shared(prompts)
        past: Any = None
        num_tokens = shared
        if shared:
            ids = torch.tensor([prompts[0][:shared]], device=device)
            _, past = forward_with_past(self.model, ids, torch.ones_like(ids), _positions(ids, 0), None)
            past = for_batch(past, len(prompts))
        rest = [list(prompt[shared:]) for prompt in prompts]
        ids, own = _padded(rest, device)
        before = torch.ones(len(prompts), shared, dtype=torch.long, device=device)
        mask = torch.cat([before, own], dim=1)
        logits, past = forward_with_past(self.model, ids, mask, _positions(ids, shared), past)
        num_tokens += int(own.sum())
        lengths = own.sum(dim=1)
        last = precise(logits[torch.arange(len(prompts), device=device), lengths - 1]).log_softmax(dim=-1)
        values = torch.stack([last[:, word[0]] for word in self.words], dim=1)
        for place, word in enumerate(self.words):
            if len(word) > 1:
                following = torch.tensor([word[:-1]] * len(prompts), device=device)
                whole = torch.cat([mask, torch.ones_like(following)], dim=1)
                positions = (shared + lengths)[:, None] + torch.arange(len(word) - 1, device=device)
                logits, _ = forward_with_past(self.model, following, whole, positions, copied(past))
                logs = precise(logits).log_softmax(dim=-1)
                wanted = torch.tensor(word[1:], device=device).expand(len(prompts), -1)
                values[:, place] += logs.gather(-1, wanted[..., None]).squeeze(-1).sum(dim=1)
                num_tokens += following.numel()
        return values, num_tokens

    def _num_shared(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many tokens all prompts begin with; each keeps one of its own, whose logits are needed."""
        shortest = min(map(len, prompts))
        first = prompts[0]
        same = next((at for at in range(shortest) if any(prompt[at] != first[at] for prompt in prompts)), shortest)
        return min(same, shortest - 1)

    def _plain(self, prompts: Sequence[Sequence[int]]) -> tuple[Tensor, int]:
        """Each prompt with each word, whole."""
        device = self.model.device
        columns, num_tokens = [], 0
        for word in self.words:
            ids, mask = _padded([[*prompt, *word[:-1]] for prompt in prompts], device)
            logits = precise(self.model(input_ids=ids, attention_mask=mask).logits).log_softmax(dim=-1)
            rows = [
                logits[row, len(prompt) - 1 : len(prompt) - 1 + len(word)]
                .gather(-1, torch.tensor(word, device=device)[:, None])
                .sum()
                for row, prompt in enumerate(prompts)
            ]
            columns.append(torch.stack(rows))
            num_tokens += int(mask.sum())
        return torch.stack(columns, dim=1), num_tokens


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """[rows, tokens] and its mask, padded on the right: no token sees what follows it."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=device)
    return ids, mask


def _positions(ids: Tensor, start: int) -> Tensor:
    return torch.arange(start, start + ids.shape[1], device=ids.device).expand_as(ids)
