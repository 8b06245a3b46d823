"""What lies beside an exported graph, and is enough to use it: the tokenizer and the student's settings."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

TOKENIZER_FILE = "tokenizer.json"
SETTINGS_FILE = "student.json"


def write_tokenizer(tokenizer: PreTrainedTokenizerBase, max_length: int, folder: Path) -> None:
    """Write a tokenizer as the library tokenizers reads it, which then cuts and pads as the student was trained."""
    own = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    own.enable_truncation(max_length, direction=tokenizer.truncation_side)
    own.enable_padding(
        direction=tokenizer.padding_side,
        pad_id=tokenizer.pad_token_id,
        pad_type_id=tokenizer.pad_token_type_id,
        pad_token=tokenizer.pad_token,
    )
    own.save(str(folder / TOKENIZER_FILE))
