"""A sweep holds one state of the data, and counts every setting and seed once."""

import pytest

from kdexp.errors import UserError
from kdexp.study.summary.counted import count
from kdexp.study.summary.settings import summarize_study
from kdexp.tracking.store import StoredRun

SEEDS = {"swept": ["seed"], "varied": [["seed=0"], ["seed=1"]]}


def own(*settings):
    return ("task=file", "task.train=train.csv", "task.text=text", "task.label=label", *settings)


def seeds(summary):
    return summary.table["seeds"].tolist()


def test_edited_data_begin_a_new_sweep(folder, reviews, caplog):
    caplog.set_level("INFO", "kdexp")
    reviews()
    assert seeds(folder.sweep(*own(), **SEEDS)) == [2]
    folder.sweep(*own(), **SEEDS)
    assert folder.launched == []
    reviews(times=2)
    summary = folder.sweep(*own(), **SEEDS)
    assert seeds(summary) == [2]
    assert len(folder.launched) == 2
    assert len(summary.left_out) == 1
    assert summary.left_out[0].startswith("2 runs of the sweep of ")
    assert "the data, a model's files or the libraries have changed since" in summary.left_out[0]
    assert "have changed since the sweep of" in caplog.text
    assert [seeds(each) for each in summarize_study(None, "distillation", str(folder.path / "cache"))] == [[2], [2]]


def test_of_a_file_that_the_sweep_itself_varies_the_latest_state_counts(folder, reviews):
    reviews("a.csv"), reviews("b.csv", 2)
    varied = [[f"task.train={name}.csv", f"seed={seed}"] for name in "ab" for seed in (0, 1)]
    sweep = {"swept": ["task.train", "seed"], "varied": varied}
    assert seeds(folder.sweep(*own(), **sweep)) == [2, 2]
    reviews("a.csv", 3)
    summary = folder.sweep(*own(), **sweep)
    assert len(folder.launched) == 2
    assert seeds(summary) == [2, 2]
    (line,) = summary.left_out
    assert line.count("[") == 2
    assert line.endswith("read other data than the latest run")
    assert summary.missing == []


