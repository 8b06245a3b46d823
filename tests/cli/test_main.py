"""The command line as a person meets it: help, composition, and one line for every mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
import yaml

from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.help import help_text


def refused(result) -> str:
    """The one line of a refusal: exit code 2, no traceback, nothing on standard output."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    return errors[0]


def test_help_names_every_option_and_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['kdexp', '--help']; from kdexp.cli.main import main; main();"
        "bad = {'torch', 'transformers', 'mlflow', 'hydra'} & set(sys.modules); assert not bad, bad"
    )
    started = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    # Ten times what it takes on two busy cores; the claim itself is measured, not timed here.
    assert time.perf_counter() - started < 10
    options = sorted(CONF_DIR.glob("[a-gi-ln-z]*/*.yaml"))  # all groups but hydra/ and model/
    assert options
    for path in options:
        assert path.stem in shown


@pytest.mark.parametrize("words", [["--help"], ["--info", "config"], ["--cfg", "job"]])
def test_a_reader_that_has_seen_enough_ends_it_quietly(words, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "kdexp", *words]
    done = subprocess.run(command, cwd=tmp_path, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) in [(141, ""), (-signal.SIGPIPE, "")]


def test_every_option_begins_with_its_purpose():
    for path in CONF_DIR.rglob("*.yaml"):
        assert path.read_text(encoding="utf-8").startswith("# "), path
    assert "Compact BERT from scratch" in help_text()


def test_cfg_job_shows_the_composed_config(kdexp):
    result = kdexp("teacher=roberta", "student=bert_tiny", "loss.alpha=0.25", "--cfg", "job")
    shown = yaml.safe_load(result.stdout)
    assert result.returncode == 0
    assert shown["teacher"]["family"] == "roberta"
    assert shown["student"]["checkpoint"] == "google/bert_uncased_L-2_H-128_A-2"
    assert re.fullmatch(r"[0-9a-f]{40}", shown["student"]["revision"])
    assert shown["loss"].items() >= {"name": "kd", "alpha": 0.25, "temperature": 2.0}.items()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["loss.alpha=1.5"], r"^error: loss.alpha: got 1.5; expected a number from 0 \(teacher only\) to 1"),
        (["teacher=gpt"], r"^error: teacher=gpt: no such option; expected one of albert, .*roberta"),
        (["loss.alpa=0.3"], r"^error: loss.alpa: no such setting; expected one of name, terms, alpha"),
        (["loss.alpha=0.1,0.2"], r"loss.alpha.*multirun"),
        (
            ["-m", "loss.alpha=interval(0,1)"],
            r"loss.alpha: cannot list every value of loss.alpha=interval\(0,1\); list",
        ),
        (
            ["experiment=search", "hydra.sweeper.search.num_trials=0"],
            r"hydra.sweeper.search.num_trials: got 0; expected a whole number of at least 1",
        ),
    ],
)
def test_a_mistake_is_told_in_one_line(kdexp, arguments, expected):
    """One of each way to be refused; `tests/cli/test_api.py` has the others."""
    assert re.search(expected, refused(kdexp(*arguments)))


def test_a_refusal_writes_no_run(kdexp, tmp_path):
    assert "task.train" in refused(kdexp("task=file", "task.train=nowhere.csv"))
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "has no config.json"),
        ({"config.json": {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2}}, "holds no weights"),
        (
            {
                "config.json": {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 2},
                "pytorch_model.bin": {},
            },
            r"as a pickle only \(pytorch_model.bin\)",
        ),
    ],
)
def test_checkpoint_folders_without_usable_weights(kdexp, tmp_path, files, expected):
    from kdexp.model.families import train_tokenizer

    folder = tmp_path / "checkpoint"
    folder.mkdir()
    if files:
        train_tokenizer("bert", ["a b c"] * 20, vocab_size=50, max_length=32).save_pretrained(folder)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    error = refused(kdexp(f"teacher.checkpoint={folder}", "teacher.max_length=32", "task.train_size=50"))
    assert error.startswith("error: teacher.checkpoint:")
    assert re.search(expected, error)


def test_no_network_for_a_hub_name_names_the_alternatives(kdexp):
    error = refused(kdexp("student=bert_tiny", "task.train_size=50"))
    assert "the hub does not answer" in error
    assert "student.checkpoint=<folder>" in error


def test_a_gpu_that_is_not_there(kdexp):
    assert "no CUDA GPU is visible" in refused(kdexp("hardware=gpu", CUDA_VISIBLE_DEVICES=""))


def test_a_cache_folder_that_cannot_be_one(kdexp, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert "cache_dir: cannot use" in refused(kdexp(f"cache_dir={tmp_path}/file"))


def test_an_output_folder_that_cannot_be_written(kdexp, tmp_path):
    (tmp_path / "multirun").write_text("in the way")
    error = refused(kdexp("task.train_size=50"))
    assert "hydra.run.dir" in error


def test_an_unreachable_server_fails_at_the_start(kdexp):
    started = time.perf_counter()
    error = refused(kdexp("tracking.uri=http://127.0.0.1:9", "task.train_size=50"))
    assert "tracking.uri: http://127.0.0.1:9 cannot be reached" in error
    assert time.perf_counter() - started < 60


@pytest.mark.parametrize("flag", [["--config-dir", "own"], ["--config-dir=own"], ["-cd", "own"]])
def test_help_lists_what_a_folder_adds(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (
        ("student/tiny.yaml", "# My smallest\nname: tiny"),
        ("mine/big.yaml", "# @package _global_\na: 1"),
    ):
        (tmp_path / "own" / name).parent.mkdir(parents=True)
        (tmp_path / "own" / name).write_text(text)
    shown = help_text([*flag, "--help"])
    assert "student=tiny  My smallest" in shown
    assert "+mine=big" in shown
