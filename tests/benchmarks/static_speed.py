"""How many texts a second a static student answers on one core, tokenizing included.

    python tests/benchmarks/static_speed.py [folder of a saved student] [file with a text a line]

The student may be any that kdexp trained, for comparison; without one, a static student of random weights is made for
generated reviews. One thread; texts are sorted by length within what is tokenized at once. Both clocks are shown: on a
machine that does other things too, only the processor's tells what the work takes.
"""

import os

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging

from kdexp.cache import Cache
from kdexp.cli.api import compose
from kdexp.model.forward import accepted_inputs
from kdexp.student.load import load_student
from kdexp.task.embedded.reviews import generate_splits
from kdexp.task.load import load_task

NUM_TEXTS = 20_000
TOKENIZED_AT_ONCE = 2048
BATCH_SIZE = 128


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if len(arguments) > 1:
        texts = Path(arguments[1]).read_text(encoding="utf-8").splitlines()
    else:
        texts = [text for text, _ in generate_splits({"test": NUM_TEXTS}, seed=1, label_noise=0.0)["test"]]
    texts = (texts * (NUM_TEXTS // len(texts) + 1))[:NUM_TEXTS]
    with TemporaryDirectory() as scratch:
        folder = arguments[0] if arguments else _made(Path(scratch))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    _answer(model, tokenizer, texts[:BATCH_SIZE])
    wall, processor = time.perf_counter(), time.process_time()
    num_tokens = _answer(model, tokenizer, texts)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    sys.stdout.write(
        f"{type(model).__name__}: {len(texts):,} texts of {num_tokens / len(texts):.1f} tokens, one thread: "
        f"{len(texts) / processor:,.0f} texts a second of processor time ({len(texts) / wall:,.0f} by the clock)\n"
    )


def _made(scratch: Path) -> Path:
    config = compose("student=static", "student.vocab_size=8000", "tracking=none")
    cache = Cache(scratch / "cache")
    load_student(config.student, load_task(config.task, cache), cache, seed=0).save(scratch / "student")
    return scratch / "student"


@torch.inference_mode()
def _answer(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> int:
    """Answer all texts; return how many tokens they had."""
    num_tokens = 0
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        rows = tokenizer(texts[start : start + TOKENIZED_AT_ONCE], truncation=True, max_length=128)["input_ids"]
        rows = sorted(rows, key=len, reverse=True)
        num_tokens += sum(map(len, rows))
        for first in range(0, len(rows), BATCH_SIZE):
            batch = rows[first : first + BATCH_SIZE]
            padded = [row + [0] * (len(batch[0]) - len(row)) for row in batch]
            mask = [[1] * len(row) + [0] * (len(batch[0]) - len(row)) for row in batch]
            inputs = {"input_ids": torch.tensor(padded), "attention_mask": torch.tensor(mask)}
            model(**accepted_inputs(model, inputs)).logits.argmax(-1)
    return num_tokens


if __name__ == "__main__":
    main(sys.argv[1:])
