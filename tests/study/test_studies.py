"""The ready-made studies beyond a grid, through the real command line: search and cross_family."""

import io
import os

import optuna
import pandas as pd
import pytest
from command_line import SMALL

from kdexp.tracking.store import Study

pytestmark = pytest.mark.slow

QUICK = (*SMALL, "tracking.log_model=false")


def parent_of(study):
    (parent,) = [run for run in study.runs() if "kdexp.sweep_key" in run.tags]
    return parent


@pytest.mark.usefixtures("empty_store")
def test_a_search_prunes_confirms_and_continues(kdexp, tmp_path):
    settings = ("experiment=search", *QUICK, "train.epochs=range(2,4)", "hydra.sweeper.search.num_random=4")
    first = kdexp(*settings, "hydra.sweeper.search.num_trials=4", "hydra.sweeper.search.confirm_seeds=[]")
    assert first.returncode == 0, first.stderr
    second = kdexp(*settings, "hydra.sweeper.search.num_trials=7", "hydra.sweeper.search.confirm_seeds=[1,2]")
    assert second.returncode == 0, second.stderr
    assert "continues a search of 4 trials" in second.stderr
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "search")
    children = study.runs(parent=parent_of(study).run_id)
    trials = [run for run in children if "trial" in run.params]
    confirmed = [run for run in children if "trial" not in run.params]
    assert len(trials) == 7
    assert len({run.config_hash for run in trials}) == 7  # no point is proposed twice
    assert sorted(run.params["seed"] for run in confirmed) == ["1", "2"]
    assert all("kd/gain" in run.metrics for run in confirmed)
    assert not any("kd/gain" in run.metrics for run in trials)

    (database,) = (tmp_path / "cache" / "searches").glob("*.db")
    assert f"is kept in sqlite:///{database}" in first.stderr
    kept = optuna.load_study(study_name=None, storage=f"sqlite:///{database}")
    assert kept.study_name.startswith("search: ")
    assert kept.metric_names == ["validation/accuracy"]
    assert {trial.user_attrs["mlflow_run_id"] for trial in kept.trials} == {run.run_id for run in trials}
    states = [trial.state.name for trial in kept.trials]
    assert states.count("PRUNED") == sum("kdexp.pruned" in run.tags for run in trials)
    best = max(run.metrics["validation/accuracy"] for run in trials if run.status == "FINISHED")
    assert kept.best_value == pytest.approx(best)
    chosen = next(run for run in trials if run.metrics.get("validation/accuracy") == best)
    # What is reported is the confirmed setting, over the seeds that did not choose it.
    assert {run.params["loss.alpha"] for run in confirmed} <= {
        run.params["loss.alpha"] for run in trials if run.metrics.get("validation/accuracy") == best
    } | {chosen.params["loss.alpha"]}
    assert "2 seeds" in second.stdout


def test_what_cannot_be_searched_is_refused(kdexp, tmp_path):
    result = kdexp("experiment=search", *QUICK, "loss.alpha=range(0,1,0.1)")
    assert result.returncode == 2
    assert "loss.alpha: cannot search" in result.stderr
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.usefixtures("empty_store")
def test_a_cross_family_study_from_end_to_end(kdexp, tmp_path):
    result = kdexp("experiment=cross_family", *QUICK, "seed=0,1", "teacher.vocab_size=2000", "student.vocab_size=500")
    assert result.returncode == 0, result.stderr
    assert "Crossing families, with logits only" in result.stdout
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "cross_family")
    parent = parent_of(study)
    children = study.runs(parent=parent.run_id)
    # Two same-family pairs with two conditions, two cross-family pairs with four, two seeds each.
    assert len(children) == (2 * 2 + 2 * 4) * 2
    for run in children:
        is_cross = run.params["teacher.family"] != run.params["student.family"]
        assert run.tags["kdexp.pairing"] == ("cross-family" if is_cross else "same-family")
        assert run.tags["kdexp.tokenization"] == ("student-ids" if "student_ids" in run.params["condition"] else "own")
        position = "position" if run.params["condition"] == "hidden_position" else None
        assert position is None or run.tags["kdexp.alignment"] == position
    report = study.text_artifact(parent.run_id, "cross_family/report.html")
    assert "May families be crossed?" in report
    assert "data:image/svg+xml;base64," in report
    comparisons = pd.read_csv(io.StringIO(study.text_artifact(parent.run_id, "cross_family/comparisons.csv")))
    assert len(comparisons) == 12 + 2 + 2 * 3 + 2  # gains; crossing; conditions of cross and of same pairs
    assert "kdexp.verdict.crossing" in study.runs(sweep_key=parent.tags["kdexp.sweep_key"])[0].tags

    again = kdexp("experiment=cross_family", *QUICK, "seed=0,1", "teacher.vocab_size=2000", "student.vocab_size=500")
    assert "24 of 24 jobs are finished already" in again.stderr


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
