"""What a search and its trials, which run in other processes, share of Optuna.

Optuna documents no way to open a trial again in another process: what `TrialReporter` uses instead is private, and a
test fails when a release moves it.
"""

import warnings
from pathlib import Path

import optuna
from sqlalchemy import URL

from kdexp.errors import PrunedError

_MAX_NAME_CHARACTERS = 500  # Optuna's tables take 512


def storage(cache_dir: Path, key: str) -> str:
    """Where the search of this key is kept."""
    folder = cache_dir / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    return URL.create("sqlite", database=str(folder / f"{key}.db")).render_as_string()


def study_name(storage: str, wished: str) -> str:
    """What the one study of a storage is called: as it was called when it began, else as wished."""
    return next(iter(optuna.get_all_study_names(storage)), wished[:_MAX_NAME_CHARACTERS])


def name_metric(study: optuna.Study, name: str) -> None:
    """Say what the values of the trials are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if study.metric_names is None:
            study.set_metric_names([name])


def pruner(prune: bool) -> optuna.pruners.BasePruner:
    """What tells a hopeless trial, once four are done."""
    return optuna.pruners.MedianPruner(n_startup_trials=4) if prune else optuna.pruners.NopPruner()


def trial_name(key: str, number: int) -> str:
    """What a job knows its trial by."""
    return f"{key}-{number}"


class TrialReporter:
    """Tells Optuna how a trial goes, and stops the training where it is hopeless.

    Args:
        trial: As `trial_name` gives it.
    """

    def __init__(self, trial: str, cache_dir: Path) -> None:
        key, _, number = trial.rpartition("-")
        # Without a name: it is the only one there.
        study = optuna.load_study(study_name=None, storage=storage(cache_dir, key), pruner=pruner(True))
        stored = study.get_trials(deepcopy=False)[int(number)]
        self._trial = optuna.trial.Trial(study, stored._trial_id)
        self._prunes = study.user_attrs["prune"]
        self._epoch = 0

    def __call__(self, value: float, step: int) -> None:
        """Take the primary metric on validation after an epoch; larger is better.

        Raises:
            PrunedError: The trial is worse than the median of the others at this epoch.
        """
        self._epoch += 1
        self._trial.report(value, self._epoch)
        if self._prunes and self._trial.should_prune():
            raise PrunedError(f"epoch {self._epoch}: {value:.4f} on validation is below the median")
