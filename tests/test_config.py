"""The settings classes by themselves: ranges beside the fields, defaults completed, nothing heavy loaded."""

import subprocess
import sys
from dataclasses import dataclass, fields, make_dataclass, replace
from typing import Any

import pytest

from kdexp.cli.config import SearchConfig
from kdexp.config import Config
from kdexp.errors import UserError
from kdexp.hardware import HardwareConfig
from kdexp.identity import config_hash
from kdexp.loss.base import CrossEntropy
from kdexp.ranges import Checked, established, later
from kdexp.student.config import StudentConfig
from kdexp.task.config import EmbeddedTaskConfig, FileTaskConfig, KindName, PublicTaskConfig, Quoting
from kdexp.teacher.config import EncoderTeacherConfig as TeacherConfig
from kdexp.tracking.config import TrackingConfig
from kdexp.training.config import StudentTrainConfig, TrainConfig

BERT = {"name": "bert", "family": "bert"}
SIZES = {"train_size": 10, "validation_size": 10, "test_size": 10, "transfer_size": 0}


def config(**settings) -> Config:
    return Config(
        **{
            "teacher": TeacherConfig(**BERT),
            "student": StudentConfig(**BERT),
            "task": EmbeddedTaskConfig(name="reviews", **SIZES, label_noise=0.0),
            "loss": CrossEntropy(),
            "hardware": HardwareConfig(),
            "train": StudentTrainConfig(),
            "tracking": TrackingConfig(),
            "cache_dir": "cache",
        }
        | settings
    )


@pytest.mark.parametrize(
    ("settings", "arguments", "line"),
    [
        (TeacherConfig, BERT | {"num_layers": 0}, "num_layers: got 0; expected a whole number of at least 1"),
        (StudentConfig, BERT | {"max_length": 7}, "max_length: got 7; expected a whole number of at least 8"),
        (StudentConfig, BERT | {"vocab_size": 299}, "vocab_size: got 299; expected a whole number of at least 300"),
        (StudentConfig, BERT | {"transplant": "x"}, "transplant: got x, but a compact model has no pretrained"),
        (StudentConfig, BERT | {"labels": ["a"]}, "labels: names the classes of a published head, but this"),
        (StudentConfig, BERT | {"checkpoint": "x", "num_heads": 2}, "num_heads: cannot be set for the checkpoint x"),
        (TeacherConfig, BERT | {"weight": 0.0}, "weight: got 0.0; expected a finite number above 0"),
        (
            TeacherConfig,
            BERT | {"cache_hidden": -1.0},
            "cache_hidden: got -1.0; expected a finite number of at least",
        ),
        (TeacherConfig, BERT | {"seed": -1}, "seed: got -1; expected a whole number from 0 to 4294967295"),
        (
            TeacherConfig,
            BERT | {"seed": 2**32},
            "seed: got 4294967296; expected a whole number from 0 to 4294967295",
        ),
        (EmbeddedTaskConfig, SIZES | {"name": "r", "label_noise": 0.0, "seed": 2**40}, "seed: got 1099511627776; exp"),
        (FileTaskConfig, {"name": "f", "train": "a", "text": "t", "label": "l", "seed": -1}, "seed: got -1; expected"),
        (SearchConfig, {"seed": 2**32}, "seed: got 4294967296; expected a whole number from 0 to 4294967295"),
        (SearchConfig, {"confirm_seeds": [1, -3]}, "confirm_seeds: got -3; expected a whole number from 0 to 4294"),
        (SearchConfig, {"num_trials": 0}, "num_trials: got 0; expected a whole number of at least 1"),
        (HardwareConfig, {"num_parallel": 0}, "num_parallel: got 0; expected a whole number of at least 1"),
        (TrainConfig, {"max_steps": 0}, "max_steps: got 0; expected a whole number of at least 1"),
        (TrainConfig, {"learning_rate": float("nan")}, "learning_rate: got nan; expected a finite number above 0"),
        (StudentTrainConfig, {"warmup_ratio": 1.1}, "warmup_ratio: got 1.1; expected a number from 0 to 1"),
        (StudentTrainConfig, {"weight_decay": -0.1}, "weight_decay: got -0.1; expected a finite number of at least 0"),
        (HardwareConfig, {"num_threads": 0}, "num_threads: got 0; expected a whole number of at least 1"),
        (HardwareConfig, {"num_workers": -1}, "num_workers: got -1; expected a whole number of at least 0"),
        (EmbeddedTaskConfig, SIZES | {"name": "reviews", "label_noise": 2.0}, "label_noise: got 2.0; expected a num"),
        (FileTaskConfig, {"name": "f", "train": "a", "text": "t", "label": "l", "test_size": 0}, "test_size: got 0"),
        (
            PublicTaskConfig,
            {"name": "p", "dataset": "d", "text": "t", "label": "l", "labels": ["a"], "validation_size": 0},
            "validation_size: got 0; expected a whole number of at least 1",
        ),
    ],
)
def test_a_constructor_names_its_own_argument(settings, arguments, line):
    with pytest.raises(UserError) as refused:
        settings(**arguments)
    assert str(refused.value).startswith(line)


