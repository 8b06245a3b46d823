"""Models and data small enough to train in a second."""

import datasets
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

WORDS = ["the", "a", "film", "plot", "actor", "is", "was", "good", "bad", "dull", "fine", "not", "very", "but", "and"]
WORDS += ["never", "quite", "superb"]
TEXTS = [" ".join(WORDS[(7 * i + 5 * j * j) % len(WORDS)] for j in range(3 + i % 6)) for i in range(36)]
LABELS = [i % 3 for i in range(36)]


def word_tokenizer(words, token_types=True):
    """One token a word."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=24, model_input_names=names if token_types else [names[0], names[2]],
    )  # fmt: skip


TOKENIZER = word_tokenizer(WORDS)


def bert(seed=1, cls=BertForSequenceClassification, dropout=0.0, **changed):
    """A classifier of three classes."""
    set_seed(seed)
    config = {
        **{"vocab_size": len(TOKENIZER), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 32, "max_position_embeddings": 24, "initializer_range": 0.3, "pad_token_id": 0},
        **{"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout, "num_labels": 3},
        **changed,
    }
    return cls(BertConfig(**config))


def dataset(rows=slice(None)):
    """Text, tokens and labels."""
    data = datasets.Dataset.from_dict({"text": TEXTS[rows], "labels": LABELS[rows]})
    return data.map(lambda batch: TOKENIZER(batch["text"], truncation=True), batched=True)
