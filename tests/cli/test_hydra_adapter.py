"""What kdexp uses of Hydra and OmegaConf without their promise: each fails here when a release moves it."""

import copy
import sys

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf.errors import OmegaConfBaseException

from kdexp.cli import hydra_adapter
from kdexp.cli.conf_dir import CONF_DIR
from kdexp.cli.explain import explain
from kdexp.cli.sweeper import KdexpSweeper, _combinations, register
from kdexp.errors import UserError


def composed(*overrides: str):
    register()
    return hydra_adapter.compose(CONF_DIR, "config", overrides)


def test_a_sweeper_of_this_package_is_found_under_hydras_name():
    register()
    register()
    assert Plugins.instance().discover(Sweeper).count(KdexpSweeper) == 1
    config = composed("hydra.mode=MULTIRUN")
    assert config.hydra.sweeper._target_ == "hydra_plugins.kdexp.KdexpSweeper"
    assert Plugins.instance().class_name_to_class[config.hydra.sweeper._target_] is KdexpSweeper
    assert sys.modules["hydra_plugins.kdexp"].KdexpSweeper is KdexpSweeper


def test_hydras_own_settings_come_with_what_is_composed():
    config = composed("teacher=roberta", "experiment=search")
    assert config.hydra.runtime.choices["teacher"] == "roberta"
    assert config.hydra.mode == RunMode.MULTIRUN
    assert composed().hydra.mode != RunMode.MULTIRUN
    assert "teacher" not in composed("teacher=[bert,roberta]").hydra.runtime.choices


def test_types_are_shared_and_what_is_composed_is_not():
    first = composed()
    assert copy.deepcopy(ConfigStore.instance()) is ConfigStore.instance()
    first.loss.alpha, first.teacher.train.epochs = 0.9, 77
    assert (composed().loss.alpha, composed().teacher.train.epochs) == (0.3, None)


def test_a_command_is_composed_once_where_its_flags_alone_say_what_it_is(command, monkeypatch):
    compositions = []
    load = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(
        ConfigLoaderImpl,
        "load_configuration",
        lambda *values, **named: compositions.append(1) or load(*values, **named),
    )
    assert "loss.alpha: got 7.0" in command("loss.alpha=7").refusal
    assert len(compositions) == 1


@pytest.mark.parametrize("words", [["-m"], ["hydra.mode=MULTIRUN"], ["--config-dir", "own", "+mine=many"]])
def test_flags_settings_and_a_persons_own_config_make_a_sweep_of_it(words, command, tmp_path):
    (tmp_path / "own" / "mine").mkdir(parents=True)
    (tmp_path / "own" / "mine" / "many.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    assert command(*words, "loss.alpha=2,3").refusal.startswith("error: loss.alpha: got 2.0")
    assert "several values" in command("loss.alpha=2,3").refusal


def test_what_a_job_returned_or_raised():
    failure = ValueError("no")
    assert hydra_adapter.returned(JobReturn(status=JobStatus.COMPLETED, _return_value=0.5)) == 0.5
    assert hydra_adapter.returned(JobReturn(status=JobStatus.FAILED, _return_value=failure)) is failure


def test_combinations_are_those_that_hydras_own_sweeper_makes():
    lines = ["loss.alpha=0.1,0.5", "seed=range(0,2)", "train.epochs=3", "task.text=[a,b],c", "study='a b','c'"]
    overrides = OverridesParser.create().parse_overrides(lines)
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    (expected,) = BasicSweeper.split_arguments(overrides, None)
    assert [list(combination) for combination in _combinations(overrides)] == expected
    with pytest.raises(UserError, match=r"loss.alpha: cannot list every value of loss.alpha=interval\(0,1\)"):
        _combinations(OverridesParser.create().parse_overrides(["loss.alpha=interval(0,1)"]))


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        # Attributes of Hydra's and OmegaConf's exceptions, and where there is none, their words.
        (["teacher=gpt"], "teacher=gpt: no such option; expected one of albert"),
        (["terms=[gpt]"], "terms=gpt: no such option; expected one of attention, cka"),
        (["+nothing@x=y"], "command line: Override +nothing@x=y looks like a config group override"),
        (["nothing=y"], "nothing: no such setting; expected one of teacher"),
        (["experiment=cross_family", "~nothing"], "~nothing: no such setting; see --cfg job"),
        (["loss.alpha=0.1,0.2"], "loss.alpha: got several values, 0.1,0.2; compare them with -m"),
        (["train.epochs=2.5"], "train.epochs: got '2.5'; expected a whole number"),
        (["loss.alpha=high"], "loss.alpha: got 'high'; expected a number"),
        (["baseline=perhaps"], "baseline: got 'perhaps'; expected true or false"),
        (["tokenization=theirs"], "tokenization: got 'theirs'; expected one of own, student_ids"),
        (["seed=null"], "seed: got null; expected a whole number"),
        (["families=3"], "families: got a value of type int; expected a list"),
        (["loss.terms=3"], "loss.terms: got a value of type int; expected terms by name: 'terms=[rkd,hidden]'"),
        (["train.epoch=2"], "train.epoch: no such setting; expected one of epochs, max_steps"),
        (["loss.terms.rkd.weight=1"], "loss.terms.rkd: the loss has no such term; add it with 'terms=[rkd]'"),
    ],
)
def test_refusals_are_explained(overrides, line):
    with pytest.raises((HydraException, OmegaConfBaseException)) as refused:
        composed(*overrides)
    assert str(explain(refused.value)).startswith(line)
