"""A bag of (sub-)word embeddings with a small head: a classifier without layers, thousands of texts a second.

Importing this module tells transformers' Auto classes of it, so that `from_pretrained` loads what `save_pretrained`
wrote, without remote code. It imports nothing of kdexp: a copy travels with logged students.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class StaticConfig(PretrainedConfig):
    """What a static model is made of.

    Args:
        vocab_size: Tokens.
        hidden_size: Width of an embedding.
        is_pair: Texts come in pairs, which `separator_token_id` divides.
        dropout: Of what is pooled.
    """

    model_type = "kdexp_static"

    def __init__(
        self,
        vocab_size: int = 300,
        hidden_size: int = 256,
        is_pair: bool = False,
        separator_token_id: int | None = None,
        dropout: float = 0.1,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.is_pair = is_pair
        self.separator_token_id = separator_token_id
        self.dropout = dropout
        super().__init__(**others)


class StaticForSequenceClassification(PreTrainedModel):
    """The mean of a text's embeddings, weighted by a learned score of each token, and a head.

    Of a pair (u, v) the head reads u, v, |u - v| and u * v: what two texts have in common is no mean of all their
    words (the features of InferSent, Conneau et al. 2017, https://aclanthology.org/D17-1070, section 3.1).
    """

    config_class = StaticConfig
    base_model_prefix = "static"
    main_input_name = "input_ids"

    def __init__(self, config: StaticConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.scores = nn.Embedding(config.vocab_size, 1)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(4 * width if config.is_pair else width, width)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.scores:
            nn.init.zeros_(module.weight)
        elif isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=module.weight.shape[1] ** -0.5)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings = value

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        """Classify texts.

        Args:
            input_ids, attention_mask: [batch, tokens]
            labels: [batch], or [batch, labels] of several.

        Returns:
            `logits`, [batch, labels]; with labels their `loss` too, as transformers' classifiers have it.
        """
        is_token = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
        embedded, scores = self.embeddings(input_ids), self.scores(input_ids).squeeze(-1)
        if self.config.is_pair:
            is_second = (input_ids == self.config.separator_token_id).cumsum(dim=1) > 0
            first = _pooled(embedded, scores, is_token & ~is_second)
            second = _pooled(embedded, scores, is_token & is_second)
            pooled = torch.cat([first, second, (first - second).abs(), first * second], dim=-1)
        else:
            pooled = _pooled(embedded, scores, is_token)
        hidden = torch.nn.functional.gelu(self.dense(self.dropout(pooled)))
        logits = self.classifier(self.dropout(hidden))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def _pooled(embedded: Tensor, scores: Tensor, is_pooled: Tensor) -> Tensor:
    """[batch, width]: the mean of the embeddings, weighted by the softmax of the scores, where `is_pooled`."""
    # The least number, not minus infinity: of a text without a token the mean is none, and not nan.
    weights = scores.masked_fill(~is_pooled, torch.finfo(scores.dtype).min).softmax(dim=-1)
    return torch.bmm(weights.unsqueeze(1), embedded).squeeze(1)


AutoConfig.register(StaticConfig.model_type, StaticConfig, exist_ok=True)
AutoModelForSequenceClassification.register(StaticConfig, StaticForSequenceClassification, exist_ok=True)
