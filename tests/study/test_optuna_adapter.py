"""A trial is opened again by what runs it, in another process: Optuna does not promise that it can be."""

from pathlib import Path

import optuna
import pytest

from kdexp.errors import PrunedError
from kdexp.study.optuna_adapter import TrialReporter, pruner, storage, trial_name


def new_search(cache: Path, *, prune: bool) -> optuna.Study:
    study = optuna.create_study(
        study_name="search-1", storage=storage(cache, "search-1"), direction="maximize", pruner=pruner(prune)
    )
    study.set_user_attr("prune", prune)
    return study


def test_what_a_trial_reports_is_seen_by_the_search(tmp_path: Path) -> None:
    study = new_search(tmp_path, prune=True)
    first, second = study.ask(), study.ask()
    reporter = TrialReporter(trial_name("search-1", second.number), tmp_path)
    reporter(0.5, 10)
    reporter(0.625, 20)
    reported = [trial.intermediate_values for trial in study.get_trials()]
    assert reported == [{}, {1: 0.5, 2: 0.625}]
    assert first.number == 0


@pytest.mark.parametrize("prune", [True, False])
def test_a_trial_below_the_median_is_stopped_where_the_search_prunes(prune: bool, tmp_path: Path) -> None:
    study = new_search(tmp_path, prune=prune)
    for value in (0.7, 0.8, 0.9, 0.8):  # of four trials none is stopped
        trial = study.ask()
        reporter = TrialReporter(trial_name("search-1", trial.number), tmp_path)
        for epoch in range(3):
            reporter(value, epoch)
        study.tell(trial, value)
    hopeless = TrialReporter(trial_name("search-1", study.ask().number), tmp_path)
    if prune:
        with pytest.raises(PrunedError, match=r"epoch 1: 0\.1000 on validation is below the median"):
            hopeless(0.1, 1)
    else:
        hopeless(0.1, 1)
    TrialReporter(trial_name("search-1", study.ask().number), tmp_path)(0.85, 1)
