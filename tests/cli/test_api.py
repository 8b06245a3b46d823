"""A whole run from Python: composed as on the command line, with nothing global touched."""

import re

import hydra
import pytest
from command_line import SMALL
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

import kdexp
from kdexp import compose, conf_dir, resolve
from kdexp.errors import UserError


def test_what_is_composed_is_complete_and_in_range():
    config = compose("teacher=roberta", "loss.alpha=0.25", "more_teachers=[electra]")
    assert (config.teacher.name, config.loss.alpha, list(config.more_teachers)) == ("roberta", 0.25, ["electra"])
    assert config.train.epochs == 8


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["teacher=[bert,roberta]"], "teacher: got a list of options, which would be merged into one"),
        (["~loss"], "loss: got a list of options, which would be merged into one, or none at all; choose one"),
        (["loss.alpha=0.1,0.2"], "loss.alpha: got several values, 0.1,0.2; compare them with -m"),
        (["student=null"], "student: got null; expected one of albert"),
        (["baseline=7"], "baseline: got 7; expected true or false"),
        (["teacher.chance_check=2.5"], "teacher.chance_check: got 2.5; expected true or false"),
        (["alpha"], "command line: got 'alpha'; expected setting=value, such as seed=1"),
        (
            ["experiment=alpha_temperature", "seed=1"],
            "experiment=alpha_temperature: is many runs, and one config holds one; "
            "run it on the command line: python -m kdexp experiment=alpha_temperature seed=1",
        ),
        (["experiment=search"], "experiment=search: is many runs"),
    ],
)
def test_a_mistake_is_told_in_one_line(overrides, line):
    with pytest.raises(UserError) as refused:
        compose(*overrides)
    assert str(refused.value).startswith(line)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["teacher=gpt"], r"teacher=gpt: no such option; expected one of albert, .*roberta"),
        (["loss.alpa=0.3"], r"loss.alpa: no such setting; expected one of name, terms, alpha, alpha_end, temperature"),
        (["loss.alpha=high"], r"loss.alpha: got 'high'; expected a number"),
        (["train.epochs=2.5"], r"train.epochs: got '2.5'; expected a whole number"),
        (["tokenization=theirs"], r"tokenization: got 'theirs'; expected one of .*own, student_ids"),
        (["loss=ce", "loss.alpha=0.5"], r"loss.alpha: no such setting"),
        (
            ["terms=[rkd]", "loss.terms.rkd.alignment=words"],
            r"loss.terms.rkd.alignment: no such setting; expected one of weight, weight_end, layers, pooling$",
        ),
        (
            ["terms=[hidden]", "loss.terms.hidden.pooling=mean"],
            r"loss.terms.hidden.pooling: no such setting; expected one of weight, weight_end, layers, alignment$",
        ),
        (["terms=[rkd]", "loss.terms.rkd.weight=-1"], r"loss.terms.rkd.weight: got -1.0; expected a finite number"),
        (["terms=[rkd]", "loss.terms.rkd.layers=first"], r"loss.terms.rkd.layers: got first; expected uniform, last"),
        (["loss.terms.rkd.weight=1"], r"loss.terms.rkd: the loss has no such term; add it with 'terms=\[rkd\]'"),
        (["+loss.terms.rkd.weight=1"], r"loss.terms.rkd: is not declared; add it with 'terms=\[rkd\]'"),
        (["+loss.terms.fitnet.weight=1"], r"loss.terms.fitnet: no such term; expected one of pkd, rkd"),
        (["task=sst2", "task.label_noise=0.1"], r"task.label_noise: no such setting"),
        (["+loss.x=1"], r"loss.x: no such setting; expected one of name, terms, alpha, alpha_end, temperature"),
        (["task=file"], r"task.train: is not set"),
        (["loss.alpha=1.5"], r"loss.alpha: got 1.5; expected a number from 0 \(teacher only\) to 1"),
        (["loss.alpha=nan"], r"loss.alpha: got nan"),
        (["loss.temperature=0"], r"loss.temperature: got 0.0; expected a finite number above 0"),
        (["loss.temperature=nan"], r"loss.temperature: got nan"),
        (["train.batch_size=0"], r"train.batch_size: got 0; expected a whole number of at least 1"),
        (["student.num_layers=0"], r"student.num_layers: got 0"),
        (["task.label_noise=2"], r"task.label_noise: got 2.0"),
        (
            ["student.checkpoint=x/y", "student.hidden_size=8"],
            r"student.hidden_size: cannot be set for the checkpoint",
        ),
        (["teacher.labels=[a,b]"], r"teacher.labels: names the classes of a published head"),
        (["study=''"], r"study: is empty"),
        (["train.keep=last"], r"^train.keep: was renamed; use train.select=best$"),
        (["+teacher.train.keep=best"], r"^teacher.train.keep: was renamed; use train.select=best$"),
        (
            ["more_teachers=[roberta]", "more_teachers.roberta.train.epochs=0"],
            r"more_teachers.roberta.train.epochs: got 0; expected a whole number of at least 1",
        ),
    ],
)
def test_a_setting_that_is_none_or_out_of_range_is_told_in_one_line(overrides, expected):
    with pytest.raises(UserError) as refused:
        compose(*overrides)
    assert re.search(expected, str(refused.value))
    assert "\n" not in str(refused.value)


