"""Tab completion: the same as Hydra's where it answers itself, without the time that Hydra takes."""

import os
import subprocess
import sys

import pytest
from command_line import ROOT
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.bash_completion import BashCompletion
from hydra._internal.utils import create_config_search_path
from unmeasured import measured_environment

from kdexp import conf_dir
from kdexp.cli.completion import complete


def ask(line: str, shell: str = "bash") -> list[str]:
    """What a shell gets."""
    asked = subprocess.run(
        [sys.executable, "-m", "kdexp", "-sc", f"query={shell}"],
        env=os.environ | {"COMP_LINE": line, "PYTHONPATH": str(ROOT)} | measured_environment(from_start=True),
        capture_output=True,
        text=True,
        check=True,
    )
    return asked.stdout.split("\n" if shell == "fish" else None)


@pytest.mark.parametrize(
    ("line", "choices"),
    [
        ("kdexp te", ["teacher.", "teacher=", "terms="]),
        ("kdexp teacher=rob", ["teacher=roberta", "teacher=roberta_base", "teacher=roberta_large"]),
        ("kdexp more_teachers=electra", ["more_teachers=electra", "more_teachers=electra_small"]),
        ("kdexp loss.al", ["loss.alpha=", "loss.alpha_end="]),
        ("kdexp loss=ce loss.", ["loss.name=", "loss.terms."]),
        ("kdexp loss=dkd loss.nont", ["loss.nontarget_weight="]),
        ("kdexp -m loss=ce loss=jsd loss.b", ["loss.beta="]),
        ("kdexp task.tr", ["task.train_size=", "task.transfer=", "task.transfer_size="]),
        ("kdexp task=file task.tr", ["task.train=", "task.train_size=", "task.transfer="]),
        ("kdexp teacher.train.ep", ["teacher.train.epochs="]),
        ("kdexp train.select=", ["train.select=best", "train.select=last"]),
        ("kdexp teacher.finetune=t", ["teacher.finetune=true"]),
        ("kdexp loss=nope loss.al", None),
        ("kdexp nothing.", None),
        ("kdexp seed=3 seed=", ["seed=3"]),
        ("kdexp study=", []),
        ("kdexp nothing=", None),
        ("kdexp more_teachers=electra more_teachers.electra.fin", ["more_teachers.electra.finetune="]),
        ("kdexp export=[onnx_int8] export.onnx_int8.q", ["export.onnx_int8.quantization="]),
        ("kdexp task.train=./nowhere/x", []),
        ("kdexp hydra/launcher=j", ["hydra/launcher=joblib"]),
        ("kdexp hydra/sweeper=", None),
        ("kdexp +teacher@more_teachers.x=", None),
        ("kdexp loss.terms.", []),
        ("kdexp loss=tinybert loss.terms.", ["loss.terms.attention.", "loss.terms.hidden."]),
        ("kdexp 'terms=[rkd,hidden]' loss.terms.", ["loss.terms.hidden.", "loss.terms.rkd."]),
        ("kdexp terms=rkd loss.terms.rkd.we", ["loss.terms.rkd.weight=", "loss.terms.rkd.weight_end="]),
        ("kdexp terms.", None),
        ("kdexp controls=tu", ["controls=tuned"]),
        ("kdexp controls.", []),
        ("kdexp controls=tuned controls.", ["controls.tuned."]),
        ("kdexp controls=[tuned] controls.tuned.l", ["controls.tuned.learning_rates="]),
        ("kdexp --config-dir=mine teacher=", None),
    ],
)
def test_what_can_follow(line, choices):
    assert complete(line) == choices


def test_a_new_word_can_be_any_group_or_setting():
    choices = complete("kdexp teacher=roberta ")
    assert choices is not None
    assert {"student=", "student.", "loss=", "loss.", "seed=", "experiment="} <= set(choices)


def test_the_first_word_may_be_a_command_and_no_word_is_internal():
    first, later = complete("kdexp "), complete("kdexp seed=1 ")
    assert first is not None
    assert later is not None
    assert {"summary", "predict", "transplant"} == set(first) - set(later)
    assert complete("kdexp su") == ["summary"]
    assert not {"parent_run=", "trial=", "varied=", "condition."} & set(first)


def test_a_shell_gets_it_without_hydra():
    program = (
        "import sys; sys.argv = ['kdexp', '-sc', 'query=bash']; from kdexp.cli.main import main; main();"
        "bad = {'torch', 'hydra', 'omegaconf', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    environment = os.environ | {"COMP_LINE": "kdexp loss.temp"}
    asked = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert asked.stdout == "loss.temperature=\n"


@pytest.mark.parametrize("beginning", ["", "ro", "folder", "folder/", "nothing"])
def test_files_as_hydra_completes_them(tmp_path, beginning):
    (tmp_path / "rows.csv").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "more.csv").touch()
    line = f"task.train={tmp_path}/{beginning}"
    loader = ConfigLoaderImpl(create_config_search_path(conf_dir()))
    assert complete(f"kdexp {line}") == BashCompletion(loader)._query("config", line)


def test_what_it_leaves_open_hydra_answers():
    assert set(ask("kdexp hydra/sweeper=")) == {"hydra/sweeper=basic", "hydra/sweeper=kdexp"}
    assert set(ask("kdexp hydra.sweeper.par", "fish")) >= {"hydra.sweeper.params."}


@pytest.mark.parametrize(
    "line",
    [
        *("teacher=r", "loss.al", "loss=dkd loss.", "teacher.train.", "task=file task.tr", "train=", "tra", "seed="),
        *("loss.temperature=", "task.train_size=", "terms=rkd loss.terms.rkd.weight=", "hydra/launcher="),
    ],
)
def test_hydra_would_say_the_same(line):
    loader = ConfigLoaderImpl(create_config_search_path(conf_dir()))
    # It knows no commands of kdexp's.
    assert [choice for choice in complete(f"kdexp {line}") or [] if choice != "transplant"] == BashCompletion(
        loader
    )._query("config", line)
