"""A search through the real command line, and what such studies refuse; tests/reference runs cross_family."""

import os

import optuna
import pytest
from command_line import SMALL

from kdexp.study.search_stage import baseline_key
from kdexp.tracking.store import Study

pytestmark = [pytest.mark.slow, pytest.mark.measured]

QUICK = (*SMALL, "tracking.log_model=false")


def parent_of(study):
    (parent,) = [run for run in study.runs() if "kdexp.sweep_key" in run.tags]
    return parent


@pytest.mark.usefixtures("empty_store")
def test_a_search_prunes_confirms_and_continues(kdexp, tmp_path):
    settings = ("experiment=search", *QUICK, "train.epochs=range(2,4)", "hydra.sweeper.search.num_random=2")
    first = kdexp(*settings, "hydra.sweeper.search.num_trials=1", "hydra.sweeper.search.confirm_seeds=[]")
    assert first.returncode == 0, first.stderr
    second = kdexp(*settings, "hydra.sweeper.search.num_trials=3", "hydra.sweeper.search.confirm_seeds=[1,2]")
    assert second.returncode == 0, second.stderr
    assert "continues a search; trials so far: 1" in second.stderr
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "search")
    children = study.runs(parent=parent_of(study).run_id)
    own_key, other_key = parent_of(study).sweep_key, baseline_key(parent_of(study).sweep_key)
    trials = [run for run in children if run.params.get("trial", "").startswith(own_key)]
    others = [run for run in children if run.params.get("trial", "").startswith(other_key)]
    trained = [run for run in children if "trial" not in run.params]
    assert len(trials) == len(others) == 3
    assert len({run.config_hash for run in trials}) == 3  # no point is proposed twice
    assert all(run.params["loss.name"] == "ce" and "kd/gain" not in run.metrics for run in others)
    assert not any("kd/gain" in run.metrics for run in trials)
    # Of the best student, of what was set before, and of the best baseline.
    seeds = [(run.params["baseline"], run.params["seed"]) for run in trained]
    assert sorted(seeds) == [("False", "1"), ("False", "2"), *[("True", seed) for seed in "1122"]]

    for key, runs in ((own_key, trials), (other_key, others)):
        database = tmp_path / "cache" / "searches" / f"{key}.db"
        assert f"is kept in sqlite:///{database}" in first.stderr
        kept = optuna.load_study(study_name=None, storage=f"sqlite:///{database}")
        assert kept.study_name.startswith("search")
        assert kept.metric_names == ["validation/accuracy"]
        assert {trial.user_attrs["mlflow_run_id"] for trial in kept.trials} == {run.run_id for run in runs}
        states = [trial.state.name for trial in kept.trials]
        assert states.count("PRUNED") == sum("kdexp.pruned" in run.tags for run in runs)
        best = max(run.metrics["validation/accuracy"] for run in runs if run.status == "FINISHED")
        assert kept.best_value == pytest.approx(best)
    assert "Gain at equal tuning, both searched and both confirmed" in second.stdout
    assert "best/gain_searched" in parent_of(study).metrics


def test_what_cannot_be_searched_is_refused(kdexp, tmp_path):
    result = kdexp("experiment=search", *QUICK, "loss.alpha=range(0,1,0.1)")
    assert result.returncode == 2
    assert "loss.alpha: cannot search" in result.stderr
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["families=[bert]"], "families: got"),
        (["families=[bert,gpt]"], "student=gpt: no such option"),
        (["cross_family.teachers={xlm_roberta:somewhere}"], "cross_family.teachers: got"),
        (["cross_family.margin=0"], "cross_family.margin: got 0"),
        (["tracking=none", "seed=0"], "remove tracking=none"),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(settings, words, kdexp, tmp_path):
    result = kdexp("experiment=cross_family", *settings)
    assert result.returncode == 2, os.linesep.join([result.stdout, result.stderr])
    assert words in result.stderr
    assert not (tmp_path / "mlflow.db").exists()
