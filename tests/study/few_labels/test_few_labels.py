"""The study `few_labels`: the learning curve read backwards, the rungs of its ladder, and what its report says."""

import math

import numpy as np
import pandas as pd
import pytest
from in_process import commands

from kdexp import compose
from kdexp.errors import UserError
from kdexp.study.few_labels.label_worth import Rows, Worth, worth
from kdexp.study.few_labels.report import report_study, rounded, worth_sentence
from kdexp.study.few_labels.study import SWEPT, default_sizes, refuse_several_curves, rungs
from kdexp.study.sweep_key import SweepKey
from kdexp.tracking.store import StoredRun, Study

SIZES = [125, 250, 500, 1000, 2000, 5000]
CURVES = {
    "power law": lambda n: 0.9 - 2.0 * n**-0.4,
    "logistic": lambda n: 0.3 + 0.5 / (1 + np.exp(-1.3 * (np.log(n) - math.log(700)))),
    "nearly flat at the top": lambda n: 0.8 - 0.4 * np.exp(-n / 600),
    "straight over the logarithm": lambda n: 0.3 + 0.07 * np.log(n),
}


def holds(found: Worth, truth: float) -> bool:
    """Whether the interval covers a number of rows."""
    low = -math.inf if found.low.number is None and not found.low.is_more else (found.low.number or math.inf)
    high = math.inf if found.high.is_more else (found.high.number or SIZES[0])
    return low <= truth <= high


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("name", CURVES)
def test_the_interval_covers_the_truth(name, seeds):
    """In at least nine of ten simulations: 200 for each curve, the truth anywhere between the ends and beyond."""
    curve, random, covered = CURVES[name], np.random.default_rng(seeds), 0
    for _ in range(200):
        truth = math.exp(random.uniform(math.log(100), math.log(6500)))
        # What a seed draws is partly common to its students: its labelled rows are nested.
        common = random.normal(0, 0.006, (seeds, 1))
        baseline = curve(np.array(SIZES)) + common + random.normal(0, 0.009, (seeds, len(SIZES)))
        distilled = curve(truth) + common[:, 0] + random.normal(0, 0.007, seeds)
        covered += holds(worth(SIZES, baseline, distilled), truth)
    assert covered >= 180


def test_a_curve_without_chance_is_read_exactly():
    curve = CURVES["straight over the logarithm"]
    baseline = np.tile(curve(np.array(SIZES)), (3, 1))
    found = worth(SIZES, baseline, np.full(3, curve(1400.0)))
    assert found.rows.number == pytest.approx(1400)
    assert found.low is found.high is None  # seeds that do not differ say nothing about chance
    assert worth(SIZES, baseline[:1], np.array([0.5])).low is None
    noise = np.array([[0.01], [-0.01], [0.0]])
    paired = worth(SIZES, baseline + noise, curve(1400.0) + noise[:, 0] + np.array([1e-4, -1e-4, 0]))
    assert paired.high.number - paired.low.number < 40  # what is common to a seed's students is no chance


def test_more_labels_do_no_harm():
    """A dent in the mean is smoothed away, and the fewest rows that reach a score count."""
    baseline = np.array([[0.5, 0.7, 0.6, 0.8, 0.85, 0.9], [0.52, 0.7, 0.62, 0.8, 0.85, 0.9]])
    found = worth(SIZES, baseline, np.array([0.655, 0.655]))
    assert found.rows.number == pytest.approx(250, rel=0.01)


