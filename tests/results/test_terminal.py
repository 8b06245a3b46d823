"""What the terminal says at the end of a run."""

from dataclasses import replace

import pytest

from kdexp.results import wording
from kdexp.results.record import ClassCount, RunRecord, Scores
from kdexp.results.statistics import Gain
from kdexp.results.terminal import print_line, print_result


def scores(accuracy: float, num_parameters: int | None = 1234567) -> Scores:
    metrics = {"accuracy": accuracy, "macro_f1": accuracy - 0.01, "nll": 1 - accuracy, "ece": 0.0421}
    return Scores(metrics, metrics, num_parameters)


RECORD = RunRecord(
    name="roberta -> bert  kd a=0.5 T=4  s0",
    metric="accuracy",
    scores={"teacher": scores(0.85, 4_500_000), "student": scores(0.731), "baseline": scores(0.7)},
    gain=Gain(0.031, 0.012, 0.05),
    retention=0.86,
    agreement={"student": 0.9, "baseline": 0.8},
    costs={"seconds": 12.6},
    teacher_unchanged=True,
    num_test_rows=2000,
    url="http://127.0.0.1:5000/#/experiments/1/runs/abc",
    experiment_url="http://127.0.0.1:5000/#/experiments/1",
)


def printed(capsys, record: RunRecord = RECORD, ui_command: str = "mlflow ui") -> list[str]:
    print_result(record, ui_command, "~/.cache/kdexp")
    return capsys.readouterr().out.splitlines()


def test_a_result_piped_into_a_file_is_whole(capsys):
    lines = printed(capsys)
    assert lines[1].strip() == RECORD.name
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert cells == [
        ["teacher", "85.00%", "84.00%", "0.150", "0.042", "4,500,000", ""],
        ["baseline student", "70.00%", "69.00%", "0.300", "0.042", "1,234,567", "80.0%"],
        ["distilled student", "73.10%", "72.10%", "0.269", "0.042", "1,234,567", "90.0%"],
    ]
    assert lines[9:] == [
        "gain      +3.10 points over the same student without a teacher "
        "(95 % [+1.20, +5.00] over 2,000 test rows): this student is better than its baseline",
        "          +3.10 points of macro-F1",
        "          one seed does not settle whether distillation helped: repeat with -m seed=0,1,2,3,4",
        "agreement 90.0% of test rows answered as the teacher answers them; ECE is the calibration error",
        "retention 86.0% of the teacher's accuracy",
        "",
        "done in   13 s; teacher's weights unchanged: yes (SHA-256 before and after)",
        "browse    mlflow ui   then open http://127.0.0.1:5000/#/experiments/1/runs/abc",
        "compare   http://127.0.0.1:5000/#/experiments/1",
        "kept in   ~/.cache/kdexp (teachers, their logits, students)",
    ]
    print_line(RECORD)
    assert capsys.readouterr().out == (
        "roberta -> bert  kd a=0.5 T=4  s0: validation 73.10%, test 73.10%, gain +3.10 points (13 s)\n"
    )


def test_every_role_has_a_row_those_that_are_not_known_by_their_name(capsys):
    more = {"teacher_bert": scores(0.8), "control/noise": scores(0.5), "export/onnx": scores(0.73, None)}
    record = replace(RECORD, scores=RECORD.scores | more, agreement=RECORD.agreement | {"teacher_bert": 0.77})
    rows = [line.strip("│").split("│") for line in printed(capsys, record) if line.startswith("│")]
    assert [row[0].strip() for row in rows] == [
        *("teacher bert", "teachers together", "baseline student", "distilled student"),
        *("control/noise", "onnx file"),
    ]
    assert rows[0][-1].strip() == "77.0%"


def test_what_was_not_measured_is_not_told(capsys):
    alone = {role: Scores({}, {"spearman": 0.5}) for role in ("teacher", "student")}
    record = RunRecord("run", "spearman", alone, agreement={"student": 0.5}, costs={"seconds": 1.0})
    text = "\n".join(printed(capsys, record))
    assert "test spearman" in text
    assert "0.500" in text
    for words in ("gain", "ECE", "NLL", "retention", "browse", "compare"):
        assert words not in text
    assert "unchanged: NO" in text


def test_a_server_is_opened_without_a_command(capsys):
    assert f"browse    open {RECORD.url}" in printed(capsys, ui_command="http://127.0.0.1:5000")


def test_nothing_is_nothing_on_neither_side():
    assert wording.points(-1e-9) == wording.points(0.0) == "+0.00"
    assert wording.interval(-0.001, 0.126) == "[+0.00, +0.13]"
    assert wording.interval(float("nan"), float("nan")) == ""
    assert wording.mean_and_spread(0.832, float("nan"), "accuracy", with_unit=True) == "83.20 %"
    assert wording.mean_and_spread(0.832, 0.001, "accuracy") == "83.20 ± 0.10"
    assert wording.mean_and_spread(0.832, 0.001, "pearson", with_unit=True) == "0.8320 ± 0.0010"
    assert (wording.points_of("map"), wording.points_of("pearson")) == ("points", "hundredths of Pearson")


@pytest.mark.parametrize("settings", [{"loss.name": "ce"}, {"loss.name": "kd", "loss.alpha": "1.0"}])
def test_a_student_that_takes_nothing_from_the_teacher_has_no_gain(capsys, settings):
    lines = printed(capsys, replace(RECORD, gain=Gain(0.0, 0.0, 0.0), settings=settings))
    (line,) = [line for line in lines if line.startswith("gain")]
    assert line.endswith("none to tell: with this loss the student takes nothing from the teacher, as its baseline")
    assert not [line for line in lines if "few_labels" in line or "one seed" in line]
    lines = printed(capsys, replace(RECORD, settings=settings | {"terms": "rkd"}))
    assert any("+3.10" in line for line in lines)


def test_a_small_gain_points_at_where_a_teacher_does_more(capsys):
    small = replace(RECORD, gain=Gain(0.008, -0.004, 0.02))
    (line,) = [line for line in printed(capsys, small) if "few_labels" in line]
    assert line.strip().endswith("more text it may do more: add experiment=few_labels to this command")
    with_text = replace(small, settings={"train.use_transfer": "True"})
    # A student that answers one class only learned nothing, from nobody.
    stuck = replace(small, classes={"student": {"a": ClassCount(2, 2, 4), "b": ClassCount(2, 0, 0)}})
    for record in (RECORD, with_text, stuck):
        assert not [line for line in printed(capsys, record) if "few_labels" in line]