def test_hydras_own_state_stays_as_it_was():
    version = VersionBase.instance().version_base
    assert compose("seed=3") == compose("seed=3")
    assert not GlobalHydra.instance().is_initialized()
    assert VersionBase.instance().version_base is version


def test_hydras_own_compose_works_beside_it():
    overrides = ["student=distilbert", "loss.temperature=3"]
    with hydra.initialize_config_dir(conf_dir(), version_base="1.3"):
        before = GlobalHydra.instance().hydra
        assert resolve(hydra.compose("config", overrides)) == compose(*overrides)
        assert GlobalHydra.instance().hydra is before


def test_every_public_name_is_there():
    assert all(getattr(kdexp, name) for name in kdexp.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = kdexp.nothing


PROGRAM = """
import logging, os, signal, sys
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
from kdexp import compose, distil
config = compose(*sys.argv[1:])
first, second = distil(config), distil(config)
assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
assert not logging.getLogger().handlers and not logging.getLogger("kdexp").handlers
assert not os.path.exists("multirun")
from hydra.core.global_hydra import GlobalHydra
assert not GlobalHydra.instance().is_initialized()
"""


@pytest.mark.slow
def test_a_run_and_the_same_run_again(tmp_path, kdexp):
    """Twice in one process, as in a notebook, and then by the command line, which finds all of it in the cache."""
    settings = [*SMALL, "tracking=mlflow", f"cache_dir={tmp_path}/cache"]
    program = kdexp("-c", PROGRAM, *settings)
    assert program.returncode == 0, program.stderr
    assert (tmp_path / "mlflow.db").exists()
    result = kdexp(*settings)
    assert result.returncode == 0, result.stderr
    assert "student bert: kept from an earlier run" in result.stderr


def test_numbers_are_taught_by_their_squared_difference_unless_a_loss_is_chosen():
    assert kdexp.compose("task=stsb").loss.name == "mse"
    assert kdexp.compose("task=stsb", "loss.alpha=0.5").loss.alpha == 0.5
    assert kdexp.compose("loss=huber", "task=stsb").loss.name == "huber"
    words = ("task=file", "task.kind=regression", "task.train=nowhere.csv")
    assert (compose(*words).loss.name, compose(*words).loss.centered) == ("mse", False)
    assert compose(*words, "loss=huber").loss.name == "huber"
    assert compose("task=stsb").loss.name == "mse"  # a public task brings its kind
    several = compose("task=file", "task.kind=multi_label", "task.train=nowhere.csv", "loss=mse").loss
    assert (several.centered, compose("loss=mse").loss.centered) == (False, True)
    assert compose("task=file", "task.kind=multi_label", "task.train=nowhere.csv").loss.name == "kd"


def test_a_list_in_the_place_of_words_is_told():
    with pytest.raises(TypeError, match=r"compose takes words, .* got a list: write \*words"):
        compose(["loss.alpha=0.3"])