def test_what_lies_beyond_the_ends_is_said_as_such():
    baseline = np.array([[0.5, 0.6, 0.7, 0.8, 0.85, 0.9], [0.51, 0.61, 0.71, 0.81, 0.86, 0.91]])
    above = worth(SIZES, baseline, np.array([0.96, 0.99]))
    assert above.rows == Rows(None, is_more=True) == above.high
    told = worth_sentence(250, above, SIZES)
    assert told.startswith("250 labelled rows and the teacher do ")
    assert told.endswith("more than all 5,000]")
    below = worth(SIZES, baseline, np.array([0.40, 0.42]))
    assert below.rows == Rows(None)
    told = worth_sentence(125, below, SIZES)
    assert told.startswith(
        "125 labelled rows and the teacher do no better than 125 labelled rows without it, the fewest"
    )
    assert "[fewer than 125" in told
    unsure = worth_sentence(250, Worth(Rows(None, is_more=True), Rows(None), Rows(None, is_more=True)), SIZES)
    assert "do at least as well as all 5,000 labelled rows without it, as far as these seeds tell [fewer" in unsure
    unsure = worth_sentence(250, Worth(Rows(None), Rows(None), Rows(3000.0)), SIZES)
    assert "the fewest measured, as far as these seeds tell [fewer than 125, 3,000]" in unsure
    far = worth(SIZES, baseline, np.array([1.9, 1.91001]))
    assert worth_sentence(250, far, SIZES).endswith("without it [more than all 5,000]")
    within = Worth(Rows(1437.0), Rows(912.0), Rows(2349.0))
    assert worth_sentence(250, within, SIZES) == (
        "250 labelled rows and the teacher do as well as about 1,400 labelled rows without it [910, 2,300]"
    )
    assert worth_sentence(250, Worth(Rows(1437.0)), SIZES).endswith("(no interval: it takes two seeds that differ)")
    assert [rounded(number) for number in (7.2, 99.6, 1437)] == [7, 100, 1400]


def test_sizes_follow_the_data():
    assert default_sizes(4000, 5) == [125, 250, 500, 1000]
    assert default_sizes(65_000, 2) == [125, 250, 500, 1000]
    assert default_sizes(9000, 77) == [1000, 2000, 4000]
    assert default_sizes(300, 2) == [125]


def test_the_interval_holds_what_was_found():
    """Seeds that differ much on few rows only: no difference is shown there, and everywhere else there is one."""
    baseline = np.array([[0.1, 0.31, 0.32, 0.33, 0.34, 0.35], [0.5, 0.32, 0.33, 0.34, 0.35, 0.36]])
    found = worth(SIZES, np.vstack([baseline, baseline.mean(axis=0)]), np.array([0.44, 0.46, 0.45]))
    assert found.rows.is_more
    assert (found.low, found.high) == (Rows(None), Rows(None, is_more=True))


@pytest.fixture
def composed(tmp_path, monkeypatch):
    monkeypatch.setenv("KDEXP_CACHE_DIR", str(tmp_path / "cache"))
    lines = [f"row {number} is {'good' if number % 3 else 'bad'},{number % 3 > 0}\n" for number in range(600)]
    (tmp_path / "mine.csv").write_text("text,label\n" + "".join(lines), encoding="utf-8")

    def call(*settings):
        return compose(*settings, "task.subset_seed=0")

    call.own = ("task=file", f"task.train={tmp_path}/mine.csv", "task.text=text", "task.label=label")
    return call


def test_every_rung_has_the_same_rows_to_label(composed):
    ladder = rungs(composed("few_labels.sizes=[100,200]", "task.train_size=800"), ["task.train_size=800"])
    assert ladder[0][:3] == ["task.train_size=100", "task.transfer_size=700", "task.transfer=rest"]
    assert ladder[0][3:] == ["task.validation_size=100", "teacher.learns_from=all"]
    assert ladder[-1][:2] == ["task.train_size=800", "task.transfer_size=0"]
    assert "controls=[]" in ladder[-1]
    assert rungs(composed(), [])[-1][:2] == ["task.train_size=4000", "task.transfer_size=0"]  # ten minutes of a core
    assert rungs(composed(), ["task.train_size=5000"])[-1][0] == "task.train_size=5000"
    typed = ["task.validation_size=300", "teacher.learns_from=train"]
    assert rungs(composed("few_labels.sizes=[100,200]"), typed)[0][3:] == []
    own = rungs(composed(*composed.own), [])
    assert own[0] == [
        "task.train_size=125",
        "task.transfer=rest",
        "task.validation_size=60",
        "teacher.learns_from=all",
    ]
    assert [rung[0] for rung in own] == ["task.train_size=125", "task.train_size=250", "task.train_size=null"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("few_labels.sizes=[200,100]",), r"few_labels\.sizes: got \[200, 100\], of 4,000 rows; expected ascending"),
        (("few_labels.sizes=[]",), r"few_labels\.sizes: got \[\], of 4,000 rows; expected ascending"),
        (("task.transfer_size=7",), r"task\.transfer_size: has no effect: .*; set the number of both together"),
        (("few_labels.sizes=[100,5000]",), r"few_labels\.sizes: got .* below 4000"),
        (("few_labels.labelled=300",), r"few_labels\.labelled: got 300; expected one of 125, 250"),
        (("loss=ce",), r"loss: ce takes nothing from the teacher's answers; choose another"),
        (("baseline=false",), r"baseline: got false, but labelled rows are counted by it"),
        (("tracking=none",), r"tracking: is off, and the study is read from it"),
        (("task.transfer=rest",), r"task\.transfer: is set by the study"),
        (("own", "task.train_size=300"), r"task\.train_size: is what the study varies; name its sizes"),
    ],
)
def test_mistakes_are_told_before_anything_starts(composed, settings, problem):
    if settings[0] == "own":
        settings = (*composed.own, *settings[1:])
    with pytest.raises(UserError, match=problem):
        rungs(composed(*settings), [word for word in settings if word.startswith("task.transfer_size")])