def test_a_run_is_complete_once_it_is_made():
    made = config(more_teachers={"other": TeacherConfig(**BERT), "big": TeacherConfig(**BERT, checkpoint="x")})
    assert (made.teacher.hidden_size, made.teacher.train.epochs, made.teacher.train.learning_rate) == (64, 6, 2e-3)
    assert (made.student.hidden_size, made.train.epochs, made.train.learning_rate) == (24, 8, 3e-3)
    assert (made.more_teachers["other"].name, made.more_teachers["other"].hidden_size) == ("other", 64)
    assert (made.more_teachers["big"].hidden_size, made.more_teachers["big"].train.learning_rate) == (None, 5e-5)
    assert config_hash(replace(made)) == config_hash(made)


def test_the_parts_that_a_run_is_made_of_stay_as_they_are():
    teacher, schedule = TeacherConfig(**BERT), StudentTrainConfig()
    config(teacher=teacher, train=schedule)
    assert teacher.hidden_size is teacher.train.epochs is schedule.epochs is None


def test_groups_that_do_not_go_together():
    with pytest.raises(UserError, match="more_teachers: bert is the first teacher already"):
        config(more_teachers={"bert": TeacherConfig(**BERT)})
    with pytest.raises(UserError, match="study: is empty"):
        config(study=" ")
    with pytest.raises(UserError, match="seed: got -1"):
        config(seed=-1)


@pytest.mark.parametrize("module", ["kdexp", "kdexp.config", "kdexp.cli.help"])
def test_settings_and_help_load_nothing_heavy(module):
    program = (
        f"import sys, {module};"
        "bad = {'torch', 'transformers', 'datasets', 'mlflow', 'pandas', 'hydra', 'omegaconf'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_settings_that_came_later_leave_the_others_in_the_hash():
    """A file task at the defaults of what came later is the computation that it was before; what is None counts."""
    later = {"encoding": "latin-1", "quoting": Quoting.plain, "kind": KindName.multi_label, "subset_seed": 1,
             "primary_metric": "macro_f1", "separator": "|", "id": "n"}  # fmt: skip
    task = FileTaskConfig(name="file", train="nowhere.csv", text="text", label="label")

    def hash_without(*left_out: str) -> str:
        names = [item.name for item in fields(FileTaskConfig) if item.name not in left_out]
        earlier = make_dataclass("Earlier", names, kw_only=True)
        return config_hash(config(task=earlier(**{name: getattr(task, name) for name in names})))

    assert config_hash(config(task=task)) == hash_without(*later) != hash_without(*later, "labels")
    changed = [replace(task, **{name: value}) for name, value in later.items()]
    assert len({config_hash(config(task=each)) for each in (task, *changed)}) == len(later) + 1


def test_a_setting_that_came_later_counts_only_where_it_is_set() -> None:
    @dataclass(kw_only=True)
    class Before(Checked):
        size: int = 1

    @dataclass(kw_only=True)
    class Since(Before):
        weight: float = later(1.0)

    @dataclass(kw_only=True)
    class Whole(Checked):
        part: Any

    assert established(Since()) == established(Before()) == {"size": 1}
    assert established(Since(weight=2.0)) == {"size": 1, "weight": 2.0}
    assert established(Whole(part={"a": Since()})) == {"part": {"a": {"size": 1}}}
