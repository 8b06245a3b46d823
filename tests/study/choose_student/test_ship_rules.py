"""Which student ships: the front, the choice within a budget on validation, and what it cost."""

import pytest

from kdexp.results.record import RunRecord, Scores
from kdexp.results.shipped import Shipped
from kdexp.study.choose_student.rules import choose, front, options
from kdexp.study.choose_student.study import front_figure, report


def run(student, file, teacher=0.9, baseline=0.7, *, ms=1.0, mb=1.0):
    scores = {
        "student": Scores({"accuracy": file[0]}, {"accuracy": file[1]}),
        "teacher": Scores({"accuracy": teacher}, {"accuracy": teacher}),
        "baseline": Scores({"accuracy": baseline}, {"accuracy": baseline}),
        "export/onnx": Scores({"accuracy": file[0]}, {"accuracy": file[1]}),
    }
    return RunRecord(student, "accuracy", scores, shipped={"onnx": Shipped(facts={"p50_ms": ms, "size_mb": mb})})


RECORDS = {
    "large": [run("large", (0.85, 0.80), ms=4, mb=9), run("large", (0.87, 0.83), ms=4.2, mb=9)],
    "small": [run("small", (0.80, 0.79), ms=1, mb=2), run("small", (0.80, 0.81), ms=1.2, mb=2)],
    "worse": [run("worse", (0.75, 0.95), ms=2, mb=3), run("worse", (0.75, 0.95), ms=2, mb=3)],
}


def test_the_front_is_of_validation_and_cost():
    found = options(RECORDS)
    assert [option.student for option in front(found, "latency_ms")] == ["small", "large"]
    assert [option.student for option in front(found, "size_mb")] == ["small", "large"]


@pytest.mark.parametrize(
    ("latency_ms", "size_mb", "chosen"),
    [(None, None, "large"), (2.0, None, "small"), (None, 3.0, "small"), (5.0, 9.0, "large"), (0.5, None, None)],
)
def test_the_choice_sees_validation_and_the_budget_alone(latency_ms, size_mb, chosen):
    option = choose(options(RECORDS), latency_ms, size_mb)
    assert (option and option.student) == chosen


def test_what_the_chosen_one_costs_and_where_it_comes_from():
    small = choose(options(RECORDS), 2.0, None)
    assert small.behind_teacher().mean == pytest.approx(-10)
    assert small.smaller_model().mean == pytest.approx(-20)
    assert small.gain().mean == pytest.approx(10)
    assert small.gain().interval.low < 10 < small.gain().interval.high
    assert small.behind_teacher().mean == pytest.approx(small.smaller_model().mean + small.gain().mean)


def test_the_report_says_front_choice_cost_and_reason(capsys):
    from kdexp import compose
    from kdexp.tracking.run import TrackedRun

    logged = {}

    class Parent(TrackedRun):
        def log_text(self, text, path):
            logged[path] = text

        def log_table(self, table, path):
            logged[path] = table

        def log_figure(self, figure, path):
            logged[path] = figure

        def set_tags(self, tags):
            logged.update(tags)

    report(RECORDS, Parent(), compose("budget.latency_ms=2"))
    shown = capsys.readouterr().out
    assert "chosen on validation within the budget (latency_ms=2): small, onnx (1.10 ms, 2.0 MB)" in shown
    assert "it costs -10.00" in shown
    assert "the smaller model alone costs -20.00" in shown
    assert logged["kdexp.chosen_student"] == "small, onnx"
    assert {"choose_student/latency_ms.png", "choose_student/size_mb.png", "choose_student/report.html"} <= set(logged)
    assert len(logged["choose_student/options.csv"]) == 3


def test_nothing_within_the_budget_says_what_the_least_is(capsys):
    from kdexp import compose
    from kdexp.tracking.run import TrackedRun

    report(RECORDS, TrackedRun(), compose("budget.size_mb=1"))
    assert (
        "nothing is within the budget (size_mb=1): the least are latency_ms=1.1, size_mb=2" in capsys.readouterr().out
    )
    assert front_figure(options(RECORDS), "size_mb", "accuracy", None).axes
