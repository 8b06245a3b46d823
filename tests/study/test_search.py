"""What a search leaves for Optuna's own tools: names that people read, and the way to MLflow."""

from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest

from kdexp.cache import Cache
from kdexp.errors import PrunedError, UserError
from kdexp.study import search
from kdexp.study.launch import Job, Outcome
from kdexp.study.optuna_adapter import TrialReporter, storage
from kdexp.study.search import Choice, Interval, SearchSettings, run_search
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


def searched(sweep: FakeSweep, monkeypatch: pytest.MonkeyPatch, num_trials: int = 5) -> optuna.Study:
    @contextmanager
    def open_sweep(*_: object):
        yield sweep

    monkeypatch.setattr(search, "open_sweep", open_sweep)
    settings = SearchSettings(num_trials, num_parallel=2, num_random=2, prune=True, confirm_seeds=(), seed=0)
    run_search(SPACE, settings, lambda chosen: FakeJob(tuple(chosen), " ".join(chosen), None, None), lambda *_: [])
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
