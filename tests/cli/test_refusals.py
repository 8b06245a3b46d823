"""A refused command leaves nothing; what is written lies where the command was started, and below multirun/."""

import pytest

from kdexp.cli.folders import discard, folder_name

FILES = ("mlflow.db", "multirun", "mlruns")


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if path.name != "cache")


@pytest.mark.parametrize(
    "arguments",
    [
        ("loss.alpha=2",),
        ("task=file", "task.train=nowhere.csv"),
        ("teacher.checkpoint=./nowhere",),
        ("tracking.uri=http://127.0.0.1:9",),
        ("study=' '",),
        ("-m", "loss.alpha=2,3"),
        ("-m", "task=file", "task.train=nowhere.csv", "seed=0,1"),
        ("-m", "loss.alpha=interval(0,1)"),
        ("experiment=search", "tracking=none"),
        ("-m", "tracking.uri=http://127.0.0.1:9", "seed=0,1"),
    ],
)
def test_a_refused_command_leaves_no_folder(arguments, command, tmp_path):
    assert command(*arguments).refusal
    assert left(tmp_path) == []


def test_a_persons_own_folder_stays(command, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    command("loss.alpha=2", "hydra.run.dir=out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    command("loss.alpha=2", "hydra.run.dir=.")
    assert "out" in left(tmp_path)


@pytest.mark.parametrize("name", ["notes.txt", "a/b.yaml", "model.yaml", ".hydra/x/y.yaml"])
def test_what_hydra_did_not_write_is_not_removed(name, tmp_path):
    folder = tmp_path / "multirun" / "x"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).touch()
    discard(folder)
    assert (folder / name).exists()


@pytest.mark.parametrize(
    "study", ["../x", "..", "/etc/x", "a/../../../x", "~", ".", "a\nb", "x" * 400, "C:\\x", "...", "${x}", "ümläut"]
)
def test_a_study_is_one_folder_whatever_it_is_called(study, tmp_path):
    name = folder_name(study)
    assert (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert name.strip(". ")
    (tmp_path / name).mkdir()


@pytest.mark.parametrize("study", ["../x", "a/../../x"])
def test_a_study_never_writes_outside_of_multirun(study, command, log_only, tmp_path):
    answer = command(f"study={study}")
    assert answer.code == 0, answer.err
    assert set(left(tmp_path)) <= {*FILES, ".mlflow.db.lock"}
    assert len(list((tmp_path / "multirun").iterdir())) == 1
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize("words", [(), ("-m", "seed=0,1")])
def test_with_chdir_the_store_and_the_files_are_where_the_command_was_started(words, command, log_only, tmp_path):
    rows = [f"good {number},yes\nbad {number},no\n" for number in range(40)]
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(rows))
    own = ("task=file", "task.train=train.csv", "task.text=text", "task.label=label")
    answer = command("hydra.job.chdir=true", *own, *words)
    assert answer.code == 0, answer.err
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("mlflow.db")] == [type(tmp_path)("mlflow.db")]


def test_mlflows_own_environment(command, log_only, monkeypatch, tmp_path):
    from kdexp.tracking.store import Study

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    monkeypatch.setenv("MLFLOW_RUN_ID", "0123")
    answer = command()
    assert "MLFLOW_RUN_ID=0123 is not used" in answer.err
    assert len(Study(None, "theirs", create=False).runs()) == 1
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "")
    assert command().code == 0
    assert len(Study(None, "distillation", create=False).runs()) == 1


def test_a_study_goes_before_mlflows_environment(command, log_only, monkeypatch):
    from kdexp.tracking.store import Study

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "theirs")
    assert command("study=mine").code == 0
    assert len(Study(None, "mine", create=False).runs()) == 1


@pytest.mark.parametrize(
    ("arguments", "refusal"),
    [
        (
            ("train.class_weights=heavy",),
            "train.class_weights: got heavy; expected none, balanced, or a number above 0",
        ),
        (("train.class_weights=[1,0]",), "train.class_weights: got [1, 0]; expected none, balanced, or a number"),
        (
            ("train.class_weights=[1,2]",),
            "train.class_weights: got 2 numbers for 5 classes; expected none, balanced, or",
        ),
        (("teacher.train.class_weights=[1,2]",), "teacher.train.class_weights: got 2 numbers for 5 classes"),
        (
            ("task.primary_metric=nll",),
            "task.primary_metric: got nll, which is none of a single_label task's; expected",
        ),
        (
            ("task=file", "task.kind=many", "task.train=rows.csv"),
            "task.kind: got 'many'; expected one of single_label,",
        ),
        (
            (*("task=file", "task.kind=regression", "task.train=rows.csv"), "loss=kd"),
            "loss: kd compares classes of which",
        ),
        (
            ("task=file", "task.kind=regression", "task.train=rows.csv", "train.label_smoothing=0.1"),
            "train.label_smoothing: got 0.1, but numbers cannot be smoothed",
        ),
        (
            ("task=file", "task.kind=regression", "task.train=rows.csv", "train.class_weights=balanced"),
            "train.class_weights: got balanced, but a regression task has no classes; expected none",
        ),
        (("loss=huber", "loss.delta=0"), "loss.delta: got 0"),
        (("loss=huber",), "loss: huber compares a number, but here the logits say classes of which one is right"),
    ],
)
def test_what_a_kind_of_task_cannot_do_is_one_line(arguments, refusal, command, tmp_path):
    rows = "".join(f"text number {number},{number % 7}\n" for number in range(60))
    (tmp_path / "rows.csv").write_text(f"text,label\n{rows}", encoding="utf-8")
    small = (
        ()
        if arguments[0] == "task=file"
        else ("task.train_size=60", "task.validation_size=20", "task.test_size=20", "task.transfer_size=0")
    )
    assert refusal in command(*arguments, *small).refusal
    assert left(tmp_path) == ["rows.csv"]
