"""Compact models with fresh weights, which no task asked for."""

import torch
from transformers import AutoModelForSequenceClassification, PretrainedConfig, PreTrainedModel


def build_compact_model(config: PretrainedConfig) -> PreTrainedModel:
    """A sequence classifier with fresh weights, from torch's current random state."""
    return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
