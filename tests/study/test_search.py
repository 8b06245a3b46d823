"""What a search leaves for Optuna's own tools: names that people read, and the way to MLflow."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from kdexp import compose
from kdexp.cache import Cache
from kdexp.errors import PrunedError, UserError
from kdexp.study import search
from kdexp.study.launch import Job, Outcome
from kdexp.study.optuna_adapter import TrialReporter, storage
from kdexp.study.search import Choice, Interval, SearchSettings, baseline_space, run_search, search_plan
from kdexp.study.search_stage import baseline_key
from kdexp.tracking.store import StoredRun

SPACE = {"loss.alpha": Interval(0, 1), "loss": Choice(("kd", "dkd"))}


class FakeSweep:
    """A sweep whose jobs are answered at once: the third is pruned, the fourth refused before it has a run."""

    key, parent_id, base = "0" * 32, "parent", SimpleNamespace(study="my study")

    def __init__(self, root: Path, metric: str = "accuracy") -> None:
        self.cache, self.metric, self.number = Cache(root), metric, 0
        self.runs: dict[str, StoredRun] = {}

    def run(self, jobs: Sequence[Job], launch: object) -> list[Outcome]:
        return [self._outcome(job) for job in jobs]

    def _outcome(self, job: Job) -> Outcome:
        self.number += 1
        if self.number == 4:
            return Outcome(job, None, UserError("loss.alpha", "is odd", "take another"))
        tags = {"kdexp.primary_metric": self.metric}
        run_id = f"run{self.number}"
        self.runs[job.config_hash] = StoredRun(run_id, job.name, "FINISHED", 0, {}, {}, tags)
        if self.number == 3:
            return Outcome(job, None, PrunedError("below the median"))
        return Outcome(job, 0.5 + self.number / 100, None)

    def latest_run(self, job: Job) -> StoredRun | None:
        return self.runs.get(job.config_hash)


class FakeJob(Job):
    @property
    def config_hash(self) -> str:
        return self.name


def searched(
    sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch, num_trials: int = 5, space: dict | None = None
) -> optuna.Study:
    @contextmanager
    def open_sweep(*_: object):
        yield sweep

    monkeypatch.setattr(search, "open_sweep", open_sweep)
    settings = SearchSettings(num_trials, num_parallel=2, num_random=2, prune=True, confirm_seeds=(), seed=0)

    def compose(chosen: Sequence[str]) -> Job:
        return FakeJob(tuple(chosen), " ".join(chosen), None, None)

    run_search(space or SPACE, settings, compose, compose, lambda *_: [])
    return optuna.load_study(study_name=None, storage=storage(sweep.cache.root, sweep.key))


@pytest.mark.parametrize("metric", ["accuracy", "spearman"])
def test_the_study_says_what_it_is(tmp_path, monkeypatch, caplog, recwarn, metric) -> None:
    caplog.set_level("INFO")
    study = searched(FakeSweep(tmp_path, metric), monkeypatch)
    assert study.study_name == "my study: loss.alpha x loss"
    assert study.metric_names == [f"validation/{metric}"]
    assert study.user_attrs["mlflow_parent_run_id"] == "parent"
    runs = [trial.user_attrs.get("mlflow_run_id") for trial in study.trials]
    assert runs == ["run1", "run2", "run3", None, "run5"]
    assert f"Optuna's study 'my study: loss.alpha x loss' is kept in {storage(tmp_path, '0' * 32)}" in caplog.text
    assert not [warning for warning in recwarn if "experimental" in str(warning.message)]


def test_a_study_of_an_earlier_version_goes_on_under_its_name(tmp_path, monkeypatch) -> None:
    optuna.create_study(study_name="0" * 32, storage=storage(tmp_path, "0" * 32), direction="maximize")
    assert searched(FakeSweep(tmp_path), monkeypatch, 2).study_name == "0" * 32
    study = searched(FakeSweep(tmp_path), monkeypatch, 3)
    assert (study.study_name, len(study.trials)) == ("0" * 32, 3)


def test_a_trial_is_found_again_by_another_process(tmp_path, monkeypatch) -> None:
    study = searched(FakeSweep(tmp_path), monkeypatch, 1)
    trial = study.ask()
    TrialReporter(f"{'0' * 32}-{trial.number}", tmp_path)(0.7, step=10)
    assert study.trials[trial.number].intermediate_values == {1: 0.7}


def test_the_baseline_is_searched_as_often_over_the_settings_that_it_has(tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level("INFO")
    sweep = FakeSweep(tmp_path)
    space = SPACE | {"train.learning_rate": Interval(1e-4, 1e-2, log=True), "train.transfer_weight": Interval(0, 1)}
    assert list(baseline_space(space)) == ["train.learning_rate"]
    student = searched(sweep, monkeypatch, 5, space)
    baseline = optuna.load_study(study_name=None, storage=storage(tmp_path, baseline_key(sweep.key)))
    assert len(student.trials) == len(baseline.trials) == 5
    assert {tuple(trial.params) for trial in baseline.trials} == {("train.learning_rate",)}
    assert baseline.study_name == "my study, baseline: train.learning_rate"
    assert "baseline: best of 5 trials on validation: train.learning_rate=" in caplog.text


def test_a_baseline_without_such_settings_is_not_searched(tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level("INFO")
    sweep = FakeSweep(tmp_path)
    searched(sweep, monkeypatch)
    assert "baseline: has none of the settings that are searched" in caplog.text
    assert sweep.number == 5


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            ["baseline=false"],
            r"^baseline: is false, but a search compares the student with a baseline that is searched",
        ),
        (
            ["loss=ce"],
            r"^loss: has no teacher, so that the student is its own baseline; choose another, such as loss=kd",
        ),
        (
            ["seed=2"],
            r"confirm_seeds: has 2, with which the trials are trained: it would confirm its own luck; name other",
        ),
        (["tracking=none"], r"^tracking: is off"),
    ],
)
def test_a_search_that_shows_nothing_is_refused_before_it_begins(settings, line) -> None:
    def composed(chosen: Sequence[str]) -> Job:
        return Job(tuple(chosen), "", compose(*settings, *chosen), None)

    wished = SearchSettings(2, num_parallel=1, num_random=1, prune=True, confirm_seeds=(1, 2), seed=0)
    with pytest.raises(UserError, match=line):
        run_search({"train.epochs": Interval(1, 3, integer=True)}, wished, composed, composed, lambda *_: [])


def test_the_plan_tells_of_both() -> None:
    wished = SearchSettings(24, num_parallel=1, num_random=1, prune=True, confirm_seeds=(1, 2), seed=0)
    assert search_plan(SPACE | {"train.epochs": Interval(2, 6, integer=True)}, wished) == [
        "a search of 24 trials over loss.alpha, loss, train.epochs; as many of the baseline over train.epochs",
        "then the best of both, and what was set before, with seeds 1, 2",
    ]
