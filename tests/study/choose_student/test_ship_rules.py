"""Which student ships: the front, the choice within a budget on validation, and what it cost."""

import pytest

from kdexp import compose
from kdexp.errors import UserError
from kdexp.export.config import BudgetConfig
from kdexp.results.record import RunRecord, Scores
from kdexp.results.shipped import Shipped
from kdexp.study.choose_student.candidates import candidate_overrides
from kdexp.study.choose_student.report import front_figure
from kdexp.study.choose_student.rules import choose_option, complete, front, options
from kdexp.study.choose_student.study import report
from kdexp.tracking.run import TrackedRun


def run(student, file, seed=0, *, ms=1.0, mb=1.0):
    validation, test = file
    scores = {
        "student": Scores({"accuracy": validation}, {"accuracy": test}),
        "teacher": Scores({"accuracy": 0.9}, {"accuracy": 0.9}),
        "baseline": Scores({"accuracy": 0.7}, {"accuracy": 0.7}),
        "export/onnx": Scores({"accuracy": validation}, {"accuracy": test}),
    }
    facts = {"p50_ms": ms, "size_mb": mb}
    return RunRecord(student, "accuracy", scores, {"seed": str(seed)}, shipped={"onnx": Shipped(facts=facts)})


def runs(student, *files, **costs):
    return [run(student, file, seed, **costs) for seed, file in enumerate(files)]


RECORDS = {
    "large": runs("large", (0.85, 0.80), (0.87, 0.83), ms=4, mb=9),
    "small": runs("small", (0.80, 0.79), (0.80, 0.81), ms=1, mb=2),
    "worse": runs("worse", (0.75, 0.95), (0.75, 0.95), ms=2, mb=3),
}


def chosen(records=RECORDS, planned=(), **budget):
    found = choose_option(options(records), BudgetConfig(**budget), planned)
    return found and found.option


def test_the_front_is_of_validation_and_cost():
    found = options(RECORDS)
    assert [option.student for option in front(found, "latency_ms")] == ["small", "large"]
    assert [option.student for option in front(found, "size_mb")] == ["small", "large"]


@pytest.mark.parametrize(
    ("latency_ms", "size_mb", "student"),
    [(None, None, "large"), (2.0, None, "small"), (None, 3.0, "small"), (5.0, 9.0, "large"), (0.5, None, None)],
)
def test_the_choice_sees_validation_and_the_budget_alone(latency_ms, size_mb, student):
    option = chosen(latency_ms=latency_ms, size_mb=size_mb)
    assert (option and option.student) == student


def test_the_faster_of_equals_is_chosen_and_the_other_is_nowhere_near_as_cheap():
    records = {
        "slow": runs("slow", (0.8, 0.8), (0.8, 0.8), ms=3, mb=3),
        "fast": runs("fast", (0.8, 0.8), (0.8, 0.8), ms=2, mb=3),
    }
    found = choose_option(options(records), BudgetConfig())
    assert (found.option.student, found.near) == ("fast", [])


def test_what_is_as_good_within_a_standard_error_and_cheaper_is_named():
    records = {
        "large": runs("large", (0.85, 0.8), (0.81, 0.8), (0.84, 0.8), ms=4, mb=9),
        "small": runs("small", (0.81, 0.8), (0.84, 0.8), (0.84, 0.8), ms=1, mb=2),
        "huge": runs("huge", (0.81, 0.8), (0.84, 0.8), (0.84, 0.8), ms=5, mb=10),
        "poor": runs("poor", (0.7, 0.8), (0.7, 0.8), (0.7, 0.8), ms=1, mb=1),
    }
    found = choose_option(options(records), BudgetConfig())
    assert found.option.student == "large"
    assert [option.student for option in found.near] == ["small"]


def test_a_student_that_lacks_a_seed_does_not_compete():
    records = RECORDS | {"lucky": runs("lucky", (0.99, 0.99))}
    found = options(records)
    assert [option.student for option in complete(found, {"0", "1"})] == ["large", "small", "worse"]
    assert chosen(records, {"0", "1"}).student == "large"
    assert complete(options({"lucky": records["lucky"]}), {"0", "1"})


def test_what_the_chosen_one_costs_and_where_it_comes_from():
    small = chosen(latency_ms=2.0)
    assert small.behind_teacher().mean == pytest.approx(-10)
    assert small.smaller_model().mean == pytest.approx(-20)
    assert small.gain().mean == pytest.approx(10)
    assert small.gain().interval.low < 10 < small.gain().interval.high
    assert small.behind_teacher().mean == pytest.approx(small.smaller_model().mean + small.gain().mean)


