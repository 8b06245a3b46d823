"""What a search and its trials, which run in other processes, share of Optuna.

Optuna documents no way to open a trial again in another process: what `TrialReporter` uses instead is private, and a
test fails when a release moves it.
"""

from pathlib import Path

import optuna
from sqlalchemy import URL

from kdexp.errors import PrunedError


def storage(cache_dir: Path, key: str) -> str:
    """Where the search of this key is kept."""
    folder = cache_dir / "searches"
    folder.mkdir(parents=True, exist_ok=True)
    return URL.create("sqlite", database=str(folder / f"{key}.db")).render_as_string()


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
        study = optuna.load_study(study_name=key, storage=storage(cache_dir, key), pruner=pruner(True))
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