class Parent:
    """What a sweep's own run would take."""

    def __init__(self):
        self.texts, self.metrics, self.tags, self.tables, self.figures = {}, {}, {}, {}, []

    def log_text(self, text, path):
        self.texts[path] = text

    def log_table(self, table, path):
        self.tables[path] = table

    def log_figure(self, figure, path):
        self.figures.append(path)

    def log_metrics(self, metrics, step=None):
        self.metrics[step] = metrics

    def set_tags(self, tags):
        self.tags |= tags


def stored(size, seed, **params):
    all_labels = size == 5000
    base = {125: 0.5, 250: 0.55, 500: 0.62, 5000: 0.8}[size] + 0.01 * seed
    scores = {"baseline": base, "student": base if all_labels else 0.6 + size / 1e4 + 0.012 * seed, "teacher": 0.85}
    scores |= {} if all_labels else {"control/pseudo_labels": 0.59 + 0.01 * seed}
    metrics = {f"{'' if role == 'student' else role + '/'}test/accuracy": value for role, value in scores.items()}
    tags = {"kdexp.train_rows": str(size), "kdexp.validation_rows": "125", "kdexp.primary_metric": "accuracy"}
    shown = {"seed": str(seed), "loss.alpha": "1" if all_labels else "0.3", "teacher.name": "bert"}
    shown |= {"task.subset_seed": "None" if all_labels else str(seed)}
    shown |= {"teacher.learns_from": "train" if all_labels else "all"} | params
    return StoredRun(
        f"{size} {seed}",
        "name",
        "FINISHED",
        0,
        shown,
        metrics | {"cost/teacher_train_seconds": 5.0, "cost/student_steps": 1000.0},
        tags | {"kdexp.config_hash": f"{size} {seed}"},
    )


def test_the_report_says_one_sentence_and_what_it_speaks_of(capsys, monkeypatch):
    monkeypatch.setenv("KDEXP_CACHE_DIR", "nowhere")
    parent = Parent()
    runs = [stored(size, seed) for size in (125, 250, 500, 5000) for seed in (0, 1, 2)] + [stored(125, 3)]
    report_study(runs, parent, compose("task.train_size=5000"))
    said = capsys.readouterr().out
    sentence = parent.tags["kdexp.verdict.few_labels"]
    assert sentence.startswith("250 labelled rows and the teacher do as well as about 540 labelled rows without it [")
    assert sentence in said
    assert "The teacher (bert, a compact model from scratch) learned from all 5,000 labels" in said
    assert "Each training keeps the best epoch on 125 further labelled rows." in said
    assert "Every student was trained for 1,000 steps, whatever it learned from; none was tuned." in said
    assert "have not finished every size: seeds 3" in said
    assert (
        "without a teacher 56.00, with its hard answers 60.00, with its probabilities 63.70, the teacher 85.00" in said
    )
    assert parent.figures == ["few_labels/curves.png"]
    assert sentence in parent.texts["few_labels/report.md"]
    assert isinstance(parent.tables["few_labels/curves.csv"], pd.DataFrame)
    assert parent.metrics[250]["few_labels/distilled"] == pytest.approx(0.637)
    assert parent.metrics[250]["few_labels/worth"] == pytest.approx(540, rel=0.05)
    assert set(parent.metrics[5000]) == {"few_labels/baseline", "few_labels/baseline_low", "few_labels/baseline_high"}
    chosen = Parent()
    report_study(runs, chosen, compose("few_labels.labelled=500"))
    assert chosen.tags["kdexp.verdict.few_labels"].startswith("500 labelled rows")


