"""What docs/results/other_teachers.md is made from: a file of answers, a language model, and a server of it.

python tests/benchmarks/other_teachers.py scores <folder>        answers of a compact BERT, as files
python tests/benchmarks/other_teachers.py model <folder>         a compact GPT-2 that learned the word for each review
python tests/benchmarks/other_teachers.py serve <folder> <port>  that model behind a chat endpoint
python tests/benchmarks/other_teachers.py join <folder>          how long 100,000 rows take to be joined
"""

import json
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from kdexp import compose
from kdexp.cache import Cache
from kdexp.config import teacher_settings
from kdexp.hardware import prepare_hardware
from kdexp.task.load import Task, load_task
from kdexp.task.split import Split
from kdexp.teacher.base import Teacher
from kdexp.teacher.load import open_teacher

sys.path.insert(0, str(Path(__file__).parents[1] / "teacher"))
from compact_lm import byte_level_tokenizer, save, train, untrained

PROMPT = "{text}\nIn one word:"


def opened(folder: Path, *words: str) -> tuple[Task, Teacher]:
    config = compose(*words, "hardware=cpu", "hardware.num_threads=1", f"cache_dir={folder}/cache")
    cache = Cache(folder / "cache")
    task = load_task(config.task, cache)
    hardware = prepare_hardware(config.hardware)
    return task, open_teacher(teacher_settings(config), config.tokenization, task, None, cache, hardware)


def scores(folder: Path) -> None:
    task, teacher = opened(folder)
    teacher.prepare()
    tables = []
    for name in ("train", "validation", "test"):
        split: Split = getattr(task, name)
        table = pd.DataFrame(teacher.answer(split, name).answers.values.double().softmax(-1).numpy())
        table.columns = pd.Index([f"probability_{label}" for label in task.label_names])
        tables.append(table.assign(text=list(split.first)))
    shuffled = pd.concat(tables).sample(frac=1, random_state=0)
    shuffled.to_parquet(folder / "scores.parquet")
    shuffled.sample(frac=0.97, random_state=1).to_parquet(folder / "missing.parquet")
    top = shuffled.filter(like="probability_")
    best = pd.DataFrame({"text": shuffled["text"], "label": top.idxmax(axis=1), "sure": top.max(axis=1)})
    best["label"] = best["label"].str.removeprefix("probability_")
    best.to_csv(folder / "labels.csv", index=False)


def model(folder: Path) -> None:
    task, _ = opened(folder)
    words = [f" {task.label_names[label]}" for label in task.train.labels]
    prompts = [PROMPT.replace("{text}", text) for text in task.train.first]
    tokenizer = byte_level_tokenizer([f"{prompt}{word}" for prompt, word in zip(prompts, words, strict=True)], 800)
    made = untrained("gpt2", tokenizer, size=64)
    train(made, tokenizer, prompts, words, steps=1500)
    save(made, tokenizer, folder / "reviews-gpt2")


def serve(folder: Path, port: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "reviews-gpt2")
    made = AutoModelForCausalLM.from_pretrained(folder / "reviews-gpt2").eval()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            ids = tokenizer(body["messages"][-1]["content"], return_tensors="pt")["input_ids"]
            with torch.inference_mode():
                logs = made(input_ids=ids).logits[0, -1].log_softmax(-1)
            best = logs.topk(body.get("top_logprobs", 1))
            top = [
                {"token": tokenizer.decode([token]), "logprob": log}
                for log, token in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            text = (
                tokenizer.decode([int(torch.multinomial(logs.exp(), 1))]) if body["temperature"] else top[0]["token"]
            )
            choice = {
                "message": {"role": "assistant", "content": text},
                "logprobs": {"content": [{"top_logprobs": top}]},
            }
            usage = {"prompt_tokens": ids.shape[1], "completion_tokens": 1}
            data = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()


def join(folder: Path) -> None:
    sizes = ("task.train_size=100000", "task.transfer_size=0")
    task = load_task(compose(*sizes).task, Cache(folder / "cache"))
    draws = np.random.default_rng(0).dirichlet(np.ones(5), 103_000)
    texts = [text for name in ("train", "validation", "test") for text in getattr(task, name).first]
    table = pd.DataFrame(draws, columns=list(task.label_names)).assign(text=texts)
    table.sample(frac=0.97, random_state=0).to_parquet(folder / "large.parquet")
    for how in ("read and joined", "joined, read before"):
        started = time.perf_counter()
        asked, teacher = opened(folder, *sizes, "teacher=predictions", f"teacher.path={folder}/large.parquet")
        for name in ("train", "validation", "test"):
            teacher.answer(getattr(asked, name), name)
        sys.stdout.write(f"{how}: {time.perf_counter() - started:.1f} s\n")
    sys.stdout.write("\n".join(teacher.notices) + "\n")  # type: ignore[attr-defined]


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    Path(where).mkdir(parents=True, exist_ok=True)
    commands: dict[str, Callable[..., None]] = {"scores": scores, "model": model, "serve": serve, "join": join}
    commands[what](Path(where).absolute(), *rest)