class Parent(TrackedRun):
    """A parent run that keeps what is logged to it."""

    def __init__(self):
        super().__init__()
        self.logged = {}

    def log_text(self, text, path):
        self.logged[path] = text

    log_table = log_figure = log_text

    def set_tags(self, tags):
        self.logged.update(tags)


def test_the_report_says_front_choice_cost_and_reason(capsys):
    parent, records = Parent(), RECORDS | {"lucky": runs("lucky", (0.99, 0.99))}
    commands = {name: f"python -m kdexp student={name}" for name in records}
    report(records, parent, compose("budget.latency_ms=2"), planned={"0", "1"}, commands=commands)
    shown, logged = " ".join(capsys.readouterr().out.split()), parent.logged
    assert "chosen on validation within the budget (latency_ms=2): small, onnx (1.00 ms, 2.0 MB)" in shown
    assert "against the teacher, on test: -10.00" in shown
    assert "the smaller model alone makes -20.00" in shown
    assert "distillation adds +10.00" not in shown  # over two seeds the interval holds zero
    assert "not compared, since not finished on every seed: lucky, onnx" in shown
    assert "python -m kdexp student=small export=onnx" in shown
    assert logged["kdexp.chosen_student"] == "small, onnx"
    assert {"choose_student/latency_ms.png", "choose_student/size_mb.png", "choose_student/report.html"} <= set(logged)
    table = logged["choose_student/options.csv"].set_index("student")
    assert table.loc["small", "test accuracy, %"].startswith("80.00 [")
    assert table.loc["large", "front"] == "latency size"
    assert table.loc["lucky", "front"] == ""


def test_nothing_within_the_budget_says_what_the_least_is(capsys):
    report(RECORDS, TrackedRun(), compose("budget.size_mb=1"))
    least = "nothing is within the budget (size_mb=1): the least are latency_ms=1, size_mb=2"
    assert least in " ".join(capsys.readouterr().out.split())


def test_the_front_is_drawn_through_its_options_with_intervals_and_the_teacher():
    (axes,) = front_figure(options(RECORDS), "size_mb", "accuracy", None).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert set(lines["teacher"].get_ydata()) == {90.0}
    drawn = next(line for line in axes.get_lines() if line.get_linestyle() == "-" and len(line.get_xdata()) == 2)
    assert drawn.get_xdata().tolist() == [2, 9]
    assert drawn.get_ydata() == pytest.approx([80.0, 81.5])
    assert len(axes.collections) == 1  # the intervals
    assert axes.get_xscale() == "log"


def overrides(*candidates):
    listed = ",".join(f'"{candidate}"' for candidate in candidates)
    return candidate_overrides(compose(f"candidates=[{listed}]", "export=onnx"))


def test_a_candidate_may_be_a_grid():
    found = overrides("student=bert student.num_layers=1,2 student.hidden_size=16,32", "student=static")
    assert list(found) == ["bert 1 layer 16 wide", "bert 1 layer 32 wide", "bert 2 layers 16 wide",
                           "bert 2 layers 32 wide", "static"]  # fmt: skip
    assert found["bert 2 layers 16 wide"] == ["student=bert", "student.num_layers=2", "student.hidden_size=16"]


def test_a_list_between_brackets_is_one_value():
    found = overrides("student=bert student.init=teacher_layers,pretrained_layers student.layers=[0,2]")
    assert list(found) == ["bert init=teacher_layers layers=[0,2]", "bert init=pretrained_layers layers=[0,2]"]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["candidates=[]", "export=onnx"], "candidates: is empty; name students:"),
        (["candidates=['student=bert loss=ce']", "export=onnx"], "candidates: got loss=ce; expected settings of the"),
        (["candidates=['student=']", "export=onnx"], "candidates: got student=; expected settings"),
        (["candidates=['']", "export=onnx"], "candidates: got ''; expected settings"),
        (["candidates=['students=bert']", "export=onnx"], "candidates: got students=bert; expected settings"),
        (["candidates=['student=bert']"], "export: is none, and the study chooses among files"),
        (["candidates=['student=bert']", "export=onnx", "baseline=false"], "baseline: is false, and the study"),
        (["budget.latency_ms=0"], "budget.latency_ms: got 0.0; expected a finite number above 0"),
        (["budget.size_mb=-1"], "budget.size_mb: got -1.0; expected a finite number above 0"),
        (["budget.size=1"], "budget.size: no such setting"),
    ],
)
def test_what_no_study_can_be_is_refused(settings, told):
    with pytest.raises(UserError) as refused:
        candidate_overrides(compose(*settings))
    assert told in str(refused.value)