@pytest.mark.parametrize(
    ("params", "seconds", "said"),
    [
        (
            {"teacher.learns_from": "train", "teacher.checkpoint": "m"},
            5.0,
            "(bert, pretrained) learned from the same few",
        ),
        (
            {"teacher.checkpoint": "org/model"},
            0.0,
            "The teacher (org/model) was given: it had learned the task before.",
        ),
    ],
)
def test_the_sentence_names_the_kind_of_teacher(capsys, params, seconds, said):
    runs = [stored(size, seed, **params) for size in (125, 250, 5000) for seed in (0, 1)]
    for run in runs:
        run.metrics["cost/teacher_train_seconds"] = seconds
    report_study(runs, Parent(), compose())
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("seeds", "params", "said"),
    [
        ((0,), {}, "One seed and one choice of labelled rows: nothing is said of others"),
        ((0, 1), {"task.subset_seed": "7"}, "2 seeds on the same labelled rows: the interval speaks of other seeds, "),
    ],
)
def test_what_the_interval_covers_is_what_was_drawn(capsys, seeds, params, said):
    report_study([stored(size, seed, **params) for size in (125, 250, 5000) for seed in seeds], Parent(), compose())
    out = capsys.readouterr().out
    assert said in out
    assert "labelled rows of its own" not in out


def test_one_curve_is_of_one_setting():
    refuse_several_curves(["seed"])
    with pytest.raises(UserError, match=r"loss\.alpha: has several values, but the study draws the curves of one"):
        refuse_several_curves(["seed", "loss.alpha"])


def test_other_rows_to_label_are_another_study(composed):
    """Their runs would stand in one curve, as if they had the same text."""

    def key(*settings):
        return SweepKey.of(composed(*settings), [*SWEPT, "seed"], "few_labels").digest

    first = key("task.train_size=100", "task.transfer_size=200")
    assert key("task.train_size=300", "task.transfer_size=0") == first
    assert key("task.train_size=100", "task.transfer_size=100") != first
    assert key("task.train_size=100", "task.transfer_size=200", "seed=3") != first  # not tied to the run's


def test_what_is_not_finished_is_no_curve(caplog):
    report_study([stored(125, 0), stored(250, 1)], Parent(), compose())
    assert "no seed has finished two sizes yet" in caplog.text


kdexp = pytest.fixture(commands)


@pytest.mark.slow
def test_the_whole_study_runs_and_continues(kdexp, tmp_path):
    small = ("task.train_size=300", "task.test_size=60", "few_labels.sizes=[60]", "teacher.chance_check=false")
    quick = ("train.epochs=1", "teacher.train.epochs=1", "hardware=cpu", "hardware.num_threads=1")
    store = f"tracking.uri=sqlite:///{tmp_path}/mlflow.db"
    planned = kdexp("experiment=few_labels", *small, *quick, store, "seed=0,1", "--plan")
    assert "4 jobs, 4 computations" in planned.out
    first = kdexp("experiment=few_labels", *small, *quick, store, "seed=0")
    assert first.code == 0, first.err
    assert first.out.count("labelled rows and the teacher") == 1
    again = kdexp("experiment=few_labels", *small, *quick, store, "seed=0,1")
    assert "2 of 4 jobs are finished already" in again.err
    assert again.out.count("labelled rows and the teacher") == 1
    assert "2 seeds, each with labelled rows of its own" in again.out
    study = Study(f"sqlite:///{tmp_path}/mlflow.db", "few_labels")
    (parent,) = [run for run in study.runs() if "kdexp.sweep_key" in run.tags]
    assert "kdexp.verdict.few_labels" in parent.tags
    assert {"few_labels/baseline", "few_labels/pseudo_labels", "few_labels/distilled"} <= set(parent.metrics)
    jobs = study.runs(parent=parent.run_id)
    assert len({run.tags["kdexp.teacher_sha256"] for run in jobs}) == 1  # one teacher, whichever rows are labelled