def test_the_files_of_a_model_are_what_a_sweep_is_about(folder, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    model = "student.checkpoint=./model"
    folder.sweep(model, **SEEDS)
    (tmp_path / "model" / "config.json").write_text('{"a": 1}')
    summary = folder.sweep(model, **SEEDS)
    assert seeds(summary) == [2]
    assert len(summary.left_out) == 1


def test_a_job_that_was_mended_is_not_missing(folder, reviews):
    reviews("a.csv")
    sweep = {"swept": ["task.train"], "varied": [["task.train=a.csv"], ["task.train=b.csv"]]}
    with pytest.raises(Exception, match=r"1 of 2 jobs failed(.|\n)*b\.csv"):
        folder.sweep(*own(), **sweep)
    assert [line.partition(":")[0] for line in folder.summary().missing] == ["task.train=b.csv"]
    reviews("b.csv")
    summary = folder.sweep(*own(), **sweep)
    assert summary.missing == []
    assert len(folder.launched) == 1


def test_a_job_that_failed_late_and_was_mended_is_not_missing(folder, reviews):
    """Its file was there when the sweep began, and gone when its turn came."""
    reviews("a.csv"), reviews("b.csv")
    sweep = {"swept": ["task.train"], "varied": [["task.train=a.csv"], ["task.train=b.csv"]]}
    launch = folder.launch

    def lose(jobs, extra):
        text = (folder.path / "b.csv").read_text()
        (folder.path / "b.csv").unlink()
        (folder.path / "b.csv").write_text(text + "so so,no\n")
        return launch(jobs, extra)

    folder.launch = lose
    folder.sweep(*own(), **sweep)
    folder.launch = launch
    summary = folder.sweep(*own(), **sweep)
    assert summary.missing == []
    assert len(summary.table) == 2


def test_a_missing_file_of_all_jobs_is_refused_and_leaves_nothing(folder):
    (folder.path / "mlflow.db").unlink()
    with pytest.raises(UserError, match=r"task\.train.*train\.csv"):
        folder.sweep(*own(), **SEEDS)
    assert not (folder.path / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("swept", "varied"),
    [
        ([], [["seed=2"]]),
        (["loss.temperature"], [["loss.temperature=3", "seed=1"], ["loss.temperature=8", "seed=1"]]),
        (["seed", "loss.temperature"], [["seed=7", "loss.temperature=3"]]),
    ],
)
def test_what_varies_less_joins_the_sweep(swept, varied, folder):
    first = [[f"seed={seed}", f"loss.temperature={value}"] for seed in (0, 1) for value in (1, 2)]
    folder.sweep(swept=["seed", "loss.temperature"], varied=first)
    summary = folder.sweep(swept=swept, varied=varied)
    assert len(summary.runs) == 4 + len(varied)
    assert len([run for run in folder.study.runs() if run.sweep_key]) == 1
    assert summary.missing == []


def test_what_joins_leaves_the_rest_in_its_order(folder):
    """The order decides between settings that are equally good."""
    first = folder.sweep(swept=["loss.alpha"], varied=[["loss.alpha=0.2"], ["loss.alpha=0.5"]])
    assert first.table["validation"].nunique() == 1
    joined = folder.sweep(swept=["loss.alpha"], varied=[["loss.alpha=0.2"], ["loss.alpha=0.9"]])
    assert joined.table["loss.alpha"].tolist() == [0.2, 0.5, 0.9]


@pytest.mark.parametrize(
    ("swept", "varied"),
    [([], [["loss.alpha=0.9"]]), (["seed", "loss.alpha"], [["seed=1", "loss.alpha=0.3"]]), ([], [["loss=dkd"]])],
)
def test_what_varies_something_else_does_not(swept, varied, folder):
    folder.sweep(**SEEDS)
    assert len(folder.sweep(swept=swept, varied=varied).runs) == 1


def test_a_deleted_and_restored_child_counts_once(folder):
    folder.sweep(**SEEDS)
    lost = next(run for run in folder.study.runs() if not run.sweep_key)
    folder.study._client.delete_run(lost.run_id)
    folder.sweep(**SEEDS)
    assert len(folder.launched) == 1
    folder.study._client.restore_run(lost.run_id)
    summary = folder.summary()
    assert seeds(summary) == [2]
    assert summary.counts == {"FINISHED": 2}
    assert [line.rpartition("]")[2] for line in summary.left_out] == [": the same computation again"]


def run(number, data="a", seed="0", **params):
    tags = {"kdexp.config_hash": str(number), "kdexp.data_sha256": data, "kdexp.primary_metric": "accuracy"}
    return StoredRun(f"id{number}", "name", "FINISHED", number, {"seed": seed, **params}, {"test/accuracy": 0.5}, tags)


def test_a_study_without_a_sweep_tells_its_runs_apart_by_whatever_varies():
    counted = count([run(1, train="a"), run(2, train="b"), run(3, train="b", seed="1")], [])
    assert counted.settings == ["train"]
    assert len(counted.records) == 3
    assert counted.left_out == []


def test_what_differs_beside_the_seed_is_a_setting_of_its_own():
    """Two runs of two batch sizes are no two seeds of one setting; a sweep may tie a setting to the seed."""
    runs = [run(1, x="16"), run(2, seed="1", x="32")]
    assert count(runs, []).settings == ["x"]
    assert count(runs, ["seed"]).settings == []
    three = [run(1, x="16", y="a"), run(2, seed="1", x="32", y="b"), run(3, seed="1", x="16", y="a")]
    assert count(three, []).settings == ["x"]  # y says the same


def test_four_and_four_point_zero_are_one_setting():
    counted = count([run(1, T="4", x="1"), run(2, T="4.0", x="2"), run(3, T="4.0", seed="1", x="1")], [])
    assert counted.settings == ["x"]


def test_other_libraries_are_no_second_seed():
    counted = count([run(1), run(2)], ["seed"])
    assert [record.run_id for record in counted.records] == ["id2"]
    assert counted.left_out[0].startswith("name [id1]: computed with other files of a model, or other versions")


def test_runs_that_do_not_say_what_they_read_stay():
    assert len(count([run(1, data=""), run(2, seed="1")], ["seed"]).records) == 2
